"""Texts with the Python client: writing with a block, reading piece by piece, over a real port."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.conditions import eventually
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.client.client import Client
from tidings.client.errors import Conflicting, RequestRefused
from tidings.client.progress import Selection, WatchState, parse
from tidings.client.text import piece_of

WORDS = ["Ça", " marche", " très", " bien", " 🎉", "\n", " fin"]


@pytest.fixture
async def service() -> AsyncIterator[SmallService]:
    async with small_service() as running:
        yield running


async def read(client: Client, name: str, pieces: list[str]) -> None:
    async for piece in client.text(name):
        pieces.append(piece)  # noqa: PERF401 - those that came before an error count too


async def test_a_block_writes_a_text_and_ends_it(service: SmallService) -> None:
    """What is written in a block is the text, each piece once, and its end is the prediction's."""
    await service.put(prediction("p1"))
    async with Client(service.url) as client:
        pieces: list[str] = []
        reading = asyncio.create_task(read(client, "p1", pieces))
        async with client.text("p1") as text:
            for word in WORDS:
                await text.write(word)
                await text.flush()
        await reading
        assert "".join(pieces) == "".join(WORDS)
        assert len(pieces) > 1
        record = await client.get("p1")
        assert (record.status, record.text) == ("succeeded", "".join(WORDS))


async def test_pieces_are_joined_while_a_request_is_under_way(service: SmallService) -> None:
    """A writer need not wait: many small pieces leave in few requests, in order."""
    await service.put(prediction("p1"))
    async with Client(service.url) as client:
        async with client.text("p1") as text:
            for count in range(1_000):
                await text.write(f"{count} ")
        record = await client.get("p1")
        assert record.text == "".join(f"{count} " for count in range(1_000))
        assert record.text_producers[0].seq < 100


async def test_a_block_that_raises_fails_the_prediction(service: SmallService) -> None:
    """What was written stays, and the prediction has failed with what was raised."""
    await service.put(prediction("p1"))
    async with Client(service.url) as client:

        async def fail() -> None:
            async with client.text("p1") as text:
                await text.write("so far")
                raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            await fail()
        record = await client.get("p1")
        assert (record.status, record.text, record.error) == ("failed", "so far", "no more")
        with pytest.raises(RequestRefused, match="no more"):
            await read(client, "p1", [])


async def test_halves_of_a_character_are_kept_together(service: SmallService) -> None:
    """Half a surrogate pair waits for its other half."""
    await service.put(prediction("p1"))
    async with Client(service.url) as client:
        async with client.text("p1") as text:
            await text.write("a\ud83c")
            await text.flush()
            await text.write("\udf89b")
        assert (await client.get("p1")).text == "a🎉b"


async def test_a_text_that_is_replaced_says_so(service: SmallService) -> None:
    """A text that does not begin with what was read begins anew."""
    await service.put(prediction("p1", text="The quick", text_length=9))
    async with Client(service.url) as client:
        text = client.text("p1")
        pieces = aiter(text)
        assert (await anext(pieces), text.replaced) == ("The quick", False)
        await client.patch("p1", status="succeeded", text="Another")
        assert (await anext(pieces), text.replaced) == ("Another", True)
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)


async def test_what_cannot_be_written_is_raised(service: SmallService) -> None:
    """A text that has ended refuses the writer; where there is no prediction the first piece makes it."""
    await service.put(prediction("p1", status="succeeded"))
    async with Client(service.url) as client:

        async def write(name: str) -> None:
            async with client.text(name) as text:
                await text.write("lost")
                await text.flush()

        with pytest.raises(Conflicting):
            await write("p1")
        await write("p9")
        assert (await client.get("p9")).text == "lost"


async def test_a_long_text_is_handed_out_whole(service: SmallService) -> None:
    """`watch` hands out the whole text of a prediction whose record has only the end of it."""
    await service.put(prediction("p1", text="x" * 30_000, text_length=30_000))
    async with Client(service.url) as client, client.watch("p1") as watch:
        assert (await anext(watch)).text == "x" * 30_000  # type: ignore[union-attr]
        async with client.text("p1") as text:
            await text.write("y" * 2_000)
        await eventually(lambda: service.store.peek("p1"))
        update: Any = await anext(watch)
        while not update.status.terminal:
            update = await anext(watch)
        assert update.text == "x" * 30_000 + "y" * 2_000


def test_chunks_of_a_model() -> None:
    """The text in the chunks of an OpenAI-compatible API, as objects and as dictionaries."""
    chunk = SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(content="Hi"))])
    assert piece_of(chunk) == "Hi"
    assert piece_of({"choices": [{"delta": {"content": "Hi"}}]}) == "Hi"
    assert piece_of({"choices": []}) == ""
    assert piece_of({"choices": [{"delta": {}}]}) == ""
    assert piece_of({"type": "response.output_text.delta", "delta": "Hi"}) == "Hi"
    assert piece_of({"type": "response.completed"}) == ""
    assert piece_of("Hi") == "Hi"


async def test_pipe_writes_what_a_source_yields(service: SmallService) -> None:
    """`pipe` takes a model's stream as it is."""

    async def source() -> AsyncIterator[Any]:
        for word in WORDS:
            yield {"choices": [{"delta": {"content": word}}]}

    await service.put(prediction("p1"))
    async with Client(service.url) as client:
        async with client.text("p1") as text:
            await text.pipe(source())
        assert (await client.get("p1")).text == "".join(WORDS)


def test_repeats_are_cut_and_gaps_left_out() -> None:
    """A piece that overlaps is cut in bytes; one behind a gap is left out; a record does not shorten the text."""
    state = WatchState(Selection(predictions=("p1",)), known={})

    def told(message: str) -> str | None:
        update: Any = state.update_from(parse(message))
        return None if update is None else update.text

    def record(version: int, text: str) -> str:
        size = len(text.encode())
        return (
            f'{{"type":"change","prediction":{{"predictionId":"p1","status":"processing","version":{version},'
            f'"createdAt":1,"updatedAt":1,"text":"{text}","textLength":{size}}}}}'
        )

    def append(offset: int, text: str) -> str:
        return f'{{"type":"append","predictionId":"p1","offset":{offset},"text":"{text}"}}'

    assert told(append(0, "x")) is None
    assert told(record(1, "é")) == "é"
    assert told(append(0, "éa")) == "éa"
    assert told(append(0, "éa")) is None
    assert told(append(9, "x")) is None
    assert told(append(2, "ab")) == "éab"
    assert told(record(2, "éa")) == "éab"
    assert told(record(3, "other")) == "other"
