"""The reference says what the code says: every field, header, message, endpoint and command, and no other."""

import ast
import re
from types import ModuleType
from typing import Any

import msgspec
import pytest
from aiohttp import web

import tidings
from tests.support.reference import (
    PAGES,
    commands_page,
    http_page,
    javascript_page,
    llms_text,
    record_page,
    text_of,
    topics_page,
    websocket_page,
)
from tests.support.root import ROOT
from tidings.cli import main as commands
from tidings.gateway.routes import HEALTH_ROUTES, ROUTES, Route
from tidings.storage.prediction import Prediction
from tidings.streams.log import headers, protocol
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    DELIVERIES,
    EVENTS,
    TEXT,
    Position,
)
from tidings.streams.notifications.delivery import (
    Start,
    SwitchedOff,
    Told,
    body,
    encoded,
    switched_off_key,
    told_key,
)
from tidings.streams.notifications.sender import WebhookSender
from tidings.streams.processing.dead_letters import DeadLetter, redriven
from tidings.streams.rules.event import Event, EventType
from tidings.streams.submission.event_publisher import FETCHED_HEADER

TOPICS = {
    value
    for value in vars(protocol).values()
    if isinstance(value, str) and value.startswith("predictions.")
}


def written(page: ModuleType) -> str:
    """A page as it lies in the repository."""
    return str(page.PAGE.read_text(encoding="utf-8"))


def part(text: str, title: str) -> str:
    """What stands beneath a heading, up to the next of its level."""
    level = title.split()[0]
    return re.split(rf"^#{{1,{len(level)}}} ", text.partition(f"\n{title}\n")[2], flags=re.M)[0]


def first_cells(text: str) -> list[str]:
    """The names in the first column of the tables of a text."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.PAGE.stem)
def test_the_page_is_written(page: ModuleType) -> None:
    """The page is what `python -m tests.support.reference` makes of the code now; no row says nothing."""
    text = written(page)
    assert text == text_of(page)
    assert [
        row for row in text.splitlines() if re.search(r"^\| `(?!type` \| \|).*\|\s*\|$", row)
    ] == []


def test_programs_find_every_page() -> None:
    """`llms.txt` lists each page of the folder with its title and a line about it."""
    listed = dict(re.findall(r"^- \[(.+?)\]\((\S+)\)", written(llms_text), re.MULTILINE))
    there = {
        llms_text.address(str(path.relative_to(ROOT / "docs")))
        for path in (ROOT / "docs").rglob("*.md")
    }
    places = {place for place in listed.values() if not place.startswith("project/")}
    assert places == there
    silent = [line for line in written(llms_text).splitlines() if line.endswith(")")]
    assert silent == []


def test_every_member_of_a_record_and_an_event_is_described() -> None:
    """The record's table and the event's have the names on the wire, in their order, and no other."""
    text = written(record_page)
    record = [field.encode_name for field in msgspec.structs.fields(Prediction)]
    event = [field.encode_name for field in msgspec.structs.fields(Event)]
    assert first_cells(part(text, "## The record")) == record
    assert first_cells(part(text, "## The event")) == [
        name for name in event if not name.startswith("tidings/")
    ]
    assert first_cells(part(text, "## Types of events"))[1:] == [str(one) for one in EventType]


def test_every_endpoint_is_described() -> None:
    """The page has each route of the gateway that is described, and no other."""
    routes: tuple[Route[Any], ...] = (*ROUTES, *HEALTH_ROUTES)
    served = {f"{route.method} {route.path}" for route in routes if route.summary}
    found = re.findall(r"^### ([A-Z]+ /.*)$", written(http_page), re.MULTILINE)
    assert set(found) == served
    assert len(found) == len(served)


def test_every_message_is_described() -> None:
    """The page has each message that the code reads or builds, and no other."""
    source = (ROOT / "gateway" / "push" / "protocol.py").read_text(encoding="utf-8")
    built = set(re.findall(r"^def (\w+)_message\(", source, re.MULTILINE))
    read = set(re.findall(r'tag_field="type", tag="(\w+)"', source))
    found = re.findall(r"^### (\w+)$", written(websocket_page), re.MULTILINE)
    assert {name.lower() for name in found} == built | read
    assert len(found) == len(built | read)


def test_every_topic_is_described() -> None:
    """The page has each topic of the log, and no other."""
    found = re.findall(r"^## (\S+)$", written(topics_page), re.MULTILINE)
    assert set(found) == set(TOPICS)


def literals(path: str) -> set[str]:
    """The names of the headers that a module writes: the first of each pair of a name and bytes."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    pairs = [node for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) == 2]
    return {
        first.value
        for first in (pair.elts[0] for pair in pairs)
        if isinstance(first, ast.Constant) and isinstance(first.value, str)
    }


def test_every_header_is_described() -> None:
    """Each header that the code writes or names is on the page beneath its topic, and no other."""
    text = written(topics_page)
    found = {topic: set(first_cells(part(text, f"## {topic}"))) for topic in TOPICS}
    named = {value for name, value in vars(headers).items() if name.isupper()} | {FETCHED_HEADER}
    cloud = {"ce_*", "content-type"}
    assert (found[EVENTS] - cloud) | found[DEAD_LETTERS] == named
    assert found[CHANGES] == literals("streams/changes/codec.py")
    assert found[TEXT] == literals("streams/changes/text_codec.py") | {"r"}


def test_every_command_is_described() -> None:
    """The page has each command, with each flag that its help prints."""
    text = written(commands_page)
    found = re.findall(r"^## (tidings .*)$", text, re.MULTILINE)
    assert found == [name for name, _ in commands_page.commands()]
    modules = {module.__name__.rpartition(".")[2] for module in commands.COMMANDS}
    assert len({name.split()[1] for name in found}) >= len(modules)
    for name, parser in commands_page.commands():
        printed = set(re.findall(r"(--[a-z][a-z-]+)", parser.format_usage())) - {"--help"}
        flags = set(re.findall(r"^\| `(--[a-z-]+)", part(text, f"## {name}"), re.MULTILINE))
        assert flags == printed, name


def test_every_name_in_javascript_is_described() -> None:
    """The page has each name that the packages export, and each call of the client, and no other."""
    text = written(javascript_page)
    for package, types in javascript_page.TYPES.items():
        exported = re.findall(
            r"^export (?:class|interface|type|function|const) (\w+)",
            types.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        assert re.findall(r"^### (\w+)$", part(text, f"## {package}"), re.MULTILINE) == exported
    code = (ROOT / "gateway" / "static" / "tidings.js").read_text(encoding="utf-8")
    client = code[code.index("export class Tidings extends") :].partition("\n}\n")[0]
    calls = set(
        re.findall(
            r"^  (?:async )?(?:get )?([a-z]\w*)(?:\(.*\{|(?: = .*)?;)$", client, re.MULTILINE
        )
    )
    described = set(re.findall(r"^- `(?:readonly )?([a-z]\w*)", part(text, "### Tidings"), re.M))
    inherited = {"addEventListener", "constructor"}
    assert described - inherited == calls - inherited
    assert len(calls) > 10


def test_every_public_name_in_python_is_described() -> None:
    """The page on Python shows the package itself: each public name has a docstring to be shown there."""
    assert "\n::: tidings\n" in (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    silent = [name for name in vars(tidings)["__all__"] if not getattr(tidings, name).__doc__]
    assert [name for name in silent if name not in ("Token", "Update", "__version__")] == []


def test_every_header_of_an_outbound_webhook_is_described() -> None:
    """The guide's example has each header of Standard Webhooks that is sent, and no other."""
    sender = (ROOT / "streams" / "notifications" / "sender.py").read_text(encoding="utf-8")
    sent = set(re.findall(r'"(webhook-[a-z]+)":', sender))
    guide = (ROOT / "docs" / "howto" / "webhooks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```http\n(.*?)\n\n", guide, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^([\w-]+): ", example, re.MULTILINE)) == sent
    assert len(sent) == 3


def test_deliveries_are_described() -> None:
    """The page has each key of the topic with its value, and the one header, which a redrive adds."""
    text = part(written(topics_page), f"## {DELIVERIES}")
    letter = DeadLetter(Position(0, 1), "x", "", 0, 0, 1, DELIVERIES, b"d t 1 2 p", b"{}", ())
    added = {name for name, _ in redriven(letter).headers}
    made: dict[bytes, Start | Told | SwitchedOff] = {
        b"s": Start(1),
        told_key("t", "p"): Told(1, 2),
        switched_off_key("t"): SwitchedOff("h", 1, "r"),
    }
    assert all(not encoded(key, value, 0).headers for key, value in made.items())
    keys = {name.split()[0] for name in topics_page.DELIVERY_KEYS}
    assert keys == {"d", *(key.decode().split()[0] for key in made)}
    cells = [name for name in first_cells(text) if name]
    assert set(cells) == added | set(topics_page.DELIVERY_KEYS)
    for key, value in made.items():
        (shown,) = re.findall(rf"^\| `{key.decode()[0]}\b[^`]*` \| (.*?) \|", text, re.MULTILINE)
        assert re.findall(r"`(\w+)`", shown) == list(msgspec.to_builtins(value))


async def test_what_is_posted_to_other_servers_is_described() -> None:
    """The page has each header and each member of a webhook that a real one has, and no other."""
    heard: dict[str, set[str]] = {}

    async def hear(request: web.Request) -> web.Response:
        heard["headers"] = {name.lower() for name in request.headers}
        heard["body"] = set(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        place = f"127.0.0.1:{runner.addresses[0][1]}"
        sender = WebhookSender([b"a secret"], [place])
        told = body(
            b'{"predictionId":"p1","webhook":{"host":"h","sealed":"s"}}', None, "starting", 1
        )
        assert (await sender.send(f"http://{place}/", "p1:1:0", bytes(told))).error is None
        await sender.close()
    finally:
        await runner.cleanup()
    plain = {"host", "accept", "accept-encoding", "content-length"}
    assert heard["headers"] - plain == set(topics_page.WEBHOOK_HEADERS)
    assert heard["body"] == set(topics_page.WEBHOOK_BODY)
    text = part(written(topics_page), "## What is posted to other servers")
    assert set(first_cells(text)) == {*topics_page.WEBHOOK_HEADERS, *topics_page.WEBHOOK_BODY}


def test_every_close_code_is_explained() -> None:
    """The explanation of the codes has each with which the server closes a connection, and no other."""
    text = (ROOT / "docs" / "explanation" / "push.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([\d, ]+) \|", part(text, "## Close codes"), re.MULTILINE)
    explained = {int(code) for cell in cells for code in cell.split(",")}
    assert set(websocket_page.close_codes().values()) <= explained
