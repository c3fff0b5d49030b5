"""What the TypeScript compiler finds in programs that use the packages."""

import re
from pathlib import Path

import pytest

from tests.support import node
from tests.support.code_blocks import Block, blocks
from tests.support.reference import browser_types

RIGHT = """
import { Tidings, TidingsError, type NewGroup, type NewPrediction, type Prediction } from "@tidings/client";
import type * as api from "@tidings/client/api";

type Picture = { url: string; width: number };
const tidings = new Tidings("https://tidings.example", { token: async () => "t" });
tidings.watch<Picture>("p1", (record) => {
  if (record.deleted) return;
  const width: number | undefined = record.output?.width;
  console.log(width, record.status, record.progress);
});
for await (const record of tidings.watch<string[]>({ owner: "ada", limit: 5 })) {
  if (!record.deleted) console.log(record.output?.join());
}
const done: Prediction<Picture> = await tidings.finished<Picture>("p1");
const order: NewPrediction = { provider: "replicate", model: "a/b", prompt: "a cat", tags: ["x"] };
const made = await tidings.create(order, { idempotencyKey: "k" });
const { data, cursor } = await tidings.list<Picture>({ status: "failed", limit: 10 });
console.log(done.output?.url, made.predictionId, data[0]?.output?.url, cursor?.length);
const asked = await tidings.get("p1");
if (asked.waiting) await tidings.answer("p1", { size: 1 }, { questionNumber: asked.questionNumber });
await tidings.cancel("p1").catch((error: unknown) => {
  if (error instanceof TidingsError) console.log(error.code);
});
const second = await tidings.retry<Picture>("p1", { provider: "fal" });
const group: NewGroup = { provider: "fal", model: "a/b", orders: [{ prompt: "a cat" }, { prompt: "a dog" }] };
const herons = await tidings.create(group);
const members = await tidings.list<Picture>({ group: herons.predictionId });
const grouped: api.NewGroup = group;
console.log(second.output?.url, members.data.length, grouped);
tidings.addEventListener("state", ({ detail }) => console.log(detail.state));

// What the service says of itself in OpenAPI is what the client hands out and takes. Of some members it says nothing.
type Said<T> = { [Name in keyof T as unknown extends T[Name] ? never : Name]: T[Name] };
declare const answer: Said<api.Prediction>;
const records: Pick<Prediction, keyof Said<api.Prediction>>[] = [answer];
const every: keyof Prediction = "" as keyof api.Prediction;
const body: api.NewPrediction = order;
console.log(records, every, body);
"""
HOOKS = """
import { TidingsProvider, usePrediction, usePredictions, useText, useTidings } from "@tidings/react";

type Picture = { url: string };
function Show({ id }: { id: string | undefined }) {
  const { prediction, deleted, error, loading } = usePrediction<Picture>(id);
  const { predictions } = usePredictions<Picture>({ owner: "ada" });
  const { text, done } = useText(id);
  const tidings = useTidings();
  if (deleted || error) return <p>{error?.message ?? "gone"}</p>;
  return (
    <button disabled={loading} onClick={() => void tidings.cancel("p1")}>
      {prediction?.output?.url} {done ? text.trim() : text} {predictions.map((one) => one.output?.url)}
    </button>
  );
}
export const app = (
  <TidingsProvider url="https://tidings.example" token={async () => "t"}>
    <Show id="p1" />
  </TidingsProvider>
);
"""
WRONG = {
    "class": ("new Tidings(", "new Tiding("),
    "option": ("token:", "tokn:"),
    "selection": ("owner:", "onwer:"),
    "member": ("record.progress", "record.progres"),
    "output": ("output?.width", "output?.wdith"),
    "order": ("prompt:", "promt:"),
    "missing": ('provider: "replicate", ', ""),
    "status": ('status: "failed"', 'status: "faild"'),
    "method": ("tidings.cancel", "tidings.cancle"),
    "event": ("detail.state)", "detail.stat)"),
    "key": ("idempotencyKey", "idempotenceKey"),
    "kind": ("limit: 5", 'limit: "5"'),
}
WRONG_HOOKS = {
    "hook": ("usePrediction, ", "usePredicton, "),
    "text": ("{ text, done }", "{ txt, done }"),
    "state": ("{ prediction, deleted", "{ predicton, deleted"),
    "hook output": ("prediction?.output?.url", "prediction?.output?.uri"),
    "provider": ("url=", "adress="),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What `tsc --strict` says of each program, from one run."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "node_modules").symlink_to(node.packages() / "node_modules")
    programs = {"right.ts": RIGHT, "right hooks.tsx": HOOKS}
    for source, wrong, kind in ((RIGHT, WRONG, "ts"), (HOOKS, WRONG_HOOKS, "tsx")):
        for name, (good, bad) in wrong.items():
            assert source.count(good) >= 1, good
            programs[f"{name}.{kind}"] = source.replace(good, bad, 1)
    for name, text in programs.items():
        (folder / name).write_text(text)
    strict = ("--strict", "--noEmit", "--target", "es2022", "--module", "nodenext")
    command: list[str | Path] = [
        node.tool("tsc"),
        *strict,
        "--jsx",
        "react-jsx",
        "--lib",
        "es2024,dom,dom.iterable",
    ]
    (folder / "package.json").write_text('{"type": "module"}')
    try:
        output = node.run(*command, "--pretty", "false", *programs, folder=folder)
    except node.NodeFailed as failed:
        output = str(failed)
    errors: dict[str, list[str]] = {name: [] for name in programs}
    for name, message in re.findall(
        r"^([\w ]+\.tsx?)\(\d+,\d+\): (error .*)$", output, re.MULTILINE
    ):
        errors[name].append(message)
    return errors


def test_right_programs_pass(found: dict[str, list[str]]) -> None:
    """Programs that use every call, with outputs of a type of their own, have no error."""
    assert found["right.ts"] == []
    assert found["right hooks.tsx"] == []


@pytest.mark.parametrize(
    "name", [*(f"{name}.ts" for name in WRONG), *(f"{name}.tsx" for name in WRONG_HOOKS)]
)
def test_wrong_programs_are_found(found: dict[str, list[str]], name: str) -> None:
    """A misspelled name, a missing field and a value of a wrong type are errors."""
    assert found[name]


def test_the_types_are_those_of_the_openapi_document() -> None:
    """`python -m tests.support.reference.browser_types` has been run since the document changed."""
    assert browser_types.api() == browser_types.API.read_text(encoding="utf-8")
    assert Path(browser_types.PAGE).read_text(encoding="utf-8") == browser_types.written()


GLOBALS = """
import type { Tidings } from "@tidings/client";

declare global {
  const auth: { currentUser: { getIdToken(): Promise<string> } };
  const auth0: { getTokenSilently(how: { authorizationParams: { audience: string } }): Promise<string> };
  const clerk: { session: { getToken(): Promise<string> } };
  const fetchAuthSession: () => Promise<{ tokens: { accessToken: { toString(): string } } }>;
  const fetchToken: () => Promise<string>;
  const id: string;
  const process: { env: Record<string, string> };
  const keycloak: { token: string; updateToken(seconds: number): Promise<boolean> };
  const supabase: {
    auth: { getSession(): Promise<{ data: { session: { access_token: string } } }> };
  };
  const user: { id: string };
}
"""
"""What the programs of the documents take from their surroundings, as its makers document it."""
STANDARD_WEBHOOKS = """
declare module "standardwebhooks" {
  export class WebhookVerificationError extends Error {}
  export class Webhook {
    constructor(secret: string);
    verify(payload: string, headers: Record<string, string>): any;
  }
}
"""


def program(block: Block) -> str:
    """A block as a module of its own; a page's script without the page."""
    code = block.code
    if block.language == "html":
        (code,) = re.findall(r"<script type=\"module\">\n(.*?)</script>", code, re.DOTALL)
    there = r"/** @type {HTMLElement} */ (document.querySelector(\1))"  # the page has it
    code = re.sub(r"document\.querySelector\((.*?)\)", there, code)
    code = re.sub(r'"[^"]*/static/tidings\.js"', '"@tidings/client"', code)
    if block.language != "jsx" and "import { Tidings" not in code and "Tidings" in code:
        code = f'import {{ Tidings }} from "@tidings/client";\n{code}'
    if re.search(r"\btidings\.\w", code) and not re.search(r"const tidings\b", code):
        code = f'import {{ Tidings as Ours }} from "@tidings/client";\nconst tidings = new Ours();\n{code}'
    if "<TidingsProvider" in code and "import { TidingsProvider" not in code:
        code = f'import {{ TidingsProvider }} from "@tidings/react";\n{code}'
    return f"{code}\nexport {{}};\n"


def test_the_documents_programs_pass(tmp_path: Path) -> None:
    """The compiler finds no call, option or member in a document's JavaScript that does not exist."""
    (tmp_path / "node_modules").symlink_to(node.packages() / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "globals.d.ts").write_text(GLOBALS)
    (tmp_path / "standardwebhooks.d.ts").write_text(STANDARD_WEBHOOKS)
    names = {}
    for language in ("js", "jsx", "html"):
        for number, block in enumerate(blocks(language)):
            name = f"{language}-{number}.{'js' if language == 'html' else language}"
            names[name] = block
            (tmp_path / name).write_text(program(block))
    assert len(names) > 12
    (tmp_path / "wrong.js").write_text(
        'import { Tidings } from "@tidings/client";\nnew Tidings().wacth("p1");\n'
    )
    checked = ("--allowJs", "--checkJs", "--noEmit", "--target", "es2022", "--module", "nodenext")
    loose = (
        "--strictNullChecks",
        "--noImplicitAny",
        "false",
        "--jsx",
        "react-jsx",
        "--pretty",
        "false",
    )
    lib = ("--lib", "es2024,dom,dom.iterable")
    with pytest.raises(node.NodeFailed) as failed:
        node.run(
            *(node.tool("tsc"), *checked, *loose, *lib),
            *("globals.d.ts", "standardwebhooks.d.ts", "wrong.js", *names),
            folder=tmp_path,
        )
    found = re.findall(r"^([\w.-]+)\((\d+),\d+\): (error .*)$", str(failed.value), re.MULTILINE)
    said = [f"{names.get(name, name)}: {message}" for name, _, message in found]
    assert [one for one in said if not one.startswith("wrong.js")] == []
    assert len(said) == 1
