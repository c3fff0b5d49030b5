"""Growing texts over a real WebSocket: pieces, snapshots, conflation and permissions."""

from typing import Any

import pytest

from tests.support.conditions import eventually, lasting
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
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.websocket import read_probe
from tidings.storage.prediction import Prediction, Status


async def begun(push: Push, text: str = "The quick", **fields: Any) -> Prediction:
    """A prediction whose text has begun."""
    return await push.change(text=text, text_length=len(text.encode()), **fields)


def pieces(messages: list[dict[str, Any]]) -> str:
    """What the messages append, each at its place."""
    data = b""
    for message in messages:
        if message["type"] == "append":
            assert not data or message["offset"] == len(data) + first(messages)
            data += message["text"].encode()
    return data.decode()


def first(messages: list[dict[str, Any]]) -> int:
    """The offset of the first piece."""
    return next(int(one["offset"]) for one in messages if one["type"] == "append")


async def test_a_session_that_asked_gets_pieces() -> None:
    """What a text grows by comes as `append` at its offset, and its written versions come with it."""
    async with pushing() as push, push.client() as client:
        record = await begun(push)
        await hear(client)
        (_, snapshot, _) = await subscribe(client, ref=1, predictions=["p1"], text="append")
        assert snapshot["prediction"]["text"] == "The quick"
        await push.grow(record, "The quick brown", 9)
        assert await hear(client) == {
            "type": "append",
            "predictionId": "p1",
            "offset": 9,
            "text": " brown",
            "version": 1,
            "updatedAt": 1,
        }
        await push.grow(record, "The quick brown fox", 15)
        assert await hear(client) == {
            "type": "append",
            "predictionId": "p1",
            "offset": 15,
            "text": " fox",
        }
        record = await push.write_text(record, "The quick brown fox")
        await push.grow(record, "The quick brown fox jumps", 19)
        told = await hear(client)
        assert (told["text"], told["version"], told["updatedAt"]) == (" jumps", 2, 2)


async def test_a_session_that_did_not_ask_gets_whole_records() -> None:
    """Clients of before see what they saw: every written version whole, and no piece."""
    async with pushing() as push, push.client() as client:
        record = await begun(push)
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"])
        await push.grow(record, "The quick brown", 9)
        await push.write_text(record, "The quick brown")
        assert (await hear(client))["prediction"]["text"] == "The quick brown"
        assert await nothing_more(client) == []


async def test_a_record_that_says_more_than_its_text_comes_whole() -> None:
    """Where something else has changed, or it has ended, a session in step gets the whole record."""
    async with pushing() as push, push.client() as client:
        record = await begun(push)
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"], text="append")
        record = await push.write_text(record, "The quick brown", alone=False, progress=0.5)
        assert (await hear(client))["prediction"]["progress"] == 0.5
        await push.grow(record, "The quick brown fox", 15)
        assert (await hear(client))["text"] == " fox"
        await push.write_text(record, "The quick brown fox.", alone=False, status=Status.SUCCEEDED)
        assert (await hear(client))["prediction"]["text"] == "The quick brown fox."
        await eventually(lambda: len(push.texts) == 0)


async def test_a_record_ahead_of_the_pieces_brings_what_is_missing() -> None:
    """Pieces that come later than the record that has them are told from the record, once."""
    async with pushing() as push, push.client() as client:
        record = await begun(push)
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"], text="append")
        before = record
        record = await push.write_text(record, "The quick brown fox")
        assert (await hear(client))["text"] == " brown fox"
        await push.grow(before, "The quick brown fox", 9)
        await push.grow(record, "The quick brown fox jumps", 19)
        told = await hear(client)
        assert (told["offset"], told["text"]) == (19, " jumps")


async def test_pieces_ahead_of_their_record_wait_for_it() -> None:
    """A piece of a version that has not come is kept until it has."""
    async with pushing() as push, push.client() as client:
        record = await begun(push)
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"], text="append")
        written = await push.stand("p1", 2, text="The quick brown", text_length=15)
        await push.grow(written, "The quick brown fox", 15)
        assert await nothing_more(client) == []
        await push.announce(written, grown_from=record.version)
        assert pieces(await hear_until(client, "append")) == " brown fox"


async def test_a_gap_is_closed_by_the_next_record() -> None:
    """What lies behind a piece that was missed is told once the record has it."""
    async with pushing() as push, push.client() as client:
        record = await begun(push)
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"], text="append")
        await push.grow(record, "The quick brown fox", 15)
        assert await nothing_more(client) == []
        await push.write_text(record, "The quick brown fox")
        assert (await hear(client))["text"] == " brown fox"


async def test_a_late_reader_gets_what_has_come_since_the_record() -> None:
    """Whoever subscribes between two written versions gets the record, and then the rest at once."""
    async with pushing() as push, push.client() as client, push.client() as late:
        record = await begun(push)
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"], text="append")
        await push.grow(record, "The quick brown", 9)
        await hear(client)
        await hear(late)
        heard = await subscribe(late, ref=1, predictions=["p1"], text="append")
        assert heard[1]["prediction"]["text"] == "The quick"
        assert pieces([*heard, *await nothing_more(late)]) == " brown"


async def test_the_first_reader_gets_what_nobody_watched() -> None:
    """Pieces that came while nobody watched are kept until the record has them."""
    async with pushing() as push, push.client() as client:
        record = await begun(push)
        await push.grow(record, "The quick brown", 9)
        await eventually(lambda: push.texts.pieces == 1)
        await hear(client)
        heard = await subscribe(client, ref=1, predictions=["p1"], text="append")
        assert pieces([*heard, *await nothing_more(client)]) == " brown"


async def test_a_text_that_begins_later_comes_from_its_first_piece() -> None:
    """A prediction that was watched before it had a text shows the first piece at once."""
    async with pushing() as push, push.client() as client:
        record = await push.change()
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"], text="append")
        await push.grow(record, "Once", 0)
        told = await hear(client)
        assert (told["offset"], told["text"]) == (0, "Once")


async def test_pieces_within_the_window_are_joined() -> None:
    """Pieces of one window leave in one message."""
    async with pushing(window=0.2) as push, push.client() as client:
        record = await begun(push, "")
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"], text="append")
        whole = ""
        for word in ("a", "b", "c", "d", "e"):
            await push.grow(record, whole + word, len(whole))
            whole += word
        heard = [await hear(client)]
        while pieces(heard) != whole:
            heard.append(await hear(client))
        assert len(heard) <= 2


async def test_a_replaced_text_comes_whole() -> None:
    """A text that does not begin with what was there comes as a whole record, and pieces go on from it."""
    async with pushing() as push, push.client() as client:
        record = await begun(push)
        await hear(client)
        await subscribe(client, ref=1, predictions=["p1"], text="append")
        record = await push.write_text(record, "Another", alone=False, text_epoch=2)
        assert (await hear(client))["prediction"]["text"] == "Another"
        await push.grow(record, "Another one", 7)
        told = await hear(client)
        assert (told["offset"], told["text"]) == (7, " one")


async def test_pieces_of_others_are_never_seen() -> None:
    """A piece follows the rights to its record, also where the owner becomes known later."""
    tokens = Tokens({"ada": Permissions(subject="ada"), "bob": Permissions(subject="bob")})
    async with pushing(authenticator=tokens) as push, push.client() as ada, push.client() as bob:
        for client, token in ((ada, "ada"), (bob, "bob")):
            await say(client, type="auth", token=token)
            await hear(client)
            await subscribe(client, ref=1, predictions=["p1"], text="append")
        record = await begun(push)
        await push.grow(record, "The quick brown", 9)
        await eventually(lambda: push.texts.pieces == 1)
        assert await nothing_more(ada) == await nothing_more(bob) == []
        record = await push.stand("p1", 2, text="The quick brown", text_length=15, owner="ada")
        await push.announce(record)
        assert (await hear(ada))["prediction"]["text"] == "The quick brown"
        await push.grow(record, "The quick brown fox", 15)
        assert (await hear(ada))["text"] == " fox"
        assert await nothing_more(bob) == []


async def test_a_reader_that_stops_gets_the_rest_in_one_message() -> None:
    """A client that takes nothing for a while gets what has come meanwhile in one piece, and all of it."""
    async with (
        pushing() as push,
        push.client() as watcher,
        push.client(max_queue=1, max_size=None) as blocked,
    ):
        record = await begun(push, "")
        for client in (watcher, blocked):
            await hear(client)
            await subscribe(client, ref=1, predictions=["p1"], text="append")
        await subscribe(blocked, ref=2, predictions=["filler"], snapshot=False)
        blocked.transport.pause_reading()
        for version in range(1, 61):
            await push.change("filler", version, logs="x" * 200_000)
        await eventually(lambda: push.sessions.backlog()[0] == 1)
        whole = ""
        for count in range(200):
            word = f" {count}"
            await push.grow(record, whole + word, len(whole))
            whole += word
            if count % 40 == 0:
                record = await push.write_text(record, whole)
        heard: list[dict[str, Any]] = []
        while pieces(heard) != whole:
            heard.append(await hear(watcher))
        assert len(heard) > 50
        blocked.transport.resume_reading()
        rest: list[dict[str, Any]] = []
        while pieces(rest) != whole:
            rest.append(await hear(blocked))
        told = [one for one in rest if one.get("predictionId") == "p1" or is_of(one, "p1")]
        assert len(told) == 1


async def test_a_reader_that_stops_is_not_sent_what_buffers_would_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that reads nothing, and whose buffers have room for minutes, gets the rest in one message once it reads."""
    monkeypatch.setattr(read_probe, "EVERY", 5)
    monkeypatch.setattr(read_probe, "PATIENCE", 0.05)
    async with (
        pushing() as push,
        push.client(max_queue=None) as watcher,
        push.client(max_queue=None) as stopped,
    ):
        record = await begun(push, "")
        for client in (watcher, stopped):
            await hear(client)
            await subscribe(client, ref=1, predictions=["p1"], text="append")
        whole = ""
        heard: list[dict[str, Any]] = []
        rest: list[dict[str, Any]] = []

        async def grow(upto: int) -> None:
            nonlocal whole
            for number in range(whole.count(" "), upto):
                await push.grow(record, f"{whole} {number}", len(whole))
                whole += f" {number}"
                await lasting(0.005)
            while pieces(heard) != whole:
                heard.append(await hear(watcher))

        await grow(60)  # until both have answered a ping
        while pieces(rest) != whole:
            rest.append(await hear(stopped))
        stopped.transport.pause_reading()
        await grow(160)
        assert push.sessions.backlog() == (0, 0)  # its transport would take everything
        kept_back_from = len(whole)
        await grow(260)
        late = len(rest)
        stopped.transport.resume_reading()
        while pieces(rest) != whole:
            rest.append(await hear(stopped))
        assert all(reaches(one) < kept_back_from for one in rest[late:-1])
        assert reaches(rest[-1]) == len(whole)


async def test_readers_are_counted() -> None:
    """Who is sent pieces, how many they were sent, and by how much they are behind."""
    async with pushing() as push:
        audience = push.texts.audiences["websocket"]
        record = await begun(push)
        async with push.client(max_queue=None) as client, push.client() as plain:
            for one in (client, plain):
                await hear(one)
            await subscribe(client, ref=1, predictions=["p1"], text="append")
            await subscribe(plain, ref=1, predictions=["p1"])
            assert len(audience) == 1
            await push.grow(record, "The quick brown", 9)
            assert (await hear_until(client, "append"))[-1]["text"] == " brown"
            assert audience.pieces == 1
            assert audience.bytes > len(" brown")
            assert audience.behind() == (0, 0)
            await subscribe(client, ref=2, predictions=["filler"], snapshot=False)
            client.transport.pause_reading()
            for version in range(1, 61):
                await push.change("filler", version, logs="x" * 200_000)
            await eventually(lambda: push.sessions.backlog()[0] == 1)
            await push.grow(record, "The quick brown fox", 15)
            await eventually(lambda: audience.behind() == (1, 4))
        await eventually(lambda: len(audience) == 0)
        assert audience.behind() == (0, 0)


def reaches(message: dict[str, Any]) -> int:
    """The length of the text with this piece; 0: it is none."""
    return len(message["text"]) + int(message["offset"]) if message["type"] == "append" else 0


def is_of(message: dict[str, Any], prediction_id: str) -> bool:
    """Whether it carries a record of this prediction."""
    return bool(message.get("prediction", {}).get("predictionId") == prediction_id)
