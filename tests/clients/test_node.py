"""The client from its packed package, in Node.js, and in Deno."""

import gzip
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import node
from tests.support.root import ROOT
from tests.support.tidings_process import TidingsProcess, serving

CLIENT = ROOT / "gateway" / "static" / "tidings.js"
LARGEST = 7 * 1024
"""Bytes of the client, minified and compressed."""

EVERYTHING = """
import { Tidings, TidingsError } from "@tidings/client";

const tidings = new Tidings(process.argv[2]);
const owner = globalThis.Deno ? "deno" : "node";
const order = { provider: "replicate", model: "tidings/picture", prompt: "two herons", owner, payload: { seconds: 0.2 } };
const made = await tidings.create(order, { idempotencyKey: "k1" });
const again = await tidings.create(order, { idempotencyKey: "k1" });
console.log(made.predictionId === again.predictionId, made.owner === owner);

const seen = [];
for await (const record of tidings.watch(made.predictionId)) {
  seen.push(record.version);
  if (record.status === "succeeded") break;
}
console.log(seen.every((version, at) => !at || version > seen[at - 1]), tidings.transport);
const record = await tidings.finished(made.predictionId);
console.log(record.status, (await tidings.get(made.predictionId)).version >= record.version);

const slow = await tidings.create({ ...order, payload: { seconds: 300 } });
const asked = { method: "PATCH", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ waiting: true, question: "Go on?" }) };
await fetch(`${process.argv[2]}/api/predictions/${slow.predictionId}`, asked);
const answered = await tidings.answer(slow.predictionId, { n: 1 }, { questionNumber: 1 });
const late = await tidings.answer(slow.predictionId, "no").catch((error) => error.code);
console.log(answered.answer.n, answered.waiting, late);
await tidings.cancel(slow.predictionId);
console.log((await tidings.finished(slow.predictionId)).status);

const first = await tidings.list({ owner, limit: 1 });
const second = await tidings.list({ owner, limit: 1, cursor: first.cursor });
console.log([first, second].map((page) => page.data[0].predictionId).join() === [slow, made].map((one) => one.predictionId).join());
const [used] = await tidings.usage({ groupBy: ["owner"], owner });
const kept = await tidings.list({ owner, provider: "replicate", text: "two herons" });
console.log(used.owner === owner, used.seconds > 0, kept.data.length);
try {
  await tidings.get("nobody's");
} catch (error) {
  console.log(error instanceof TidingsError, error.code);
}

const later = await tidings.retry(slow.predictionId);
const early = await tidings.retry(made.predictionId).catch((error) => error.code);
console.log(later.retryOf === slow.predictionId, early);
const group = await tidings.create({ ...order, orders: [{ prompt: "one" }, { prompt: "two" }] });
let members = [];
while (members.length < 2) members = (await tidings.list({ group: group.predictionId })).data;
console.log(group.kind, members.map((one) => one.prompt).join());
tidings.close();
"""
PRINTED = """true true
true {transport}
succeeded true
1 undefined answered
canceled
true
true true 2
true not-found
true invalid-transition
group one,two
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TidingsProcess]:
    """A service with a provider that makes pictures."""
    async with serving(tmp_path_factory.mktemp("demo"), arguments=("demo",)) as running:
        yield running


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Where a program that imports the packages can lie."""
    (tmp_path / "node_modules").symlink_to(node.packages() / "node_modules")
    return tmp_path / "program.mjs"


@pytest.fixture
def everything(program: Path) -> Path:
    """The program that calls everything."""
    program.write_text(EVERYTHING)
    (program.parent / "package.json").write_text('{"dependencies": {"@tidings/client": "*"}}')
    return program


@pytest.mark.asyncio(loop_scope="module")
async def test_everything_in_node(demo: TidingsProcess, everything: Path) -> None:
    """Create, watch, get, list and cancel; without a WebSocket over Server-Sent Events."""
    transport = "websocket" if node.version() > 21 else "sse"
    assert await node.printed("node", everything, demo.url) == PRINTED.format(transport=transport)


@pytest.mark.long
@pytest.mark.asyncio(loop_scope="module")
async def test_everything_in_deno(demo: TidingsProcess, everything: Path) -> None:
    """The same program runs in Deno."""
    deno = node.fetched(node.CLIENTS / "deno") / "node_modules" / "deno" / "bin.cjs"
    flags = ("run", "--allow-all", "--no-lock", "--node-modules-dir=manual")
    printed = await node.printed("node", deno, *flags, everything, demo.url)
    assert printed == PRINTED.format(transport="websocket")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("new Tidings()", "new Tidings takes the address of a service, such as https://"),
        ("new Tidings('localhost:8080')", "such as https://tidings.example, not localhost:8080"),
        ("new Tidings('/prefix')", "not /prefix"),
        ("new Tidings(url, { transport: 'websocket' })", "there is no WebSocket here"),
        ("new Tidings(url).watch({ onwer: 'ada' })", "watch takes an id or exactly one of"),
    ],
)
def test_bad_use_is_one_line(program: Path, call: str, says: str) -> None:
    """Whoever uses it wrongly reads in one line what to do."""
    program.write_text(
        'import { Tidings } from "@tidings/client";\nconst url = "http://127.0.0.1:1";\n'
        "delete globalThis.WebSocket;\n"
        f"try {{ await ({call}); }} catch (error) {{ console.log(error.message); }}\n"
    )
    (line,) = node.run("node", program, folder=program.parent).splitlines()
    assert says in line


def test_the_client_is_small() -> None:
    """Minified and compressed it has 7 KB at most, and nothing is imported."""
    minified = node.run(node.tool("esbuild"), "--minify", CLIENT, folder=ROOT)
    assert len(gzip.compress(minified.encode(), 9)) <= LARGEST
    assert "import" not in minified


def test_what_a_package_holds() -> None:
    """Code, types, readme and licence; the client is the file that pages load, byte for byte."""
    for name, files in (
        ("js", {"index.js", "index.d.ts", "api.d.ts"}),
        ("react", {"index.js", "index.d.ts"}),
    ):
        packed = next((node.packages() / "source" / "clients" / name).glob("*.tgz"))
        with tarfile.open(packed) as archive:
            inside = {str(Path(member).relative_to("package")) for member in archive.getnames()}
            text = archive.extractfile("package/dist/index.js")
            assert text is not None
            content = text.read()
        beside = {"package.json", "README.md", "LICENSE"}
        assert inside == {f"dist/{file}" for file in files} | beside
        if name == "js":
            assert content == CLIENT.read_bytes()
        version = json.loads((node.CLIENTS / name / "package.json").read_text())["version"]
        assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()


def test_the_locks_name_no_registry() -> None:
    """Whoever installs uses the registry that they have configured."""
    for lock in node.CLIENTS.rglob("package-lock.json"):
        assert '"resolved"' not in lock.read_text(), lock
