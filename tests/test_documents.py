"""What the papers say holds: their code runs, their settings exist, their links lead somewhere."""

import asyncio
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.reference import setting_names
from tests.support.root import ROOT
from tests.support.tidings_process import environment, serving
from tidings.config.loader import env_name, load_settings
from tidings.config.settings import FIELDS, NAMES, Settings
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

PAPERS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SITE_PAPERS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTING = re.compile(r"(?<![A-Z_`{])TIDINGS_[A-Z_]+[A-Z](?![A-Z_*{}])")


def blocks(paper: Path, language: str) -> list[str]:
    """The code of a language in a paper."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", paper.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def python(name: str, marker: str) -> str:
    """The one Python block of a paper that contains the marker."""
    (found,) = [code for code in blocks(ROOT / name, "python") if marker in code]
    return found


async def run(code: str, folder: Path, **replaced: str) -> str:
    """Run a block as a program of its own; returns what it prints."""
    for old, new in replaced.items():
        assert old in {"http", "kafka"}
        code = code.replace({"http": "http://127.0.0.1:8080", "kafka": "localhost:9092"}[old], new)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT)}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def report(folder: Path, prediction_id: str, body: bytes) -> None:
    log = await open_log(f"sqlite:///{folder}/data/log.db")
    try:
        await log.append(EVENTS, [NewRecord(prediction_id.encode(), body)])
    finally:
        await log.close()


@pytest.mark.parametrize(
    ("paper", "marker"),
    [("README.md", "client.finished"), ("docs/reference/python.md", "client.watch")],
)
async def test_the_clients_code_runs(tmp_path: Path, paper: str, marker: str) -> None:
    """The Python of the papers that watches a prediction prints its end."""
    async with serving(tmp_path) as service:
        running = asyncio.create_task(run(python(paper, marker), tmp_path, http=service.url))
        await report(
            tmp_path, "p1", b'{"status": "succeeded", "imageUrl": "https://example.com/cat.png"}'
        )
        assert "succeeded https://example.com/cat.png" in await running


async def test_the_first_report_is_taken(tmp_path: Path) -> None:
    """The webhook of the page on getting started is genuine for the secret that the page sets, and has its effect."""
    paper = ROOT / "docs" / "tutorial" / "getting-started.md"
    secret = re.findall(
        r"^export TIDINGS_REPLICATE_SECRET=(\S+)", paper.read_text(encoding="utf-8"), re.MULTILINE
    )[0]
    async with serving(tmp_path, {"TIDINGS_REPLICATE_SECRET": secret}) as service:
        (code,) = blocks(paper, "python")
        assert await run(code, tmp_path, http=service.url) == "200\n"
        printed = await run(python("README.md", "client.finished"), tmp_path, http=service.url)
        assert printed == "succeeded https://example.com/cat.png\n"


async def test_the_librarys_code_runs(tmp_path: Path) -> None:
    """The README's program without a log prints the steps of its prediction."""
    printed = await run(python("README.md", "PredictionStatusManager"), tmp_path)
    assert "succeeded" in printed
    assert printed.count("Status.") == 3


async def test_the_tokens_code_runs(tmp_path: Path) -> None:
    """The token function of the page on the client makes a token that can be read."""
    code = python("docs/reference/python.md", "fresh_token")
    printed = await run(code + "\nprint(fresh_token().count('.'))\n", tmp_path)
    assert printed == "2\n"


@pytest.mark.kafka
async def test_the_producers_code_runs(
    tmp_path: Path, kafka_address: str, topic_prefix: str
) -> None:
    """What the README's producer sends to Kafka is taken for the reports that they are."""
    settings = {"TIDINGS_LOG": f"kafka://{kafka_address}", "TIDINGS_TOPIC_PREFIX": topic_prefix}
    async with serving(tmp_path, settings) as service:
        code = python("README.md", "AIOKafkaProducer").replace(
            '"predictions.', f'"{topic_prefix}predictions.'
        )
        await run(code, tmp_path, kafka=kafka_address)
        printed = await run(python("README.md", "client.finished"), tmp_path, http=service.url)
        assert printed == "succeeded https://example.com/cat.png\n"


@pytest.mark.kafka
async def test_the_code_that_runs_once_runs(
    tmp_path: Path, kafka_address: str, topic_prefix: str
) -> None:
    """The guide's consumer group is told of a prediction's end."""
    settings = {"TIDINGS_LOG": f"kafka://{kafka_address}", "TIDINGS_TOPIC_PREFIX": topic_prefix}
    async with serving(tmp_path, settings) as service:
        producer = python("README.md", "AIOKafkaProducer")
        await run(
            producer.replace('"predictions.', f'"{topic_prefix}predictions.'),
            tmp_path,
            kafka=kafka_address,
        )
        await run(python("README.md", "client.finished"), tmp_path, http=service.url)
        code = python("docs/howto/run-once.md", "AIOKafkaConsumer")
        said = "    print(prediction_id, status, version)\n"
        assert said in code
        code = code.replace(said, f"{said}    raise SystemExit\n")  # the program itself goes on
        code = code.replace('"predictions.', f'"{topic_prefix}predictions.')
        code = code.replace('"mailer"', f'"{topic_prefix}mailer"').replace("latest", "earliest")
        printed = await run(code, tmp_path, kafka=kafka_address)
        assert printed.startswith("p1 succeeded ")


def test_the_settings_file_is_right(tmp_path: Path) -> None:
    """The example of a settings file is taken."""
    (example,) = blocks(ROOT / "docs" / "howto" / "operations.md", "toml")
    assert tomllib.loads(example)
    (tmp_path / "tidings.toml").write_text(example)
    settings = load_settings(environ={}, folder=tmp_path)
    assert settings.providers["my-shop"].kind == "generic"


def test_the_page_on_settings_is_written() -> None:
    """The page on settings is what their definition says, and says something of each."""
    assert setting_names.PAGE.read_text(encoding="utf-8") == setting_names.page()
    assert [name for name, row in setting_names.rows() if row.endswith("|  |")] == []


def test_every_setting_is_described() -> None:
    """The page on operating names every setting with its default, and no other."""
    text = (ROOT / "docs" / "howto" / "operations.md").read_text(encoding="utf-8")
    names = {FIELDS[name].variable for name in NAMES}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
    for default in (
        Settings().log,
        Settings().store,
        Settings().assets,
        str(Settings().cache_bytes),
    ):
        assert f"`{default}`" in text


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/reference/python.md",
        "docs/howto/operations.md",
        "docs/reference/stores.md",
        "docs/howto/scaling.md",
    ],
)
def test_papers_name_settings_that_exist(name: str) -> None:
    """Settings that a paper for users of the service names are settings."""
    text = (ROOT / name).read_text(encoding="utf-8")
    names = {env_name(name) for name in Settings.__struct_fields__}
    parts = re.compile(r"TIDINGS_[A-Z]+_(SECRET|TOKEN|URL|TOLERANCE|JWKS_URL)")
    assert [
        name for name in SETTING.findall(text) if name not in names and not parts.fullmatch(name)
    ] == []


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_links_lead_somewhere(paper: Path) -> None:
    """Files that a paper links to are there, and so are the headings."""
    for target, _, anchor in re.findall(
        r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", paper.read_text(encoding="utf-8")
    ):
        file = paper.parent / target if target else paper
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}#{anchor}"


def anchors(paper: Path) -> set[str]:
    """The anchors that a Markdown renderer gives the headings of a paper."""
    headings = re.findall(r"^#+ (.+)$", paper.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[`*\[\]]|\(.*?\)", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in plain}


def test_every_page_is_in_the_sites_index() -> None:
    """Each document of the folder has its place in the site, and each place has its document."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    placed = set(re.findall(r"^ +- ([a-z][\w/-]*\.md)$", site, re.MULTILINE))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {name for name in placed if not name.startswith("project/")} == there


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_paragraphs_are_short(paper: Path) -> None:
    """No paragraph or point of a list is over 400 characters."""
    text = re.sub(r"^```.*?^```", "", paper.read_text(encoding="utf-8"), flags=re.M | re.S)
    parts = re.split(r"\n\s*\n|\n(?= *(?:[-*|]|\d+\.) )", text)
    long = [part for part in parts if len(part) > 400 and not part.lstrip().startswith(("|", "!["))]
    assert not long, [f"{len(part)}: {part[:60]}" for part in long]


def figures() -> ModuleType:
    """The hook that puts measured figures into the pages."""
    place = ROOT / "docs" / "figures.py"
    spec = importlib.util.spec_from_file_location("figures", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DATED = {"lone-event.md", "throughput.md", "faults.md"}
"""Each reports one investigation or run with its own figures, and says on what; decisions do, too."""


def test_figures_of_speed_come_from_the_results() -> None:
    """No page but those gives a time in microseconds, a share of a core or a rate of events by hand."""
    by_hand = re.compile(r"\d ?µs|\d% of a core|\d,\d{3} (?:events|webhooks|changes) a second")
    for paper in SITE_PAPERS:
        if paper.parent.name != "decisions" and paper.name not in DATED:
            text = re.sub(r"\{\{[^{}]*\}\}", "", paper.read_text(encoding="utf-8"))
            assert by_hand.findall(text) == [], paper


def test_figures_are_those_measured() -> None:
    """Each figure that a page quotes is in the results, and none beside a link to its measurement is by hand."""
    hook = figures()
    results = hook.RESULTS.read_text(encoding="utf-8")
    by_hand = re.compile(r"\d ?(?:µs|ms|KB|MB|bytes|events|a second|times)\b|\d/s\b")
    for paper in SITE_PAPERS:
        text = paper.read_text(encoding="utf-8")
        assert "{{ results" not in hook.filled(text, results), paper
        if paper.parent.name == "decisions":
            continue  # dated: figures of the day on which it was decided
        for line in text.splitlines():
            if "RESULTS.md#" in line:
                assert not by_hand.search(re.sub(r"\{\{.*?\}\}", "", line)), line


def test_a_figure_that_was_not_measured_stops_the_build() -> None:
    """A row or column that the results do not have is an error; one that they have is its cell."""
    hook = figures()
    results = (
        "## a\n| x | y |\n|---|---|\n| one | 1,234.5 |\n\n## b\nrow  name    s\none        2.0\n"
    )
    assert hook.filled("{{ results: a > one > y }} {{ results: a > one > y | 0 }}", results) == (
        "1,234.5 1,234"
    )
    assert hook.filled("{{ results: b > one > s }}", results) == "2.0"
    assert hook.filled("{{ results: b > one > s * 0.25 | 1 }}", results) == "0.5"
    for wrong in ("a > two > y", "a > one > z", "c > one > y"):
        with pytest.raises(hook.NoFigure):
            hook.filled(f"{{{{ results: {wrong} }}}}", results)


def test_the_map_leads_somewhere() -> None:
    """Every file that the map and the threat model name is there, and every function in its file."""
    papers = ("ARCHITECTURE.md", "SECURITY.md")
    text = "".join((ROOT / paper).read_text(encoding="utf-8") for paper in papers)
    named = re.findall(r"`((?:storage|streams|gateway|tidings|tests)/[\w/.]*)(?:: (\w+))?`", text)
    assert len(named) > 40
    for path, function in named:
        assert (ROOT / path).exists(), path
        if function:
            assert re.search(rf"\bdef {function}\(", (ROOT / path).read_text()), function
