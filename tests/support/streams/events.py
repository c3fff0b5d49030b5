"""Events for tests, short to write."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import Raw

from tidings.storage.prediction import Prediction, Standing, Status, Usage
from tidings.streams.log.protocol import Position
from tidings.streams.rules.decision import Applied, Decision
from tidings.streams.rules.event import Archive, Event, EventType
from tidings.streams.rules.fields import JSON_NAMES
from tidings.streams.rules.transitions import decide

LOG = "log-1"
T0 = 1_764_000_000_000
JSON_FIELDS = JSON_NAMES | {"replace"}


def event(status: str | None = None, type: str = "report", **fields: Any) -> Event:
    """An event about `p1`; JSON fields are given as Python values."""
    for name in JSON_FIELDS & fields.keys():
        fields[name] = Raw(msgspec.json.encode(fields[name]))
    if "archive" in fields:
        fields["archive"] = Archive(fields["archive"])
    fields.setdefault("at", T0)
    fields.setdefault("recorded_at", fields["at"])
    fields.setdefault("prediction_id", "p1")
    return Event(type=EventType(type), status=Status(status) if status else None, **fields)


def judge(
    current: Standing | None, what: Event, offset: int = 0, *, strict: bool = False
) -> Decision:
    """`decide` at an offset of partition 0."""
    return decide(current, what, Position(0, offset), log=LOG, strict=strict)


def run(*events: Event, strict: bool = False) -> Standing | None:
    """What stands after these events, one offset each."""
    current: Standing | None = None
    for offset, what in enumerate(events):
        decision = judge(current, what, offset, strict=strict)
        if isinstance(decision, Applied):
            current = decision.record
    return current


def record(*events: Event) -> Prediction:
    """The prediction after these events."""
    current = run(*events)
    assert isinstance(current, Prediction)
    return current


statuses = st.sampled_from([None, *Status])
texts = st.text(max_size=5)
json_values = st.one_of(
    st.lists(st.integers(-5, 5), max_size=4),
    st.text(max_size=6),
    st.integers(),
    st.dictionaries(texts, texts, max_size=2),
).map(lambda value: Raw(msgspec.json.encode(value)))


def maybe(strategy: st.SearchStrategy[Any], absent: Any = None) -> st.SearchStrategy[Any]:
    """The strategy's values, or nothing."""
    return st.one_of(st.just(absent), strategy)


_empty = Raw(b"")

usages = st.builds(
    Usage,
    input_tokens=maybe(st.integers(0, 3)),
    output_tokens=maybe(st.integers(0, 3)),
    seconds=maybe(st.sampled_from([0, 1, 1.0, 1.5, 2])),
    images=maybe(st.integers(0, 2)),
    cost=maybe(st.sampled_from(["0", "1", "1.0", "1.00", "0.999999999999", "10"])),
    currency=maybe(st.sampled_from(["EUR", "USD"])),
).filter(lambda usage: (usage.cost is None) is (usage.currency is None))
"""What reports say of usage."""

events = st.builds(
    Event,
    prediction_id=st.just("p1"),
    at=st.integers(T0, T0 + 1000),
    recorded_at=st.integers(T0 + 1000, T0 + 2000),
    type=st.sampled_from(
        [*EventType, EventType.REPORT, EventType.REPORT, EventType.REPORT, EventType.CREATE]
    ),
    id=maybe(st.sampled_from(["a", "b", "c"])),
    source=maybe(st.just("test")),
    status=statuses,
    archive=st.sampled_from(Archive),
    payload=maybe(json_values, _empty),
    prompt=maybe(texts),
    model=maybe(texts),
    provider=maybe(texts),
    provider_id=maybe(st.sampled_from(["r1", "r1", "r2"])),
    provider_urls=maybe(st.just(Raw(b'{"get":"https://x"}')), _empty),
    owner=maybe(st.sampled_from(["o", "o", "stranger"])),
    tags=st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
    output=maybe(json_values, _empty),
    image_url=maybe(texts),
    image_path=maybe(texts),
    assets=maybe(st.just(Raw(b'[{"url":"/assets/1","path":"x/1"}]')), _empty),
    error=maybe(texts),
    progress=maybe(st.floats(0, 1)),
    logs=maybe(texts),
    estimated_time=maybe(st.integers(0, 9)),
    generation_time=maybe(st.integers(0, 9)),
    deadline=maybe(st.integers(T0 - 500, T0 + 3000)),
    usage=maybe(usages),
    attempt=maybe(st.sampled_from(["t1", "t2"])),
    waiting=maybe(st.booleans()),
    question=maybe(st.sampled_from([Raw(b'"Go on?"'), Raw(b'{"text":"Stop?"}')]), _empty),
    question_number=maybe(st.integers(1, 3)),
    answer=maybe(json_values, _empty),
    assets_error=maybe(texts),
    text=maybe(texts),
    offset=maybe(st.integers(0, 8)),
    text_closed=st.booleans(),
    replace=st.one_of(st.just(_empty), st.just(Raw(b"null")), json_values),
    version=maybe(st.integers(1, 9)),
    upto=maybe(st.just({"0": 100})),
)
"""Any event at all about `p1`, sensible or not."""

ordinary_events = events.filter(lambda e: e.type is not EventType.REPAIR)
"""Without repairs, which set the version themselves."""
