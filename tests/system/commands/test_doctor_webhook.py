"""`tidings doctor --webhook PROVIDER`.

A signed test through a running service, and what is said where it stops.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.broker import free_port
from tests.support.command import Ended, tidings
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET

pytestmark = pytest.mark.asyncio(loop_scope="module")

API_KEY = "an-api-key-of-the-tests"
SECRETS = {
    "STANDARD": SECRET,
    "REPLICATE": f"{SECRET},{SECRET}",
    "OPENAI": "a key without prefix",
    "GEMINI": SECRET,
    "RUNPOD": "word",
    "BASETEN": "whsec_text",
    "ELEVENLABS": "text",
    "BFL": "text",
    "ASSEMBLYAI": "wörd",
    "ACME": "text",
}
SETTINGS = {
    **{f"TIDINGS_{name}_SECRET": secret for name, secret in SECRETS.items()},
    "TIDINGS_LUMA_TOKEN": "luma-token",
    "TIDINGS_OPENAI_TOKEN": "sk-test",
    "TIDINGS_OPENAI_URL": "http://127.0.0.1:9",
    "TIDINGS_API_KEYS": API_KEY,
}
FILE = """
[providers.acme]
kind = "generic"
secret = "text"
proof = "sha256"
header = "X-Acme-Signature"
[providers.acme.statuses]
done = "succeeded"
[providers.acme.fields]
id = "jobs[1].id"
status = "jobs[1].state.now"
"""
WORD = re.compile(
    r"verified and kept after [\d.]+ ms, applied and pushed after [\d.]+ ms, and removed again"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TidingsProcess]:
    """One that knows every provider, and its clients by a key."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "tidings.toml").write_text(FILE)
    settings = {name: value for name, value in SETTINGS.items() if "ACME" not in name}
    async with serving(folder, settings) as running:
        yield running


async def doctor(
    service: TidingsProcess, provider: str, *more: str, **changed: str | None
) -> tuple[Ended, str, str]:
    """How it ended, and the state and the line of the webhook's part."""
    settings = {n: v for n, v in ({**service.settings, **changed}).items() if v is not None}
    arguments = ("doctor", "--json", "--webhook", provider, *(more or ("--url", service.url)))
    ended = await tidings(service.folder, *arguments, settings=settings)
    (found,) = [one for one in ended.json["parts"] if one["part"] == "webhook"]
    assert API_KEY not in found["says"]
    return ended, found["state"], found["says"]


async def records(service: TidingsProcess) -> list[Any]:
    async with httpx.AsyncClient(
        base_url=service.url, headers={"Authorization": f"Bearer {API_KEY}"}
    ) as client:
        found: list[Any] = (await client.get("/api/predictions")).json()["data"]
        return found


@pytest.mark.parametrize(
    "provider", [*(name.lower() for name in SECRETS if name != "OPENAI"), "luma"]
)
async def test_a_test_goes_the_whole_way(service: TidingsProcess, provider: str) -> None:
    """It is verified, kept, applied and pushed, in times that are told, and leaves no record."""
    ended, state, says = await doctor(service, provider)
    assert (ended.code, state) == (0, "ok"), says
    assert says.startswith(f"{provider}: ")
    assert WORD.search(says), says
    assert await records(service) == []


async def test_a_webhook_whose_result_is_fetched(service: TidingsProcess) -> None:
    """What changes nothing by itself is tried up to where it is kept."""
    ended, state, says = await doctor(service, "openai")
    assert (ended.code, state) == (0, "ok"), says
    assert "names a result alone" in says
    assert await records(service) == []


@pytest.mark.parametrize(
    ("provider", "changed", "says"),
    [
        (
            "replicate",
            {"TIDINGS_REPLICATE_SECRET": None},
            "not configured here.*set TIDINGS_REPLICATE_SECRET",
        ),
        (
            "replicate",
            {"TIDINGS_REPLICATE_SECRET": "whsec_" + "A" * 32},
            "another secret.*TIDINGS_REPLICATE_SECRET",
        ),
        ("replicate", {"TIDINGS_API_KEYS": "another"}, "cannot be watched.*TIDINGS_API_KEYS"),
        ("reploduce", {}, "no provider is called 'reploduce'; known are assemblyai"),
        ("fal", {}, "set TIDINGS_FAL_JWKS_URL"),
        ("fal", {"TIDINGS_FAL_JWKS_URL": "https://e.com/jwks"}, "private key of its own"),
        ("gemini", {"TIDINGS_GEMINI_SECRET": "whpk_" + "A" * 43 + "="}, "public keys"),
    ],
)
async def test_what_is_wrong_is_named(
    service: TidingsProcess, provider: str, changed: dict[str, str | None], says: str
) -> None:
    """One line with what to mend, and the exit code 1."""
    ended, state, said = await doctor(service, provider, **changed)
    assert (ended.code, state) == (1, "failed"), said
    assert re.search(says, said), said


async def test_a_service_without_the_secret_or_without_a_processor(tmp_path: Path) -> None:
    """A service that does not know the provider, none at all, and one whose events nobody applies, are told apart."""
    arguments = ("serve", "--role", "gateway")
    async with serving(
        tmp_path, {"TIDINGS_WEBHOOK_KEY": "k" * 32, "TIDINGS_BFL_SECRET": "x"}, arguments=arguments
    ) as one:
        _, state, says = await doctor(one, "standard", TIDINGS_STANDARD_SECRET=SECRET)
        assert (state, "set TIDINGS_STANDARD_SECRET where it runs" in says) == ("failed", True), (
            says
        )
        _, state, says = await doctor(one, "bfl")
        assert (state, "does a processor run" in says) == ("failed", True), says
        _, state, says = await doctor(one, "bfl", "--url", f"http://127.0.0.1:{free_port()}")
        assert (state, "no service answers" in says) == ("failed", True), says
        _, state, says = await doctor(one, "bfl", "--log", "memory://", TIDINGS_PORT="0")
        assert (state, "--url" in says) == ("failed", True), says


@pytest.mark.parametrize(
    ("settings", "state", "says"),
    [
        ({}, "warning", "none is configured"),
        ({"TIDINGS_REPLICATE_TOKEN": "t"}, "warning", "replicate: set, but without a secret"),
        ({"TIDINGS_REPLICATE_SECRET": SECRET}, "ok", "taken from replicate; no token is set"),
        (
            {"TIDINGS_REPLICATE_SECRET": SECRET, "TIDINGS_REPLICATE_TOKEN": "t"},
            "ok",
            "to submit to replicate, set TIDINGS_PUBLIC_URL",
        ),
        (
            {
                "TIDINGS_REPLICATE_SECRET": SECRET,
                "TIDINGS_REPLICATE_TOKEN": "t",
                "TIDINGS_GEMINI_SECRET": SECRET,
                "TIDINGS_GEMINI_TOKEN": "t",
                "TIDINGS_PUBLIC_URL": "https://e.com",
            },
            "ok",
            "taken from gemini, replicate, and predictions submitted to replicate",
        ),
    ],
)
async def test_it_says_whom_webhooks_come_from(
    tmp_path: Path, settings: dict[str, str], state: str, says: str
) -> None:
    """Who is configured, who is half, and what is missing to submit."""
    ended = await tidings(tmp_path, "doctor", "--json", settings=settings)
    (found,) = [one for one in ended.json["parts"] if one["part"] == "providers"]
    assert (found["state"], says in found["says"]) == (state, True), found["says"]
