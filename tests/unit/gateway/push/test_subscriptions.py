"""What subscriptions leave behind in a session, and what sessions that end leave behind in the hub."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.gateway.test_hostile import UPGRADE, frame
from tests.support.conditions import eventually
from tests.support.gateway.pushing import (
    Push,
    Tokens,
    hear,
    hear_until,
    nothing_more,
    pushing,
    say,
    subscribe,
)
from tests.unit.gateway.websocket.test_connection import closed, stuffed, versions
from tidings.gateway.auth.permissions import OPEN, Permissions
from tidings.gateway.auth.quotas import SessionLimits
from tidings.gateway.push import subscriptions
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.protocol import Close
from tidings.gateway.push.subscriptions import FEW, SubscriptionState
from tidings.gateway.push.transport import ClosedOutput
from tidings.storage.prediction import Prediction, Status, Tombstone, encode
from tidings.storage.store import Capabilities, Write
from tidings.streams.changes.codec import Change

pytestmark = pytest.mark.doors


async def unsubscribe(client: Any, **message: Any) -> None:
    await say(client, type="unsubscribe", **message)
    await hear_until(client, "unsubscribed")


def floors(push: Push) -> int:
    """How many versions the sessions keep beside their subscriptions."""
    return sum(len(one.session._floors or ()) for group in push.sessions._groups for one in group)


async def test_a_new_subscription_gets_what_one_that_ended_got() -> None:
    """Who unsubscribes from an owner and subscribes again without knowing anything gets every snapshot again."""
    async with pushing() as push, push.client() as client:
        for number in range(30):
            await push.stand(f"p{number}", 2, status=Status.SUCCEEDED, owner="a")
        for _ in range(3):
            assert len(versions(await subscribe(client, owner="a"), "snapshot")) == 30
            await unsubscribe(client, owner="a")
            assert floors(push) == 0


async def test_what_is_still_watched_by_name_is_not_repeated() -> None:
    """A version that came by an owner's subscription, ended since, is no news to the one by name beside it."""
    async with pushing() as push, push.client() as client:
        first = await push.stand("p1", 2, owner="a")
        assert versions(await subscribe(client, owner="a"), "snapshot") == [2]
        assert versions(await subscribe(client, predictions=["p1"]), "snapshot") == []
        await unsubscribe(client, owner="a")
        await push.announce(first)
        await push.change("p1", 3, owner="a")
        assert versions(await nothing_more(client)) == [3]


async def test_what_the_service_itself_told_counts_for_no_limit() -> None:
    """However many records a session was sent, only what the client names is limited, and that is."""
    async with pushing(limits=SessionLimits(subscriptions=5)) as push, push.client() as client:
        for number in range(40):
            await push.stand(f"p{number}", 2, status=Status.SUCCEEDED, owner=f"o{number % 4}")
        for number in range(4):
            assert len(versions(await subscribe(client, owner=f"o{number}"), "snapshot")) == 10
        assert await nothing_more(client) == []
        await subscribe(client, owner="o4", known={f"p{number}": 9 for number in range(100, 110)})
        await say(client, type="subscribe", owner="o4", known={"p200": 1})
        assert (await closed(client))[0] == Close.TOO_MANY


def test_versions_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is watched widely the versions sent last are kept, and those of what is watched by name besides."""
    monkeypatch.setattr(subscriptions, "FLOORS", 3)
    state = SubscriptionState(Hub())
    state.permissions = OPEN

    class Subscriber:
        def deliver(self, delivery: Any) -> None:
            """Nothing comes."""

    state.subscribe(("all",), {"c": 1}, Subscriber())
    state.subscribe(("prediction:n",), {"n": 7}, Subscriber())
    for name in "pqrs":
        state.raise_floor(name, 5)
    assert [state.floor(name) for name in "cpqrsn"] == [0, 0, 5, 5, 5, 7]
    assert state.claims == 0


@pytest.mark.lean
async def test_a_session_that_was_closed_subscribes_to_nothing() -> None:
    """What a client sent while its token was checked ends with the message that closes the connection."""
    async with pushing(
        authenticator=Tokens({"good": Permissions(scopes=frozenset({"watch:all"}))})
    ) as push:
        reader, writer = await asyncio.open_connection("127.0.0.1", push.port)
        said = (b'{"type":"auth","token":"good"}', b"nonsense", b'{"type":"subscribe","all":true}')
        writer.write(UPGRADE + b"".join(map(frame, said)))
        async with asyncio.timeout(10):
            heard = await reader.read()
        writer.close()
        assert Close.MALFORMED.to_bytes(2, "big") in heard
        assert b"subscribed" not in heard
        await eventually(lambda: not len(push.sessions) and not push.sessions._tasks)
        assert push.hub.watched("all") == 0


async def test_a_backlog_that_cannot_be_read_ends_the_session() -> None:
    """Where reading what waits fails in a way that nobody foresaw, the client is told to come back."""
    async with (
        pushing(limits=SessionLimits(pending_records=5)) as push,
        push.client(max_queue=1, max_size=None) as client,
    ):

        async def fail(prediction_ids: Sequence[str]) -> Mapping[str, Any]:
            raise ZeroDivisionError

        await subscribe(client, all=True)
        client.transport.pause_reading()
        await stuffed(push, 60)
        for number in range(40):
            await push.change(f"p{number}", 1)
        push.store.load = fail  # type: ignore[method-assign, assignment]
        client.transport.resume_reading()
        assert (await closed(client))[0] == Close.RESTART
        await eventually(lambda: not len(push.sessions))


class Collecting(ClosedOutput):
    """An output that keeps what is written."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        """Keep the messages of these frames."""
        while data:
            size, begin = data[1], 2
            if size == 126:
                size, begin = int.from_bytes(data[2:4]), 4
            self.heard.append(json.loads(data[begin : begin + size]))
            data = data[begin + size :]


@pytest.mark.parametrize("watch", [b'"predictions":["p1"]', b'"all":true'])
@pytest.mark.parametrize("gone", [False, True])
async def test_what_was_read_ahead_of_its_announcement_is_not_sent_again(
    watch: bytes, gone: bool
) -> None:
    """A backlog is read from the store, where a newer version stands before it is announced: it comes once."""
    async with pushing(limits=SessionLimits(pending_records=0)) as push:
        output = Collecting()
        session = push.sessions.new_session(output)
        session.start(None)
        session.receive(b'{"type":"subscribe","snapshot":false,%b}' % watch)
        session.pause()
        await push.change("p1", 1)
        await eventually(lambda: session.pending)
        ahead: Prediction | Tombstone = await push.stand("p1", 2)
        if gone:
            ahead = Tombstone(prediction_id="p1", deleted=True, version=3, updated_at=3)
            await push.store.write([Write(ahead, encode(ahead), 2)])
        session.resume()
        await eventually(lambda: not session.backed_up)
        said = len(output.heard)
        await push.announce(ahead)
        await push.change("p1", 3 + gone, status=Status.PROCESSING)
        await eventually(lambda: len(output.heard) > said)
        versions = [
            one.get("prediction", one)["version"]
            for one in output.heard
            if one["type"] in {"change", "deleted"}
        ]
        assert versions == [2 + gone, 3 + gone]
        await eventually(lambda: session.passes_through)
        session.closed()


async def test_what_is_known_is_answered_where_the_store_cannot_list() -> None:
    """Of what `known` names everything newer or gone comes, and then the word that the rest cannot be listed."""
    async with pushing() as push, push.client() as client:
        await push.stand("p1", 4, owner="a")
        await push.stand("p2", 2, owner="a")
        push.store.capabilities = Capabilities(lists=False)
        await say(client, type="subscribe", ref=1, owner="a", known={"p1": 3, "p2": 2, "p3": 5})
        heard = [one for one in await hear_until(client, "error") if one["type"] != "welcome"]
        assert [one["type"] for one in heard] == ["subscribed", "snapshot", "deleted", "error"]
        assert heard[1]["prediction"]["version"] == 4
        assert (heard[2]["predictionId"], heard[3]["code"]) == ("p3", "unsupported")
        await push.change("p4", 1, owner="a")
        assert (await hear(client))["prediction"]["predictionId"] == "p4"


@given(st.lists(st.tuples(st.sampled_from("+-^v"), st.integers(0, 40)), max_size=120))
def test_floors_are_indexed_as_they_are(steps: list[tuple[str, int]]) -> None:
    """Whatever is subscribed, sent, announced and ended: the index names the floors that there are."""

    class Quiet:
        def deliver(self, delivery: Any) -> None:
            """Nothing comes."""

    hub, quiet = Hub(), Quiet()
    state = SubscriptionState(hub)
    state.permissions = OPEN
    for step, number in steps:
        name = f"p{number}"
        if step == "+":
            state.subscribe(tuple(f"prediction:p{n}" for n in range(number)), {}, quiet)
        elif step == "-":
            state.unsubscribe([f"prediction:{name}"], quiet)
        elif step == "^":
            state.raise_floor(name, number + 1)
        else:
            state.accept(Change(name, 99, b"{}"))
        floored = {key.partition(":")[2] for key, floor in (state.keys or {}).items() if floor}
        assert state._floored == len(floored)
        assert state._floored_index is None or state._floored_index == floored
        if state._floored_index is None and floored:
            assert len(state.keys or ()) <= FEW
