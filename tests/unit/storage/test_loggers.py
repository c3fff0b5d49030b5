"""Where log lines go when the program around has set structlog up, and when it has not."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from tests.support.root import ROOT
from tests.support.tidings_process import environment
from tests.support.webhooks import SECRET
from tidings.storage.loggers import get_logger

FLOORS = ("storage", "streams", "gateway", "tidings")

HOST = """
import asyncio, logging, tidings
if {configured}:
    logging.basicConfig(format="HOST %(levelname)s %(name)s %(message)s", level="INFO")

async def main():
    async with tidings.service(tidings.Settings(port=0)):
        pass

asyncio.run(main())
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT), "TIDINGS_STANDARD_SECRET": SECRET}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_a_host_without_logging_sees_nothing(tmp_path: Path) -> None:
    """In a program that has set up no log the service prints not a line."""
    done = run(HOST.format(configured=False), tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_hosts_logging_gets_the_lines(tmp_path: Path) -> None:
    """The standard library's handlers of a program get them, each with its level and its module's name."""
    done = run(HOST.format(configured=True), tmp_path)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "service.started" in line]
    assert line.startswith("HOST INFO tidings.runtime.service service.started log='")


async def test_structlog_of_the_host_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """Loggers that were made before the host set structlog up follow it."""
    logger = get_logger("tidings.example")
    with structlog.testing.capture_logs() as lines:
        logger.bind(a=1).info("example.said", b=2)
        await asyncio.sleep(0)
    assert lines == [{"event": "example.said", "a": 1, "b": 2, "log_level": "info"}]
    assert capsys.readouterr().out == ""


def test_fields_contexts_and_failures(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields and context follow the event, credentials are struck out, and the handler gets the failure."""
    monkeypatch.setattr(structlog, "is_configured", lambda: False)
    logger = get_logger("tidings.example")
    try:
        raise ValueError("no")
    except ValueError as error:
        failure = error
        with structlog.contextvars.bound_contextvars(prediction="p1"):
            logger.exception("example.failed", url="https://a.example/?token=abcdefghijk", n=100)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tidings.example", "ERROR")
    assert record.getMessage().startswith("example.failed n=100 prediction='p1' url='https://a.ex")
    assert "abcdefghijk" not in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is failure
    logger.debug("example.unheard")
    assert len(caplog.records) == 1


def test_every_module_has_its_logger_from_here() -> None:
    """A logger of structlog's own would print to the standard output of a host."""
    own = [
        str(path.relative_to(ROOT))
        for floor in FLOORS
        for path in sorted((ROOT / floor).rglob("*.py"))
        if re.search(r"^\w+ = structlog\.get_logger\(", path.read_text(), re.M)
    ]
    assert own == []
