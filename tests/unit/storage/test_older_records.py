"""Records of an older format, which hold the provider's body.

Nobody gets to see it, and they lose it in time.
"""

from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from tests.support.streams.events import T0, event, judge
from tidings import open_store
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, decode, encode, without_report
from tidings.storage.store import Stored, Write, as_read
from tidings.streams.changes.codec import parse
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, EVENTS, NewRecord, StoredRecord
from tidings.streams.replay.rebuild import Rebuild, span
from tidings.streams.replay.verify import verify
from tidings.streams.rules.decision import Applied, Stale
from tidings.streams.rules.reducer import StorePolicy

BODY = b'{"id":"p1","webhook":"https://example.com/hook?token=secret"}'
RECORD = (
    b'{"predictionId":"p1","status":"processing","version":3,"createdAt":%d,"updatedAt":%d,'
    b'"payload":{"seed":17454220438242315174,"report":"mine"},"transitions":[%%s]%%s}' % (T0, T0)
)
OLD = RECORD % (b"", b',"report":' + BODY + b',"source":{"log":"l","offsets":{"0":7}}')
NEW = RECORD % (b"", b',"source":{"log":"l","offsets":{"0":7}}')


def test_what_a_store_gives_leaves_the_body_out() -> None:
    """Whatever store it comes from, what is read of an older record is what a newer one would be, byte for byte."""
    assert as_read(3, None, OLD) == as_read(3, None, OLD.decode()) == Stored(3, None, NEW)
    assert as_read(3, None, NEW).encoded == NEW


def test_a_change_announced_before_leaves_the_body_out() -> None:
    """An older announcement in the topic is shown without the body too."""
    change = parse(StoredRecord(CHANGES, 0, 0, T0, b"p1", OLD, [("v", b"3"), ("s", b"processing")]))
    assert change is not None
    assert change.value == NEW


@pytest.mark.parametrize("encoded", [b'{"payload":{"report":1}}', b'{"logs":"\\"report\\":"}', b""])
def test_a_member_of_that_name_elsewhere_stays(encoded: bytes) -> None:
    """Only the record's own member goes: a payload or a log may say the same word."""
    assert without_report(encoded) is encoded


async def test_verify_compares_what_is_left(tmp_path: Path) -> None:
    """A live record of the older format is what a rebuild makes, apart from the body.

    Nothing is different.
    """
    log, scratch = MemoryLog(), MemoryStore()
    live = await open_store(f"sqlite:///{tmp_path}/store.db")
    policy = StorePolicy(await log.identity())
    await log.append(EVENTS, [NewRecord(b"p1", b'{"status":"processing","logs":"x"}')])
    rebuild = Rebuild(log, scratch, {}, policy)
    await rebuild.run(await span(log))
    [stored] = (await scratch.load(["p1"])).values()
    older = msgspec.json.encode(msgspec.json.decode(stored.encoded) | {"report": {"a": 1}})
    await live.write([Write(stored.standing(), older, 0)])
    found = await verify(rebuild, scratch, live, log, group="g")
    assert (found.compared, found.equal, found.differences) == (1, 1, [])
    await live.close()


def test_it_is_lost_with_the_first_event_and_changes_no_version() -> None:
    """An older record is written without the body when something is applied.

    The body itself is no news.
    """
    stands = decode(OLD)
    repeated = judge(stands, event("processing", at=T0), 8)
    assert isinstance(repeated, Stale)
    decision = judge(stands, event("processing", at=T0, logs="x"), 8)
    assert isinstance(decision, Applied)
    assert isinstance(decision.record, Prediction)
    assert decision.record.version == 4
    assert b"secret" not in encode(decision.record)
    assert decision.record.payload == Raw(b'{"seed":17454220438242315174,"report":"mine"}')
    assert "report" not in msgspec.json.decode(encode(decision.record))
