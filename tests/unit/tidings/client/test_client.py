"""The client in Python, over real ports, through cuts, restarts, frozen networks and expiring tokens."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.support.client.scripted_service import Proxy, ScriptedService, record, scripted_service
from tests.support.conditions import eventually
from tidings.client.client import Client, Deleted, Update
from tidings.client.errors import (
    Conflicting,
    Forbidden,
    PredictionNotFound,
    RequestRefused,
    Unauthorized,
    Unreachable,
)
from tidings.client.progress import Selection, WatchState, parse
from tidings.client.subscription import longest_wait
from tidings.client.token import renewal_time
from tidings.storage.prediction import Prediction, Status

LIMIT = 20.0


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    async with scripted_service() as running:
        yield running


async def take(watch: Any, count: int) -> list[Update]:
    async with asyncio.timeout(LIMIT):
        return [await anext(watch) for _ in range(count)]


def said(updates: Sequence[Update]) -> list[tuple[str, int, str]]:
    return [
        (u.prediction_id, u.version, u.status if isinstance(u, Prediction) else "deleted")
        for u in updates
    ]


def answer(value: object, status: int = 200, **headers: str) -> web.Response:
    return web.json_response(value, status=status, headers=headers)


def jwt(exp: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": exp}).encode()).decode().rstrip("=")
    return f"h.{claims}.s"


async def test_what_stands_comes_first_then_what_changes(service: ScriptedService) -> None:
    """A watch brings what stands as typed records, then every change, then the deletion."""
    await service.change(prediction_id="p1", version=2)
    async with Client(service.url) as client, client.watch("p1", "p2") as watch:
        (first,) = await take(watch, 1)
        assert isinstance(first, Prediction)
        assert (first.status, first.version) == (Status.PROCESSING, 2)
        await service.change(
            prediction_id="p1", version=3, status="succeeded", imageUrl="https://x/y.png"
        )
        await service.change(prediction_id="p2", version=1, status="starting")
        await service.delete("p1", 4)
        assert said(await take(watch, 3)) == [
            ("p1", 3, "succeeded"),
            ("p2", 1, "starting"),
            ("p1", 4, "deleted"),
        ]
        await eventually(lambda: watch.connected)


async def test_a_cut_leaves_no_gap_and_brings_nothing_twice(service: ScriptedService) -> None:
    """After a cut the client names what it knows, and gets what changed meanwhile, and that alone."""
    for name in ("p1", "p2", "p3"):
        await service.change(prediction_id=name, version=1)
    async with Client(service.url) as client, client.watch("p1", "p2", "p3") as watch:
        await take(watch, 3)
        next_one = asyncio.create_task(take(watch, 2))
        await eventually(lambda: service.sockets)
        await service.cut()
        await service.change(prediction_id="p2", version=5, status="succeeded", announce=False)
        del service.records["p3"]
        service.gone["p3"] = 2
        assert sorted(said(await next_one)) == [("p2", 5, "succeeded"), ("p3", 2, "deleted")]
        assert service.subscriptions()[-1]["known"] == {"p1": 1, "p2": 1, "p3": 1}


async def test_an_older_version_is_never_brought(service: ScriptedService) -> None:
    """A repeat, or a version that was overtaken, is dropped by the client whatever the service sends."""
    async with Client(service.url) as client, client.watch("p1") as watch:
        waiting = asyncio.create_task(take(watch, 2))
        await eventually(lambda: service.subscriptions())
        for version in (3, 2, 3, 1, 4):
            await service.tell({"type": "change", "prediction": record("p1", version)})
        assert said(await waiting) == [("p1", 3, "processing"), ("p1", 4, "processing")]


async def test_a_restart_of_the_service_is_survived(service: ScriptedService) -> None:
    """While the service is away the client keeps trying, and goes on where it was."""
    await service.change(prediction_id="p1", version=1)
    async with Client(service.url) as client, client.watch(owner="o") as watch:
        await take(watch, 1)
        waiting = asyncio.create_task(take(watch, 1))
        await service.stop()
        await service.change(prediction_id="p1", version=2, announce=False)
        await service.start()
        assert said(await waiting) == [("p1", 2, "processing")]
        assert service.subscriptions()[-1]["owner"] == "o"
        assert service.subscriptions()[-1]["known"] == {"p1": 1}


async def test_a_frozen_network_is_noticed(service: ScriptedService) -> None:
    """A connection on which nothing comes any more is given up, and another one brings what was missed."""
    proxy = Proxy(service.port)
    await proxy.start()
    try:
        async with (
            Client(f"http://127.0.0.1:{proxy.port}", heartbeat=0.3) as client,
            client.watch("p1") as watch,
        ):
            waiting = asyncio.create_task(take(watch, 1))
            await eventually(lambda: service.subscriptions())
            proxy.freeze()
            await service.change(prediction_id="p1", version=7)
            handshakes = service.handshakes
            await eventually(lambda: not watch.connected)
            proxy.thaw()
            assert said(await waiting) == [("p1", 7, "processing")]
            assert service.handshakes >= handshakes
    finally:
        await proxy.stop()


async def test_bye_says_when_to_come_back(service: ScriptedService) -> None:
    """After `bye` the client comes back after the time that it was told."""
    async with Client(service.url) as client, client.watch("p1") as watch:
        waiting = asyncio.create_task(take(watch, 1))
        await eventually(lambda: service.subscriptions())
        await service.tell({"type": "bye", "retryAfter": 300})
        before = time.monotonic()
        await service.close(1012)
        await service.change(prediction_id="p1", version=1)
        await waiting
        assert time.monotonic() - before >= 0.3


@pytest.mark.parametrize("status", [429, 503, 502])
async def test_a_busy_service_is_asked_again(service: ScriptedService, status: int) -> None:
    """A handshake refused for now is tried again."""
    service.refuse_handshake = [status]
    await service.change(prediction_id="p1", version=1)
    async with Client(service.url) as client, client.watch("p1") as watch:
        await take(watch, 1)
    assert service.handshakes == 2


async def test_a_new_token_is_asked_for(service: ScriptedService) -> None:
    """Where the service refuses the token, the client asks for another, also on a connection that stood."""
    service.good_tokens = {"two"}
    bring = iter(["one", "two", "three"])
    await service.change(prediction_id="p1", version=1)

    async def token() -> str:
        return next(bring)

    async with Client(service.url, token) as client, client.watch("p1") as watch:
        await take(watch, 1)
        service.good_tokens = {"three"}
        waiting = asyncio.create_task(take(watch, 1))
        await service.close(4102, "expired")
        await eventually(lambda: len(service.sockets) == 1 and service.tokens[-1] == "three")
        await service.change(prediction_id="p1", version=2)
        await waiting
    assert service.tokens == ["one", "two", "three"]


async def test_a_token_is_renewed_before_it_expires(service: ScriptedService) -> None:
    """On an open connection a JWT is renewed ahead of its expiry, without coming back."""
    tokens = [jwt(time.time() + 1), jwt(time.time() + 3600)]
    async with Client(service.url, lambda: tokens.pop(0)) as client, client.watch("p1") as watch:
        waiting = asyncio.create_task(take(watch, 1))
        await eventually(lambda: any(message["type"] == "auth" for message in service.received))
        await service.change(prediction_id="p1", version=1)
        await waiting
    assert service.handshakes == 1
    assert tokens == []


async def test_a_renewal_that_fails_costs_nothing(service: ScriptedService) -> None:
    """Where no newer token can be had ahead of time, the one in use goes on, until the service refuses it."""
    service.good_tokens = {jwt(time.time() + 1)}
    asked: list[str] = []

    def bring() -> str:
        asked.append("token")
        if len(asked) == 2:
            raise OSError("the login is away")
        return next(iter(service.good_tokens or ()))

    async with Client(service.url, bring) as client, client.watch("p1") as watch:
        waiting = asyncio.create_task(take(watch, 1))
        await eventually(lambda: len(asked) == 2)
        await service.change(prediction_id="p1", version=1)
        await waiting
        waiting = asyncio.create_task(take(watch, 1))
        service.good_tokens = {"three"}
        await service.close(4102, "expired")
        await eventually(lambda: len(service.sockets) == 1 and service.tokens[-1] == "three")
        await service.change(prediction_id="p1", version=2)
        assert said(await waiting) == [("p1", 2, "processing")]


async def test_a_cut_loses_nothing_without_snapshots(service: ScriptedService) -> None:
    """What stood at first is left out on request, but not what may have changed while there was no connection."""
    await service.change(prediction_id="p1", version=1)
    for wide in (False, True):
        watching: dict[str, Any] = {"owner": "ann"} if wide else {}
        names = () if wide else ("p1",)
        async with (
            Client(service.url) as client,
            client.watch(*names, **watching, snapshot=False) as watch,
        ):
            waiting = asyncio.create_task(take(watch, 1))
            await eventually(partial(getattr, watch, "synced"))
            version = service.records["p1"]["version"] + 1
            await service.cut()
            await service.change(prediction_id="p1", version=version, announce=False)
            assert said(await waiting) == [("p1", version, "processing")]


async def test_a_refused_token_without_another_ends_the_watch(service: ScriptedService) -> None:
    """With a fixed token, or one that stays the same, there is no use in coming back."""
    service.good_tokens = {"good"}
    for token in ("bad", lambda: "bad"):
        async with Client(service.url, token) as client, client.watch("p1") as watch:
            with pytest.raises(Unauthorized, match="bring another token"):
                await take(watch, 1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(4100, RequestRefused), (4101, Unauthorized), (4104, RequestRefused), (1009, RequestRefused)],
    ids=str,
)
async def test_codes_that_forbid_coming_back(
    service: ScriptedService, code: int, kind: type[Exception]
) -> None:
    """Where something has to be mended first the watch ends with the reason."""
    async with Client(service.url) as client, client.watch("p1") as watch:
        waiting = asyncio.create_task(take(watch, 1))
        await eventually(lambda: service.subscriptions())
        await service.close(code, "because")
        with pytest.raises(kind, match="because"):
            await waiting
    assert service.handshakes == 1


@pytest.mark.parametrize("code", [4000, 4001, 1001, 1011])
async def test_codes_after_which_it_comes_back(service: ScriptedService, code: int) -> None:
    """After these the client comes back with what it knows."""
    async with Client(service.url) as client, client.watch("p1") as watch:
        waiting = asyncio.create_task(take(watch, 1))
        await eventually(lambda: service.subscriptions())
        await service.close(code)
        await eventually(lambda: len(service.subscriptions()) == 2)
        await service.change(prediction_id="p1", version=1)
        await waiting


async def test_a_forbidden_subscription_ends_the_watch(service: ScriptedService) -> None:
    """What the token does not allow to watch is an error with the service's words."""
    async with Client(service.url) as client, client.watch(all=True) as watch:
        waiting = asyncio.create_task(take(watch, 1))
        await eventually(lambda: service.subscriptions())
        await service.tell({"type": "error", "ref": 1, "code": "forbidden", "message": "not yours"})
        with pytest.raises(Forbidden, match="not yours"):
            await waiting


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (403, Forbidden), (404, RequestRefused)]
)
async def test_a_refused_handshake_ends_the_watch(
    service: ScriptedService, status: int, kind: type[Exception]
) -> None:
    """A handshake refused for good is an error, not a loop."""
    service.refuse_handshake = [status]
    async with Client(service.url) as client, client.watch("p1") as watch:
        with pytest.raises(kind):
            await take(watch, 1)


async def test_patience_has_an_end() -> None:
    """With `patience` a watch of a service that nobody runs fails, and says where it looked."""
    async with Client("http://127.0.0.1:9", patience=0.5) as client:
        with pytest.raises(Unreachable, match=r"ws://127\.0\.0\.1:9/api/ws cannot be reached"):
            await take(client.watch("p1"), 1)


@given(st.floats(0, 1e6))
def test_no_wait_is_longer_than_the_outage_has_lasted(lasted: float) -> None:
    """Half a second at first, then up to as long again as it has lasted, and never over 20 s."""
    assert longest_wait(lasted) == sorted((0.5, lasted, 20.0))[1]


async def test_closing_ends_the_iteration(service: ScriptedService) -> None:
    """Closing the client, from wherever, ends its watches, also those that wait to come back."""
    async with Client(service.url) as client:
        watches = [client.watch("p1"), client.watch(tag="t")]
        tasks = [asyncio.create_task(_drain(watch)) for watch in watches]
        await eventually(lambda: len(service.subscriptions()) == 2)
        await service.stop()
        await eventually(lambda: not any(watch.connected for watch in watches))
    async with asyncio.timeout(LIMIT):
        assert await asyncio.gather(*tasks) == [0, 0]


async def _drain(watch: Any) -> int:
    return len([update async for update in watch])


async def test_finished_waits_for_the_end(service: ScriptedService) -> None:
    """`finished` returns the record once its status is terminal; a deletion is an error."""
    await service.change(prediction_id="p1", version=1)
    async with Client(service.url) as client:
        waiting = asyncio.create_task(client.finished("p1", timeout=LIMIT))
        await eventually(lambda: service.subscriptions())
        await service.change(prediction_id="p1", version=2)
        await service.change(prediction_id="p1", version=3, status="failed", error="no")
        assert (await waiting).error == "no"
        assert (await client.finished("p1", timeout=LIMIT)).status is Status.FAILED
        other = asyncio.create_task(client.finished("p2", timeout=LIMIT))
        await eventually(
            lambda: (
                len(service.sockets) == 1 and service.subscriptions()[-1]["predictions"] == ["p2"]
            )
        )
        await service.change(prediction_id="p2", version=1)
        await service.delete("p2", 2)
        with pytest.raises(PredictionNotFound):
            await other
        with pytest.raises(TimeoutError):
            await client.finished("p3", timeout=0.2)


async def test_many_ids_are_named_in_pieces(service: ScriptedService) -> None:
    """Thousands of long ids go out in messages that the service takes, each id once."""
    names = [f"{number:04}-{'x' * 240}" for number in range(2000)]
    async with Client(service.url) as client, client.watch(*names, *names[:5]) as watch:
        waiting = asyncio.create_task(take(watch, 1))
        await eventually(
            lambda: sum(len(request["predictions"]) for request in service.subscriptions()) == 2000
        )
        await service.change(prediction_id=names[-1], version=1)
        await waiting
    assert len(service.subscriptions()) > 1
    assert [name for request in service.subscriptions() for name in request["predictions"]] == names


async def test_exactly_one_thing_is_watched() -> None:
    """A watch of nothing, or of two kinds of things, is refused before anything is sent."""
    async with Client("http://127.0.0.1:9") as client:
        for wrong in ({}, {"owner": "o", "tag": "t"}, {"all": True, "model": "m"}):
            with pytest.raises(ValueError, match="exactly one"):
                client.watch(**wrong)
    with pytest.raises(ValueError, match="no address"):
        Client("127.0.0.1:8080")


Wire = st.tuples(
    st.sampled_from("abc"),
    st.integers(1, 9),
    st.sampled_from(["snapshot", "change", "deleted", "unknown"]),
)


@given(st.lists(Wire, max_size=60))
def test_versions_only_rise(messages: list[tuple[str, int, str]]) -> None:
    """Whatever is sent in whatever order, versions of one prediction rise, until it is said to be unknown."""
    progress = WatchState(Selection(all=True), known={"a": 2})
    last: dict[str, int] = {"a": 2}
    for name, version, kind in messages:
        body: dict[str, Any] = {"type": kind, "predictionId": name, "version": version}
        if kind in {"snapshot", "change"}:
            body = {"type": kind, "prediction": record(name, version)}
        update = progress.update_from(parse(json.dumps(body)))
        if kind == "unknown":
            last.pop(name, None)
        if isinstance(update, Prediction):
            assert version > last.get(name, 0)
        elif isinstance(update, Deleted):
            assert version >= last.get(name, 0)
        if update is not None:
            last[name] = version
        elif kind != "unknown":
            assert last.get(name, 0) >= version


def test_when_a_token_is_renewed() -> None:
    """A JWT is renewed 30 s before its expiry, or a tenth of its life before; what says nothing of it never is."""
    assert renewal_time(jwt(10_000), 1000) == 9970
    assert renewal_time(jwt(1100), 1000) == 1090
    for text in (
        "key",
        "a.b.c",
        "a.!.c",
        f"a.{base64.urlsafe_b64encode(b'[]').decode()}.c",
        "a.e30.c",
    ):
        assert renewal_time(text, 0) is None


def test_a_clock_that_is_wrong_renews_nothing() -> None:
    """A token that the service takes, and that seems to be over, is not renewed at once, again and again."""
    assert renewal_time(jwt(1000), 1000) is None
    assert renewal_time(jwt(1000), 4600) is None


async def test_reads(service: ScriptedService) -> None:
    """`get` and `list` give typed records, and ask as the service wants to be asked."""
    service.answers = [
        answer({"success": True, "data": record("a/b", 3)}),
        answer({"success": True, "data": [record("x", 1), record("y", 2)], "cursor": "c"}),
        answer(
            {"error": "Prediction not found", "code": "not-found", "detail": "Check the id."}, 404
        ),
    ]
    async with Client(service.url, "key") as client:
        assert (await client.get("a/b")).version == 3
        page = await client.list(status=Status.FAILED, owner="o", limit=2)
        assert [one.prediction_id for one in page.data] == ["x", "y"]
        assert page.cursor == "c"
        with pytest.raises(
            PredictionNotFound, match=r"Prediction not found: Check the id\."
        ) as caught:
            await client.get("p")
    assert (caught.value.status, caught.value.code) == (404, "not-found")
    assert [path for _, path, _, _ in service.requests[:2]] == [
        "/api/predictions/a%2Fb",
        "/api/predictions?status=failed&owner=o&limit=2",
    ]
    assert service.requests[0][2]["authorization"] == "Bearer key"


async def test_writes(service: ScriptedService) -> None:
    """`create`, `patch`, `cancel` and `delete` send the wire's own names; a forbidden step is `Conflicting`."""
    service.answers = [
        answer({"success": True, "data": record("p", 1, "starting")}, 201),
        answer({"success": True, "data": record("p", 2)}),
        answer(
            {
                "error": "Invalid transition from succeeded to processing",
                "code": "invalid-transition",
            },
            409,
        ),
        answer({"success": True, "data": record("p", 2)}, 202),
        web.Response(status=204),
    ]
    async with Client(service.url) as client:
        created = await client.create(
            provider="replicate", model="m", prompt="a cat", payload={"n": 2}, tags=("t",)
        )
        assert created.status is Status.STARTING
        assert (await client.patch("p", status="processing", image_url="https://x/y")).version == 2
        with pytest.raises(Conflicting, match="Invalid transition from succeeded to processing"):
            await client.patch("p", status="processing")
        assert (await client.cancel("p")).version == 2
        await client.delete("p")
    methods = [(method, path) for method, path, _, _ in service.requests]
    one = "/api/predictions/p"
    assert methods == [
        ("POST", "/api/predictions"),
        ("PATCH", one),
        ("PATCH", one),
        ("POST", f"{one}/cancel"),
        ("DELETE", one),
    ]
    sent = json.loads(service.requests[0][3])
    assert sent == {
        "provider": "replicate",
        "model": "m",
        "prompt": "a cat",
        "payload": {"n": 2},
        "tags": ["t"],
    }
    assert service.requests[0][2]["idempotency-key"]
    assert json.loads(service.requests[1][3]) == {"status": "processing", "imageUrl": "https://x/y"}


async def test_requests_are_repeated_where_that_is_harmless(service: ScriptedService) -> None:
    """A busy service is asked again with the same idempotency key; a 401 once more with a new token."""
    busy = {"error": "busy", "code": "unavailable"}
    service.answers = [
        answer(
            {"success": True, "data": {"predictionId": "x"}}, 202, Location="/api/predictions/x"
        ),
        answer(busy, 503, **{"Retry-After": "0"}),
        answer({"success": True, "data": record("p", 1)}, 201),
        answer({"error": "expired"}, 401),
        answer({"success": True, "data": record("p", 1)}),
        answer({"error": "expired"}, 401),
        *[answer(busy, 503, **{"Retry-After": "0"}) for _ in range(3)],
    ]
    tokens = iter(["one", "two", "two", "two"])
    async with Client(service.url, lambda: next(tokens)) as client:
        with pytest.raises(Unreachable, match="read /api/predictions/x later"):
            await client.create(provider="r", model="m")
        service.requests.clear()
        await client.create(provider="r", model="m")
        assert (
            service.requests[0][2]["idempotency-key"] == service.requests[1][2]["idempotency-key"]
        )
        await client.get("p")
        assert service.requests[3][2]["authorization"] == "Bearer two"
        with pytest.raises(Unauthorized):
            await client.get("p")
        with pytest.raises(Unreachable, match="busy"):
            await client.get("p")
    assert service.answers == []
    async with Client("http://127.0.0.1:9") as nobody:
        with pytest.raises(Unreachable, match="is the service running there"):
            await nobody.get("p")
