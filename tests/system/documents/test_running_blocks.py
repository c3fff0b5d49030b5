"""Shell blocks of the documents run as they stand there, against a service of the test's own.

The first hours (`tests/system/first_hour`) run those of the README, the tutorials and an operator's day; here are the
requests that the guides show. What needs somebody's account, a cluster or root is read and looked up in `test_blocks.py`.
"""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from tests.support.code_blocks import block
from tests.support.root import ROOT
from tests.support.tidings_process import environment, serving
from tests.system.documents.test_blocks import SECRET

RUNS = (
    ("docs/explanation/submitting.md", "Idempotency-Key"),
    ("docs/howto/life.md", '"timeout": 60000}'),
    ("docs/howto/life.md", "/retry"),
    ("docs/howto/life.md", '"group": "cats"'),
    ("docs/howto/questions.md", "-X PATCH"),
    ("docs/howto/questions.md", "/answer"),
    ("docs/howto/usage.md", "-X PATCH"),
    ("docs/howto/operations.md", "format=ndjson"),
    ("docs/howto/operations.md", "audit export --only"),
    ("docs/reference/commands.md", "dead-letters list"),
    ("docs/reference/commands.md", "tidings openapi"),
)
"""In this order; the prediction that a block calls `ID` has failed for the retry, and runs for the questions."""


async def bash(folder: Path, code: str, **settings: str) -> str:
    """Run a block; gives what it printed. A request that is refused ends it."""
    (folder / ".curlrc").write_text("fail\nsilent\nshow-error\nmax-time = 30\n")
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "tidings"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tidings "$@"\n')
    program.chmod(0o755)
    given = environment({"PYTHONPATH": str(ROOT), "TOKEN": "none", **settings})
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", code),
        cwd=folder,
        env={**given, "HOME": str(folder), "PATH": f"{programs}:{given['PATH']}"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, f"{code}\n{out.decode()}{err.decode()}"
    return out.decode()


@pytest.mark.parametrize("program", ["curl", pytest.param("tidings", marks=pytest.mark.long)])
async def test_the_guides_requests_are_answered(tmp_path: Path, program: str) -> None:
    """Each block is answered with success by a service with the settings that its page asks for."""
    nowhere = (
        "http://127.0.0.1:9"  # providers that never answer: orders are written down all the same
    )
    settings = {
        "TIDINGS_PUBLIC_URL": "http://127.0.0.1:1",
        "TIDINGS_REPLICATE_SECRET": SECRET,
        "TIDINGS_REPLICATE_TOKEN": "a token",
        "TIDINGS_REPLICATE_URL": nowhere,
        "TIDINGS_FAL_TOKEN": "a token",
        "TIDINGS_FAL_URL": nowhere,
    }
    async with serving(tmp_path, settings) as service:
        address = f"127.0.0.1:{service.port}"
        for prediction, status in (
            ("failed", "failed"),
            ("asks", "processing"),
            ("p1", "succeeded"),
        ):
            order = {"predictionId": prediction, "provider": "replicate", "model": "owner/model"}
            sent = "curl -H 'Content-Type: application/json' -d"
            await bash(tmp_path, f"{sent} '{json.dumps(order)}' {address}/api/predictions")
            said = json.dumps({"status": status})
            await bash(tmp_path, f"{sent} '{said}' -X PATCH {address}/api/predictions/{prediction}")
        ran = 0
        for paper, having in RUNS:
            code = block(paper, "sh", having).code
            if (program == "tidings") != bool(re.search(r"^tidings ", code, re.MULTILINE)):
                continue
            code = re.sub(
                r"(?:localhost|127\.0\.0\.1):8080|https://tidings\.example\.com", address, code
            )
            name = "failed" if "retry" in having else "asks"
            code = code.replace("predictions/ID", f"predictions/{name}")
            await bash(tmp_path, code, TIDINGS_PORT=str(service.port), **settings)
            ran += 1
        assert ran >= 4
        with pytest.raises(AssertionError, match="404"):
            await bash(tmp_path, f"curl {address}/api/predictions/nobody")
