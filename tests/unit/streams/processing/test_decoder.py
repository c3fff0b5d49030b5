"""From log records to events, and what is poison."""

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.storage.prediction import Producer, Status
from tidings.streams.log.protocol import StoredRecord
from tidings.streams.processing.decoder import MAX_DEPTH, decode_event, name_prediction
from tidings.streams.rules.event import Archive, Event, EventType, OtherResource, Poison

NOW = 1_764_000_000_000


def read(
    value: Any,
    key: str | bytes | None = "p1",
    headers: dict[str, str] | None = None,
    timestamp: int = NOW,
) -> Event:
    """Translate a record of this value, as it stands when it is bytes and as JSON otherwise."""
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    named = key.encode() if isinstance(key, str) else key
    pairs = tuple((name, text.encode()) for name, text in (headers or {}).items())
    return decode_event(StoredRecord("predictions.events", 0, 7, timestamp, named, raw, pairs), {})


def poison(*args: Any, **kwargs: Any) -> str:
    """The code that a record is refused with."""
    with pytest.raises(Poison) as caught:
        read(*args, **kwargs)
    assert str(caught.value)
    return caught.value.code


def test_an_event_is_read_with_its_json_as_it_came() -> None:
    """Fields arrive typed, and JSON that passes through keeps every digit and the order of its keys."""
    raw = b'{"predictionId":"p1","status":"processing","id":"e1","at":1763999999000,"payload":{"z":1.10,"seed":17454220438242315174}}'
    event = read(raw)
    assert (event.status, event.id, event.at, event.recorded_at) == (
        Status.PROCESSING,
        "e1",
        1_763_999_999_000,
        NOW,
    )
    assert bytes(event.payload) == b'{"z":1.10,"seed":17454220438242315174}'


def test_the_time_is_at_then_the_records_and_never_later() -> None:
    """`at` counts, a later one counts as the record's timestamp, and without it the timestamp counts."""
    assert read({"at": NOW - 5}).at == NOW - 5
    assert read({"at": NOW + 5}).at == NOW
    assert read({}).at == NOW


def test_seconds_are_refused_as_a_time() -> None:
    """A time below 10^12 was given in seconds, and says so."""
    assert poison({"at": 1_764_000_000}) == "bad-time"


def test_microseconds_are_refused_as_a_records_time() -> None:
    """A record's own time that no store could be sure to hold is refused, whoever set it."""
    assert poison({}, timestamp=1_764_000_000_000_000) == "bad-time"
    assert poison({"at": 10**30}, timestamp=-1) == "bad-time"


@pytest.mark.parametrize(
    "name", ["tidings-provider", "tidings-archive", "content-type", "ce_id", "traceparent", "x"]
)
def test_a_header_that_is_null_is_empty(name: str) -> None:
    """Kafka's headers may have no value: such a record is an event or poison like any other."""
    record = StoredRecord("predictions.events", 0, 7, NOW, b"p1", b"{}", [(name, None)])  # type: ignore[list-item]
    with contextlib.suppress(Poison):
        assert decode_event(record, {}).prediction_id == "p1"


def test_null_is_absent_and_unknown_fields_are_counted() -> None:
    """`null` says nothing, in every field; unknown fields are left out and counted."""
    event = read(
        {
            "status": None,
            "output": None,
            "tags": None,
            "at": None,
            "type": None,
            "color": 1,
            "shape": 2,
        }
    )
    assert (event.status, bool(event.output), event.tags, event.unknown) == (
        None,
        False,
        (),
        ("color", "shape"),
    )
    assert bool(read({"output": None}).output) is False


@pytest.mark.parametrize("name", ["recordedAt", "archive", "unknown", "traceparent"])
def test_what_translation_sets_cannot_be_sent(name: str) -> None:
    """The stamps of the gateway and the log cannot be forged by a field."""
    event = read({name: 5, f"tidings/{'recorded_at' if name == 'recordedAt' else name}": None})
    assert event.recorded_at == NOW
    assert event.archive is Archive.AFTER


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", "not-json"),
        (b"nonsense", "not-json"),
        (b"[1]", "not-json"),
        (b'{"a":1', "not-json"),
        (b'{"prompt":"\xff"}', "encoding"),
        ('{"status":"starting"}'.encode("utf-16"), "encoding"),
        (b'{"output":' + b"[" * 5000 + b"]" * 5000 + b"}", "too-deep"),
        ({"status": "done"}, "unknown-status"),
        ({"type": "explode"}, "unknown-type"),
        ({"status": 5}, "unknown-status"),
        ({"progress": "half"}, "wrong-type"),
        ({"progress": 1.5}, "wrong-type"),
        ({"tags": "a"}, "wrong-type"),
        ({"prompt": {"a": 1}}, "wrong-type"),
        ({"providerUrls": []}, "wrong-type"),
        ({"assets": {}}, "wrong-type"),
        ({"type": "submit"}, "missing-field"),
        ({"type": "archive"}, "missing-field"),
        ({"type": "repair", "version": 2}, "missing-field"),
        ({"type": "repair", "version": 0, "replace": None, "upto": {}}, "wrong-type"),
        ({"type": "repair", "version": 2**63, "replace": None, "upto": {}}, "wrong-type"),
        ({"owner": "a\0b"}, "wrong-type"),
        ({"model": "\0"}, "wrong-type"),
        ({"tags": ["a", "b\0"]}, "wrong-type"),
        ({"predictionId": "p2"}, "id-mismatch"),
    ],
)
def test_poison_has_a_code(value: Any, code: str) -> None:
    """What can never be applied is refused with the code of its reason."""
    assert poison(value) == code


def test_a_piece_of_text_is_read() -> None:
    """A piece with its offset, its writer's number, and whether it is the last."""
    value = {
        "type": "append",
        "text": "猫 \U0001f408",
        "offset": 34,
        "producer": {"id": "w", "epoch": 1, "seq": 7},
    }
    event = read(value)
    assert (event.type, event.text, event.offset) == (EventType.APPEND, "猫 \U0001f408", 34)
    assert event.producer == Producer("w", 1, 7)
    assert read({"type": "append", "textClosed": True, "status": "failed"}).text_closed


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"type": "append"}, "missing-field"),
        ({"type": "append", "text": 5}, "wrong-type"),
        ({"type": "append", "text": "a", "offset": -1}, "wrong-type"),
        ({"type": "append", "text": "a", "offset": 1.5}, "wrong-type"),
        ({"type": "append", "text": "a", "status": "succeeded"}, "wrong-type"),
        ({"type": "append", "text": "a", "textClosed": True, "status": "processing"}, "wrong-type"),
        ({"type": "append", "text": "a", "producer": {"id": "w", "epoch": 0}}, "wrong-type"),
        (
            {"type": "append", "text": "a", "producer": {"id": "w", "epoch": 0, "seq": -1}},
            "wrong-type",
        ),
        (b'{"type":"append","text":"a\xff"}', "encoding"),
        (b'{"type":"append","text":"a\xed\xa0\xbd"}', "encoding"),
        (b'{"type":"append","text":"a\\ud83d"}', "encoding"),
        (b'{"type":"append","text":"\\ufffd\\ud83d"}', "encoding"),
    ],
)
def test_a_piece_that_makes_no_sense_is_poison(value: Any, code: str) -> None:
    """A piece is whole characters at an offset; half a character, a negative offset and the like are refused."""
    assert poison(value) == code


def test_the_prediction_is_told_once() -> None:
    """By the key or by the field; neither, or an id that is none, is poison."""
    assert read({"predictionId": "p9"}, key=None).prediction_id == "p9"
    assert read({}, key="p9").prediction_id == "p9"
    assert poison({}, key=None) == "no-id"
    for bad in ("a b", "a,b", "a\n", "x" * 257, "é" * 129):
        assert poison({"predictionId": bad}, key=None) == "bad-id"
    assert poison({}, key=b"\xff\xfe") == "bad-id"
    assert read({}, key="é" * 128).prediction_id == "é" * 128


def test_deep_but_narrow_json_passes_up_to_the_limit() -> None:
    """Nesting up to the limit passes, and brackets in strings do not count."""
    deep = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert bytes(read(b'{"output":' + deep + b"}").output) == deep
    assert read({"prompt": "[{" * 1000}).prompt == "[{" * 1000


CE = {
    "ce_specversion": "1.0",
    "ce_id": "c1",
    "ce_source": "/render",
    "ce_type": "com.acme.prediction.report",
}


def test_a_binary_cloudevent_is_an_event() -> None:
    """Its id, time, source and subject stand in for the event's own."""
    event = read(
        {"status": "processing"},
        None,
        CE | {"ce_subject": "p7", "ce_time": "2025-11-24T10:00:00.5Z"},
    )
    assert (event.prediction_id, event.id, event.source, event.at) == (
        "p7",
        "c1",
        "/render",
        1_763_978_400_500,
    )
    assert read({}, headers=CE | {"ce_type": "com.acme.delete"}).type is EventType.DELETE
    assert read({}, headers=CE | {"ce_type": "com.acme.failed"}).status is Status.FAILED


def test_a_structured_cloudevent_is_an_event() -> None:
    """`application/cloudevents+json`, with data as JSON or as base64."""
    envelope = {"specversion": "1.0", "id": "c1", "source": "s", "type": "t", "subject": "p7"}
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}
    event = read(envelope | {"data": {"status": "failed", "error": "x"}}, None, headers)
    assert (event.prediction_id, event.status, event.error) == ("p7", Status.FAILED, "x")
    data = base64.b64encode(b'{"status":"canceled"}').decode()
    assert read(envelope | {"data_base64": data}, None, headers).status is Status.CANCELED


@pytest.mark.parametrize("missing", ["ce_id", "ce_source", "ce_type"])
def test_a_cloudevent_without_what_it_needs_is_poison(missing: str) -> None:
    """id, source and type are required; another specversion is not understood."""
    assert poison({}, headers={k: v for k, v in CE.items() if k != missing}) == "bad-cloudevent"
    assert poison({}, headers=CE | {"ce_specversion": "0.3"}) == "bad-cloudevent"
    structured = {"content-type": "application/cloudevents+json"}
    assert poison({"id": "1", "source": "s", "type": "t"}, headers=structured) == "bad-cloudevent"


def test_a_cloudevents_subject_and_the_key_must_agree() -> None:
    """A subject that differs from the key or the field is poison."""
    assert poison({}, headers=CE | {"ce_subject": "other"}) == "id-mismatch"
    assert poison({"predictionId": "p1"}, headers=CE | {"ce_subject": "other"}) == "id-mismatch"
    assert poison({}, headers=CE | {"ce_time": "yesterday"}) == "bad-time"


def test_a_webhook_of_an_unknown_provider_is_poison() -> None:
    """A provider that is not configured cannot be translated; configured later, it is redriven."""
    assert poison({}, headers={"tidings-provider": "nobody"}) == "unknown-provider"


def test_the_archive_stamp_and_the_trace_travel_in_headers() -> None:
    """What the gateway stamped counts, and a stamp that is none is poison."""
    event = read({}, headers={"tidings-archive": "before", "traceparent": "00-a-b-01"})
    assert (event.archive, event.traceparent) == (Archive.BEFORE, b"00-a-b-01")
    assert poison({}, headers={"tidings-archive": "never"}) == "wrong-type"


header_names = st.sampled_from(
    [
        "tidings-provider",
        "tidings-archive",
        "tidings-delivery",
        "content-type",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_time",
        "ce_subject",
        "x",
    ]
)


@given(
    st.one_of(
        st.none(),
        st.binary(max_size=40),
        st.dictionaries(
            st.sampled_from(["status", "at", "tags", "output", "predictionId", "type"]),
            st.one_of(
                st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2)
            ),
        ).map(lambda d: json.dumps(d).encode()),
    ),
    st.one_of(st.none(), st.binary(max_size=8)),
    st.lists(st.tuples(header_names, st.binary(max_size=8)), max_size=4),
    st.integers(-1, 2**63 - 1),
)
def test_anything_is_an_event_or_poison(
    value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes]], timestamp: int
) -> None:
    """No record, however odd, raises anything but `Poison`, or is set aside where it has no value at all."""
    try:
        event = decode_event(StoredRecord("t", 0, 0, timestamp, key, value, headers), {})
    except Poison:
        return
    except OtherResource:
        assert value is None
        return
    assert event.prediction_id


@pytest.mark.parametrize(
    ("value", "logs"),
    [
        (rb'{"status":"succeeded","logs":"cut \ud83d"}', "cut \ufffd"),
        (rb'{"status":"succeeded","logs":"\ude00 cut"}', "\ufffd cut"),
        (b'{"status":"succeeded","logs":"a","output":{"score":NaN}}', "a"),
        (b'{"status":"succeeded","logs":"a","output":[-Infinity]}', "a"),
        (b'{"status":"succeeded","logs":"a\nb"}', "a\nb"),
        (b'\xef\xbb\xbf{"status":"succeeded","logs":"a"}', "a"),
        (b'\0\0\0\0\x0c{"status":"succeeded","logs":"a"}', "a"),
    ],
)
def test_json_as_it_is_written_in_the_world(value: bytes, logs: str) -> None:
    """Half a surrogate pair, NaN, a byte-order mark or a schema registry's frame: the status is read all the same."""
    event = read(value)
    assert (event.status, event.logs) == (Status.SUCCEEDED, logs)
    assert b"NaN" not in bytes(event.output)


def test_a_key_in_a_schema_registrys_frame_is_the_id() -> None:
    """A serializer that frames values frames keys as well; no id begins with a zero byte."""
    assert read({"status": "starting"}, key=b"\0\0\0\0\x0cp5").prediction_id == "p5"


def test_a_framed_value_that_is_no_json_says_what_it_is() -> None:
    """Avro or Protobuf cannot be read without its schema: the dead letter names the framing."""
    with pytest.raises(Poison, match="schema registry"):
        read(b"\0\0\0\0\x0c\x02\x06abc")


def test_a_tombstone_is_counted_and_no_poison() -> None:
    """A record without a value is set aside by its name; one with an empty value is no event."""
    with pytest.raises(OtherResource) as raised:
        decode_event(StoredRecord("predictions.events", 0, 7, NOW, b"p1", None), {})
    assert raised.value.kind == "tombstone"
    assert poison(b"") == "not-json"


@pytest.mark.parametrize("header", ["\xff", "", "a\nb", "a b", "x" * 129])
def test_a_trace_that_is_none_goes_no_further(header: str) -> None:
    """What a sender writes as its trace reaches a change only where it is short and in visible ASCII."""
    headers = {"traceparent": header}
    record = StoredRecord(
        "t", 0, 7, NOW, b"p1", b"{}", [(n, v.encode("latin-1")) for n, v in headers.items()]
    )
    assert decode_event(record, {}).traceparent is None
    good = f"00-{'a' * 32}-{'b' * 16}-01".encode()
    record = StoredRecord("t", 0, 7, NOW, b"p1", b"{}", [("traceparent", good)])
    assert decode_event(record, {}).traceparent == good


class Named:
    """A provider that finds an id in any body."""

    def prediction_id(self, body: bytes) -> str | None:
        return body.decode()[:2]


@pytest.mark.parametrize(
    ("key", "value", "headers", "name"),
    [
        (b"p1", b"nonsense", {}, "p1"),
        (b"\0\0\0\0\x0cp1", b"nonsense", {}, "p1"),
        (b"\xff", b"nonsense", {}, "\ufffd"),
        (None, b'{"predictionId":"p1","status":"dancing"}', {}, "p1"),
        (None, b'\xef\xbb\xbf{"predictionId":"p1","output":NaN,"status":"x"}', {}, "p1"),
        (None, b'{"specversion":"1.0","subject":"p1"}', {}, "p1"),
        (None, b'{"specversion":"1.0","data":{"predictionId":"p1"}}', {}, "p1"),
        (None, b"nonsense", {"ce_subject": "p1"}, "p1"),
        (None, b"p1 and more", {"tidings-provider": "named"}, "p1"),
        (None, b"p1", {"tidings-provider": "nobody"}, None),
        (None, b"\xff\xfe\xff", {"tidings-provider": "named"}, None),
        (None, b'{"predictionId":5}', {}, None),
        (None, b"nonsense", {}, None),
        (None, None, {}, None),
    ],
)
def test_a_dead_letter_names_its_prediction(
    key: bytes | None, value: bytes | None, headers: dict[str, str], name: str | None
) -> None:
    """Whatever is wrong with a record, its prediction is named wherever key, headers or body do."""
    pairs = [(n, v.encode()) for n, v in headers.items()]
    record = StoredRecord("predictions.events", 0, 7, NOW, key, value, pairs)
    providers: Any = {"named": Named()}
    assert name_prediction(record, providers) == name
