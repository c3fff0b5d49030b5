"""The log of a process: what it looks like, and what is kept out of it."""

import json
import subprocess
import sys

from tests.support.root import ROOT

PROGRAM = """
import logging, structlog
from tidings.observability import logging as tidings_logging
tidings_logging.configure()
log = structlog.get_logger()
log.info("service.started", port=8080, api_token="quiet", webhook_key="quiet")
logging.getLogger("aiokafka.conn").error("Unable connect to %s", "x")
logging.getLogger("aiohttp").warning("odd %s", "thing")
logging.getLogger("aiohttp").info("chatter")
try:
    secret = "quiet"
    raise ValueError("wrong")
except ValueError:
    log.exception("part.failed")
"""


def test_lines_are_json_without_secrets() -> None:
    """Off a terminal each event is a JSON line on standard error; secrets and local variables are not in it."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ended.stdout == ""
    assert "quiet" not in ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["service.started", "odd thing", "part.failed"]
    assert (lines[0]["port"], lines[0]["level"]) == (8080, "info")
    assert lines[2]["exception"][0]["exc_value"] == "wrong"
