"""Generated requests, made from the specification, against a whole service."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.tidings_process import serving

SECRET = "a secret of the tests, of thirty-two bytes"
SETTINGS = {
    "TIDINGS_JWT_SECRET": SECRET,
    "TIDINGS_WEBHOOK_KEY": "k" * 40,
    "TIDINGS_STANDARD_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8G",
    "TIDINGS_REPLICATE_TOKEN": "r8_token",
    "TIDINGS_REPLICATE_URL": "http://127.0.0.1:9",
    "TIDINGS_PUBLIC_URL": "http://127.0.0.1:9",
}
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance"
)


@pytest.mark.long
@pytest.mark.parametrize(
    "claims",
    [{"scope": "admin"}, {"sub": "ann"}, None],
    ids=["admin", "owner", "no-token"],
)
async def test_generated_requests_meet_no_error_and_nothing_undocumented(
    tmp_path: Path, claims: dict[str, Any] | None
) -> None:
    """No request that the specification suggests, valid or not, is a server error or answered as it does not say."""
    arguments = ["--max-examples", "25", "--request-timeout", "1", "--checks", CHECKS]
    if claims is not None:
        token = jwt.encode({"exp": time.time() + 3600, **claims}, SECRET, algorithm="HS256")
        arguments += ["--header", f"Authorization: Bearer {token}"]
    async with serving(tmp_path, SETTINGS) as service:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"http://127.0.0.1:{service.port}/openapi.json",
            "--phases",
            "coverage,fuzzing",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-5000:]
