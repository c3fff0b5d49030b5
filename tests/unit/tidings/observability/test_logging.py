"""The log of a process: what it looks like, and what is kept out of it."""

import json
import subprocess
import sys

import pytest

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


LEAKING = """
import logging, sys, structlog
from tidings.observability import logging as tidings_logging
from tidings.storage.redaction import Redactor
tidings_logging.configure(json=sys.argv[1] == "json", redactor=Redactor(["c4n4ry-of-a-setting"]))
log = structlog.get_logger()
log.warning("call.failed", error="Illegal header value b'Key c4n4ry-of-a-header\\\\n'", value=["c4n4ry-of-a-setting"])
logging.getLogger("aiokafka").error("cannot reach kafka://user:c4n4ry-of-a-url@host")
try:
    raise ValueError("https://e.example/api/webhooks/fal/p?token=c4n4ry-of-a-proof")
except ValueError:
    log.exception("part.failed")
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_of_a_library_reaches_the_log(form: str) -> None:
    """Exceptions, messages and lists pass the redactor, in JSON and in a terminal's form, tracebacks included."""
    ended = subprocess.run(
        [sys.executable, "-c", LEAKING, form], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "c4n4ry" not in ended.stderr
    assert "part.failed" in ended.stderr
