"""No secret in sight: what guards something, or proves a webhook, is in no output of any kind."""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.trace_collector import collecting
from tests.support.webhooks import report, signed

WORDS = (
    *("jwt", "api_key", "webhook_key", "luma", "baseten", "runpod", "bfl", "assemblyai"),
    *("elevenlabs", "replicate_token", "openai_token", "runpod_token", "cloudflare", "worker"),
    *("traces_password", "jwks_password", "bearer", "cookie", "signature", "word_header", "basic"),
    *("webhook_query", "stream_query", "socket_token", "body_webhook", "body_logs", "body_error"),
    *("body_unread", "body_provider", "api_echo"),
)


@pytest.fixture(scope="module")
def canary() -> dict[str, str]:
    """Secrets of this run by what they are planted in, all different, all easy to find."""
    return {word: f"canary-{word}-{secrets.token_hex(12)}".replace("_", "-") for word in WORDS}


@asynccontextmanager
async def provider_that_echoes(canary: dict[str, str]) -> AsyncIterator[str]:
    """An API that refuses every order, with all that it was sent in its answer."""

    async def refuse(request: web.Request) -> web.Response:
        body = await request.text()
        text = f"refused {dict(request.headers)} {body} Bearer {canary['api_echo']}"
        return web.json_response({"detail": text, "title": text}, status=422)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def variables(canary: dict[str, str], api: str, collector: str) -> dict[str, str]:
    """Every setting that is a secret, or can hold one."""
    return {
        "TIDINGS_JWT_SECRET": canary["jwt"],
        "TIDINGS_API_KEYS": canary["api_key"],
        "TIDINGS_WEBHOOK_KEY": canary["webhook_key"],
        "TIDINGS_REPLICATE_SECRET": f"v1,{signing_secret(canary)}",
        "TIDINGS_REPLICATE_TOKEN": canary["replicate_token"],
        "TIDINGS_REPLICATE_URL": api,
        "TIDINGS_OPENAI_SECRET": canary["openai_token"],
        "TIDINGS_OPENAI_TOKEN": canary["openai_token"],
        "TIDINGS_OPENAI_URL": api,
        "TIDINGS_RUNPOD_SECRET": canary["runpod"],
        "TIDINGS_RUNPOD_TOKEN": canary["runpod_token"],
        "TIDINGS_RUNPOD_URL": api,
        **{
            f"TIDINGS_{name.upper()}_SECRET": canary[name]
            for name in ("luma", "baseten", "bfl", "assemblyai", "elevenlabs")
        },
        "TIDINGS_CLOUDFLARE_TOKEN": canary["cloudflare"],
        "TIDINGS_WORKER_TOKEN": canary["worker"],
        "TIDINGS_TRACES": collector.replace("://", f"://user:{canary['traces_password']}@"),
        "TIDINGS_TRACE_SAMPLE": "1",
        "TIDINGS_FAL_JWKS_URL": f"http://user:{canary['jwks_password']}@127.0.0.1:9/keys",
        "TIDINGS_PUBLIC_URL": "http://127.0.0.1:0",
        "TIDINGS_TTL": "0",
        "TIDINGS_ARCHIVE": "off",
    }


def signing_secret(canary: dict[str, str]) -> str:
    """Replicate's, of which the canary is what is signed with."""
    return f"whsec_{base64.b64encode(canary['signature'].encode()).decode()}"


def planted(canary: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each canary by its name, in the spellings that it may turn up in."""
    for name, value in canary.items():
        yield name, value
        yield name, value.replace("-", "%2D")
        yield name, base64.b64encode(value.encode()).decode().rstrip("=")


def address(prediction_id: str, token: str) -> str:
    """A webhook's address as a provider repeats it, with what proves it."""
    return f"https://tidings.example/api/webhooks/replicate/{prediction_id}?token={token}"


async def plant(service: TidingsProcess, canary: dict[str, str]) -> dict[str, str]:
    """Send every canary in some header, query or body; returns what was answered and pushed."""
    heard: dict[str, str] = {}
    secret = signing_secret(canary)
    bodies = {
        "p1": report(
            "p1",
            webhook=address("p1", canary["body_webhook"]),
            logs=f"POST {address('p1', canary['body_logs'])}\n",
        ),
        "p2": report(
            "p2",
            status="failed",
            output=None,
            error=f"no answer of {address('p2', canary['body_error'])}",
        ),
        "p3": report("p3", status={"at": address("p3", canary["body_unread"])}),
        "p4": report("p4", status="exploded", webhook=address("p4", canary["body_provider"])),
    }
    async with httpx.AsyncClient(base_url=service.url, timeout=30, trust_env=False) as http:

        async def ask(name: str, method: str, path: str, **more: Any) -> httpx.Response:
            answer = await http.request(method, path, **more)
            heard[name] = f"{answer.status_code} {dict(answer.headers)} {answer.text}"
            return answer

        for name, body in bodies.items():
            answer = await ask(
                f"webhook {name}",
                "POST",
                "/api/webhooks/replicate",
                content=body,
                headers=signed(body, secret=secret),
            )
            assert answer.status_code == 200, answer.text
        wrong = {
            "authorization": f"Bearer {canary['bearer']}",
            "cookie": f"session={canary['cookie']}",
            "webhook-id": "m",
            "webhook-timestamp": str(int(time.time())),
            "webhook-signature": f"v1,{canary['signature']}",
            "x-tidings-secret": canary["word_header"],
        }
        query = f"?token={canary['webhook_query']}"
        for provider in ("replicate", "luma", "assemblyai", "fal", "baseten", "nobody"):
            path = f"/api/webhooks/{provider}/p9{query}"
            await ask(f"wrong {provider}", "POST", path, content=b"{}", headers=wrong)
        await ask("wrong bearer", "GET", "/api/predictions", headers=wrong)
        basic = httpx.BasicAuth("user", canary["basic"])
        await ask("basic", "GET", "/api/predictions", auth=basic)
        stream = f"/api/predictions/p1/events?access_token={canary['stream_query']}"
        await ask("wrong stream", "GET", stream)
        admin = {"authorization": f"Bearer {admin_token(canary)}"}
        for provider in ("replicate", "runpod", "openai"):
            order = {"provider": provider, "model": "owner/model", "prompt": "a cat"}
            await ask(f"order {provider}", "POST", "/api/predictions", json=order, headers=admin)
        await eventually_settled(http, admin)
        for path in (
            *("/api/predictions?limit=50", "/api/predictions/p1", "/api/predictions/p2"),
            *("/api/predictions/p1/events", "/api/dead-letters", "/api/stats", "/metrics"),
            *("/readyz", "/healthz", "/openapi.json", "/asyncapi.json", "/"),
        ):
            await ask(path, "GET", path, headers=admin)
        letters = json.loads(heard["/api/dead-letters"].partition("} ")[2].strip() or "{}")
        assert letters, "some webhooks are dead letters"
    heard |= await sockets(service, canary)
    return heard


async def eventually_settled(http: httpx.AsyncClient, admin: dict[str, str]) -> None:
    """Wait until every webhook and order has come to its end."""

    async def settled() -> bool:
        answer = await http.get("/api/predictions?limit=50", headers=admin)
        states = [one["status"] for one in answer.json()["data"]]
        return len(states) >= 5 and all(one in {"succeeded", "failed"} for one in states)

    await eventually(settled, 60)


async def sockets(service: TidingsProcess, canary: dict[str, str]) -> dict[str, str]:
    """What sessions are told: one with a token that is refused, one that watches everything."""
    heard = {}
    for name, token in (("refused", canary["socket_token"]), ("admin", admin_token(canary))):
        frames: list[str] = []
        try:
            async with (
                asyncio.timeout(10),
                connect(
                    service.ws_url, subprotocols=[Subprotocol("tidings.v1")], proxy=None
                ) as socket,
            ):
                await socket.send(json.dumps({"type": "auth", "token": token}))
                await socket.send(json.dumps({"type": "subscribe", "ref": 1, "all": True}))
                async for frame in socket:
                    frames.append(str(frame))
                    if '"synced"' in str(frame):
                        break
        except ConnectionClosed as closed:
            frames.append(str(closed))
        heard[f"socket {name}"] = "\n".join(frames)
    assert '"p1"' in heard["socket admin"]
    return heard


def admin_token(canary: dict[str, str]) -> str:
    claims = {"sub": "ops", "scope": "admin", "exp": int(time.time()) + 600}
    return jwt.encode(claims, canary["jwt"], algorithm="HS256")


async def commands(folder: Path, settings: dict[str, str], url: str) -> dict[str, str]:
    """What every command that reads prints."""
    heard = {}
    for line in (
        "doctor",
        "doctor --json",
        f"doctor --webhook replicate --url {url}",
        "dead-letters list",
        "dead-letters list --json",
        "dead-letters export",
        "dead-letters show 0:0",
        "audit export",
        "audit export --csv",
        "replay --verify --json",
        "replay --dry-run",
        "reconcile --dry-run",
        "erase --owner nobody --dry-run",
        "backup create backup.tar",
        "backup verify backup.tar",
        f"watch p1 --finished --json --url {url}",
    ):
        ended = await tidings(folder, *line.split(), settings=settings)
        heard[line] = ended.out + ended.err
    return heard


async def test_no_canary_is_ever_seen(tmp_path: Path, canary: dict[str, str]) -> None:
    """Planted in every setting, header and body, no secret is in a log line, a record, a frame, a page or an export."""
    assert len(canary) >= 30
    async with collecting() as collector, provider_that_echoes(canary) as api:
        settings = variables(canary, api, collector.url)
        async with serving(tmp_path, settings) as service:
            heard = await plant(service, canary)
            heard |= await commands(tmp_path, settings, service.url)
            await service.stop()
            heard["log"] = service.output
        heard["spans"] = repr(
            [(span.name, span.failed, span.attributes) for span in collector.spans]
        )
    heard["files"] = await asyncio.to_thread(lambda: "\n".join(map(str, tmp_path.rglob("*"))))
    assert collector.spans
    seen = sorted(
        {
            f"{name} in {where}: ...{text[max(0, text.index(spelling) - 100) :][:200]!r}"
            for where, text in heard.items()
            for name, spelling in planted(canary)
            if spelling in text
        }
    )
    assert not seen, "\n".join(seen)
