"""The table of the record's fields, and whatever is made from it."""

from typing import Any, get_type_hints

import msgspec
import pytest
from msgspec import Raw

from tests.support.reference import browser_types
from tests.support.streams.events import event, judge, record
from tidings.storage.prediction import Blob, Prediction, Usage
from tidings.streams.keywords import InitialFields, ReportedFields
from tidings.streams.rules.decision import Applied
from tidings.streams.rules.event import Event
from tidings.streams.rules.fields import ASKED, CREATED, FIELDS, NAMES, Field, Merge

SAMPLES: dict[str, tuple[Any, Any]] = {
    "provider_urls": ({"get": "a"}, {"get": "b"}),
    "assets": ([{"url": "a"}], [{"url": "b"}]),
    "tags": (("a",), ("b",)),
    "progress": (0.25, 0.5),
    "logs": ("a", "ab"),
    "estimated_time": (1, 2),
    "generation_time": (1, 2),
    "deadline": (1_764_000_100_000, 1_764_000_200_000),
    "usage": (Usage(seconds=1, images=1), Usage(seconds=2, images=1)),
    "webhook": ({"host": "a", "sealed": "b"}, {"host": "c", "sealed": "d"}),
    "webhook_events": (["failed"], ["succeeded"]),
}


SEALED = {"webhook", "webhook_events"}
"""The gateway alone seals addresses: the library, which has no key, takes none."""


def sample(field: Field, index: int = 0) -> Any:
    return SAMPLES.get(field.name, ("a", "b"))[index]


def value(stands: Prediction, field: Field) -> Any:
    found = getattr(stands, field.name)
    return msgspec.json.decode(found) if field.json else found


@pytest.mark.parametrize("struct", [Event, Prediction])
def test_the_structs_have_every_field_in_this_order(struct: Any) -> None:
    """What a type checker sees and the table name the same fields, in the order of the encoding, of the same kinds."""
    found = {f.name: f for f in msgspec.structs.fields(struct) if f.name in NAMES}
    assert list(found) == [field.name for field in FIELDS]
    for field in FIELDS:
        assert found[field.name].encode_name == field.wire
        assert (found[field.name].type is Raw) is field.json
        holds_reference = Blob in getattr(found[field.name].type, "__args__", ())
        assert holds_reference is (field.large and not field.json), field.name


def test_the_library_takes_every_field() -> None:
    """The keywords of `update` are the table's fields, and those of `initialize` what an order may name of them."""
    asked = {field.name for field in ASKED}
    assert set(get_type_hints(ReportedFields)) == (NAMES - SEALED) | asked
    named = {"payload", "prompt", "model", "estimated_time"}
    orders = {field.name for field in FIELDS if field.create} | {"provider_id"}
    assert set(get_type_hints(InitialFields)) == orders - named - SEALED


def test_the_browser_types_are_up_to_date() -> None:
    """`python -m tests.support.reference.browser_types` has been run since the table changed."""
    assert browser_types.written() == browser_types.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_reaches_the_record(field: Field) -> None:
    """What a report says of a field stands in the record."""
    assert value(record(event(**{field.name: sample(field)})), field) == sample(field)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_a_second_value_joins_as_the_table_says(field: Field) -> None:
    """Another value of the same field, while the prediction is not finished, stays out, replaces or adds."""
    stands = record(event(**{field.name: sample(field)}))
    decision = judge(stands, event(**{field.name: sample(field, 1)}), 1)
    if field.merge in {Merge.ONCE, Merge.IDENTITY}:
        assert not isinstance(decision, Applied)
        return
    assert isinstance(decision, Applied)
    assert isinstance(decision.record, Prediction)
    wanted = ("a", "b") if field.name == "tags" else sample(field, 1)
    assert value(decision.record, field) == wanted


@pytest.mark.parametrize("struct", [Event, Prediction])
@pytest.mark.parametrize("field", CREATED, ids=lambda field: field.name)
def test_what_a_create_says_is_in_both_structs(struct: Any, field: Field) -> None:
    """The attribute has the table's name and kind."""
    found = {f.name: f for f in msgspec.structs.fields(struct)}[field.name]
    assert found.encode_name == field.wire
    assert (found.type is Raw) is field.json


@pytest.mark.parametrize("field", CREATED, ids=lambda field: field.name)
def test_reports_do_not_say_what_a_create_says(field: Field) -> None:
    """A report with such a field changes nothing of it; a create does."""
    plain = {"number": 1, "boolean": True}.get(field.typescript, "group")
    said: Any = Raw(b"1") if field.json else plain
    given: dict[str, Any] = {field.name: said}
    assert not getattr(record(event(**given)), field.name)
    assert getattr(record(event(type="create", **given)), field.name) == said
