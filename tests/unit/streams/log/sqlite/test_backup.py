"""Copies of a log's file."""

from pathlib import Path

from tests.support.streams.pipeline import read
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, TEXT, NewRecord
from tidings.streams.log.sqlite import backup


async def test_a_backup_leaves_pieces_of_texts_out(tmp_path: Path) -> None:
    """Pieces stand in the records soon after, or are judged again; their offsets are not used twice."""
    source, copy = tmp_path / "log.db", tmp_path / "copy.db"
    log = await open_log(f"sqlite:///{source}")
    await log.append(EVENTS, [NewRecord(b"p1", b"an event")])
    await log.append(TEXT, [NewRecord(b"p1", b"a secret piece") for _ in range(3)])
    await log.close()
    positions = backup.committed(source)
    backup.copy(source, copy)
    assert b"a secret piece" in copy.read_bytes()
    backup.set_back(copy, positions)
    assert b"a secret piece" not in copy.read_bytes()
    restored = await open_log(f"sqlite:///{copy}")
    try:
        assert [record.value for record in await read(restored, EVENTS)] == [b"an event"]
        assert await restored.bounds(TEXT) == {0: (3, 3)}
        [position] = await restored.append(TEXT, [NewRecord(b"p1", b"another")])
        assert position.offset == 3
    finally:
        await restored.close()
