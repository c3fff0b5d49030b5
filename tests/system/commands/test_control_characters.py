"""No command passes on a control character that came in with a report, as text or as JSON, to a pipe or a terminal."""

import argparse
import asyncio
import csv
import io
import os
import pty
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.tidings_process import TidingsProcess, environment, serving
from tests.support.webhooks import get, signed
from tidings.cli.main import _parser
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

MARKS = ("\x1b[2J", "\x1b]52;c;ZXZpbA==\x1b\\", "\x9b2J", "\u202egpj.", "\x7f")
EVIL = "".join(MARKS)
SETTINGS = {"TIDINGS_REPLICATE_SECRET": webhooks.SECRET}
OWNER = f"=1+1{EVIL}"

COMMANDS: dict[str, list[tuple[str, ...]]] = {
    "serve": [("serve", "--port", EVIL)],
    "demo": [("demo", "--port", EVIL)],
    "replay": [
        ("replay", "--verify"),
        ("replay", "--verify", "--json"),
        ("replay", "--dry-run"),
        ("replay", "--only", f"k{EVIL}", "--repair", "--dry-run"),
        ("replay", "--from", EVIL),
        ("replay", "--into", f"sqlite:///{EVIL}"),
    ],
    "reconcile": [("reconcile", "--once", "--log", EVIL)],
    "dead-letters": [
        ("dead-letters", "list"),
        ("dead-letters", "list", "--json"),
        ("dead-letters", "export"),
        ("dead-letters", "redrive", "--all", "--dry-run"),
        ("dead-letters", "show", EVIL),
    ],
    "audit": [
        ("audit", "export"),
        ("audit", "export", "--csv"),
        ("audit", "export", "--out", EVIL),
    ],
    "answer": [
        ("answer", "p1"),
        ("answer", "p1", EVIL),
        ("answer", "p1", EVIL, "--parse"),
        ("answer", EVIL, "x"),
    ],
    "create": [
        ("create", "--provider", EVIL, "--model", "m", "--prompt", EVIL),
        ("create", "--payload", EVIL, "--provider", "p", "--model", "m"),
        ("create", "--orders", EVIL),
    ],
    "retry": [("retry", EVIL), ("retry", "p1", "--provider", EVIL), ("retry", "p2", "--json")],
    "watch": [
        ("watch", "p1", "--finished"),
        ("watch", "p1", "--finished", "--json"),
        ("watch", "p1", "--finished", "--token", EVIL),
        ("watch", EVIL),
        ("watch", "p1", "--url", EVIL),
    ],
    "backup": [("backup", f"no-folder/{EVIL}")],
    "restore": [("restore", EVIL)],
    "erase": [
        ("erase", "--owner", OWNER, "--dry-run"),
        ("erase", "--owner", OWNER, "--dry-run", "--json"),
    ],
    "doctor": [
        ("doctor",),
        ("doctor", "--json"),
        ("doctor", "--webhook", EVIL),
        ("doctor", "--log", EVIL),
    ],
    "token": [
        ("token", "--sub", EVIL),
        ("token", "--sub", EVIL, "--json"),
        ("token", "--scope", EVIL),
    ],
    "report": [("report", EVIL, "processing")],
    "worker": [("worker", "export", f"no-folder/{EVIL}")],
    "export": [("export", "--owner", OWNER), ("export", "--owner", OWNER, "--csv")],
    "list": [("list",), ("list", "--json"), ("list", "--error", EVIL)],
    "usage": [
        ("usage", "--by", "owner,model,provider"),
        ("usage", "--by", EVIL),
        ("usage", "--json"),
    ],
    "openapi": [("openapi",)],
    "asyncapi": [("asyncapi",)],
}


def test_every_command_is_walked() -> None:
    """A command that is added must be tried here too."""
    (commands,) = (one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    assert set(COMMANDS) == set(commands.choices)


def test_one_module_writes_to_the_terminal() -> None:
    """Nothing among the commands but the output's module writes to standard output or error, or prints."""
    ways = ("sys.stdout.write", "sys.stderr.write", " print(", "sys.stdout,", "sys.stderr,")
    found = [
        f"{path.name}: {way}"
        for path in (ROOT / "tidings" / "cli").rglob("*.py")
        if path.name != "output.py"
        for way in ways
        if way in path.read_text(encoding="utf-8")
    ]
    assert not found


async def fill(service: TidingsProcess) -> None:
    """Reports and records that hold the characters wherever somebody else may put text."""
    async with aiohttp.ClientSession() as session:
        for body in (
            webhooks.report(
                "p1", status="failed", error=f"boom{EVIL}", model=f"m{EVIL}", output=None
            ),
            webhooks.report("p2", status=EVIL),
            f"no json {EVIL}".encode(),
        ):
            await session.post(
                f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
            )
        log = await open_log(f"sqlite:///{service.folder}/data/log.db")
        owned = b'{"predictionId":"+p3","owner":%s,"id":"-e"}' % _json(OWNER)
        await log.append(
            EVENTS,
            [
                NewRecord(f"k{EVIL}".encode(), b"{}", [("x", EVIL.encode())]),
                NewRecord(b"+p3", owned),
            ],
        )
        await log.close()
        await eventually(lambda: get(session, service.url, "+p3"), 30)


def _json(text: str) -> bytes:
    return ('"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"').encode()


def raw(text: str) -> list[str]:
    return [mark for mark in MARKS if mark in text]


async def test_no_command_passes_them_on(tmp_path: Path) -> None:
    """Every command, its failures and `--json` included.

    And the spreadsheet's formulas are text.
    """
    found = {}
    async with serving(tmp_path, SETTINGS) as service:
        await fill(service)
        here = {**SETTINGS, "TIDINGS_PORT": str(service.port)}
        letters = (await tidings(tmp_path, "dead-letters", "list", "--json")).json
        shown = [one["position"] for reason in letters["reasons"] for one in reason["letters"]]
        assert len(shown) >= 3
        commands = [words for several in COMMANDS.values() for words in several]
        commands += [("dead-letters", "show", position) for position in shown]
        commands += [("dead-letters", "show", position, "--json") for position in shown]
        for words in commands:
            ended = await tidings(tmp_path, *words, settings=here)
            assert "Traceback" not in ended.err, words
            found[words] = raw(ended.out + ended.err)
        found["watch", "in a terminal"] = raw(
            await in_a_terminal(tmp_path, service, "watch", "p1", "--finished")
        )
        found["its log",] = raw(service.output)
        table = (await tidings(tmp_path, "audit", "export", "--csv", settings=here)).out
    assert {words: marks for words, marks in found.items() if marks} == {}
    cells = {cell for row in list(csv.reader(io.StringIO(table)))[1:] for cell in row}
    assert "'+p3" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


async def test_the_log_in_a_terminal(tmp_path: Path) -> None:
    """Log lines for people, too, and tracebacks in them."""
    code = (
        "from tidings.observability import logging as lines; import structlog\n"
        "lines.configure(json=False)\n"
        f"structlog.get_logger('x').warning('x.y', error={EVIL!r}, several=[{EVIL!r}])\n"
        "try:\n"
        f"    raise ValueError({EVIL!r})\n"
        "except ValueError:\n"
        "    structlog.get_logger('x').exception('x.z')\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, written = await process.communicate()
    assert b"x.z" in written
    assert b"\\u009b2J" in written
    assert raw(written.decode()) == []


async def in_a_terminal(folder: Path, service: TidingsProcess, *words: str) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings", *words, "--url", service.url),
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "160"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)

    def read() -> bytes:
        data = b""
        try:
            while piece := os.read(ours, 65536):
                data += piece
        except OSError:  # the other side is closed
            pass
        return data

    async with asyncio.timeout(60):
        data = await asyncio.to_thread(read)
        await process.wait()
    os.close(ours)
    assert b"p1" in data
    return data.decode()


@pytest.mark.parametrize("text", [EVIL, "\ud83d"])
def test_a_traceback_shows_them_too(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback of a defect is printed line by line, and no character of it acts."""
    from tidings.cli.support.output import _print_traceback

    error = RuntimeError(text)
    _print_traceback(RuntimeError, error, None)
    assert raw(capsys.readouterr().err) == []
