"""The library's entrance, for programs without a log: texts that grow."""

import pytest

from tidings.storage.errors import InvalidTransition, NotFound
from tidings.storage.memory import MemoryStore
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import Status
from tidings.streams.manager import PredictionStatusManager
from tidings.streams.rules.large_fields import path


async def test_a_text_is_appended_to() -> None:
    """Pieces go to the end or to their offset; a repeat changes nothing, and the last one ends the prediction."""
    manager = PredictionStatusManager(MemoryStore())
    await manager.initialize("p1", prompt="tell me")
    first = await manager.append_text("p1", "The ")
    assert (first.status, first.text, first.version) == (Status.PROCESSING, "The ", 2)
    assert (await manager.append_text("p1", "e quick", offset=2)).text == "The quick"
    assert (await manager.append_text("p1", "quick", offset=4)).version == 3
    ended = await manager.append_text("p1", " fox", offset=9, close=True)
    assert (ended.status, ended.text, ended.text_closed) == (
        Status.SUCCEEDED,
        "The quick fox",
        True,
    )


async def test_what_a_text_does_not_take_is_refused() -> None:
    """A gap, a contradiction and a piece after the end raise, and the record stays as it was."""
    manager = PredictionStatusManager(MemoryStore())
    with pytest.raises(NotFound):
        await manager.append_text("p1", "x")
    await manager.initialize("p1")
    await manager.append_text("p1", "The ")
    with pytest.raises(ValueError, match="send what is missing"):
        await manager.append_text("p1", "x", offset=5)
    with pytest.raises(ValueError, match="differs"):
        await manager.append_text("p1", "Tha", offset=0)
    with pytest.raises(ValueError, match="offset"):
        await manager.append_text("p1", "x", offset=-1)
    with pytest.raises(ValueError, match="would have"):
        await manager.append_text("p1", "x" * 2_000_000)
    with pytest.raises(ValueError, match="over"):
        await manager.update("p1", text="x" * 2_000_000)
    with pytest.raises(ValueError, match="surrogates"):
        await manager.append_text("p1", "\ud83d")
    record = await manager.get("p1")
    assert record is not None
    assert (record.text, record.version, record.text_missing) == ("The ", 2, None)
    await manager.mark_as_failed("p1", "it broke")
    with pytest.raises(InvalidTransition):
        await manager.append_text("p1", "late")


async def test_a_large_text_needs_object_storage() -> None:
    """Parts lie in the object storage that the manager was given; without one a large text is refused."""
    objects = ObjectStorage("memory://")
    manager = PredictionStatusManager(MemoryStore(), objects=objects)
    await manager.initialize("p1")
    record = await manager.append_text("p1", "x" * 40_000)
    [part] = record.text_parts
    assert await objects.get(path("p1", part.hash)) == b"x" * part.bytes
    assert record.text_tail == "x" * (40_000 - part.bytes)
    without = PredictionStatusManager(MemoryStore())
    await without.initialize("p1")
    with pytest.raises(ValueError, match="objects="):
        await without.append_text("p1", "x" * 40_000)


async def test_a_question_is_answered_once() -> None:
    """`update` asks, `answer` answers; a repeat changes nothing, anything else is refused."""
    manager = PredictionStatusManager(MemoryStore())
    await manager.initialize("p1")
    with pytest.raises(ValueError, match="does not wait"):
        await manager.answer("p1", "yes")
    for bad in (None, 5, "", {"choices": [1]}):
        with pytest.raises(ValueError, match=r"."):
            await manager.update("p1", waiting=True, question=bad)  # type: ignore[arg-type]
    asked = await manager.update("p1", waiting=True, question={"text": "Go on?"})
    assert (asked.waiting, asked.question_number) == (True, 1)
    answered = await manager.answer("p1", {"n": 1}, by="ada")
    assert (answered.waiting, answered.value("answer"), answered.answered_by) == (
        False,
        {"n": 1},
        "ada",
    )
    assert await manager.answer("p1", {"n": 1}, by="ada", number=1) == answered
    for answer, by in (({"n": 1}, "bob"), ({"n": 2}, "ada")):
        with pytest.raises(ValueError, match="does not wait"):
            await manager.answer("p1", answer, by=by)
    with pytest.raises(NotFound):
        await manager.answer("p2", "yes")
