"""What a provider's body says of id and status counts, whatever stands in its other fields."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.providers.bodies import AT
from tests.support.providers.proofs import CASES, NAMES, Case
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import Event

DECIDING = {
    "standard": {"predictionId", "providerId", "status", "type"},
    "replicate": {"id", "status"},
    "fal": {"request_id", "status"},
    "openai": {"type", "data", "data.id"},
    "gemini": {"type", "data", "data.id"},
    "runpod": {"id", "status"},
    "baseten": {"request_id", "type", "errors"},
    "elevenlabs": {"type", "data", "data.conversation_id"},
    "bfl": {"id", "status"},
    "assemblyai": {"transcript_id", "status"},
    "luma": {"id", "state"},
    "acme": {"job", "job.id", "job.state"},
}
"""Where id and status stand."""

MARK = "-- the value --"
DEEP = "[" * 5_000 + "]" * 5_000
VALUES = {
    "null": "null",
    "true": "true",
    "number": "12",
    "fraction": "-1.5",
    "too large": "1e999",
    "not a number": "NaN",
    "infinite": "[-Infinity]",
    "long number": "9" * 400,
    "text": '"x"',
    "number as text": '"1.5"',
    "half a character": r'"cut \ud83d"',
    "zero byte": r'"a\u0000b"',
    "bare line break": '"a\nb"',
    "empty text": '""',
    "1 MB": f'"{"x" * 1_000_000}"',
    "array": "[]",
    "mixed array": '[1, null, {"message": null}, ["x"], "y"]',
    "object": "{}",
    "unexpected object": '{"message": {"a": 1}, "predict_time": [], "code": 500}',
    "deep array": DEEP,
    "deep object": '{"a":' * 3_000 + "1" + "}" * 3_000,
}


def paths(value: Any, before: str = "") -> Iterator[str]:
    """Every member of a body, those of its members too, and one that no documentation names."""
    for name, inner in value.items():
        yield f"{before}{name}"
        if isinstance(inner, dict):
            yield from paths(inner, f"{before}{name}.")
    yield f"{before}unheard_of"


def changed(body: bytes, path: str, value: str | None) -> bytes:
    """The body with this JSON at a path; None: without what stands there."""
    whole = json.loads(body)
    *way, last = path.split(".")
    parent = whole
    for name in way:
        parent = parent[name]
    if value is None:
        parent.pop(last, None)
    else:
        parent[last] = MARK
    return json.dumps(whole).replace(json.dumps(MARK), value or "").encode()


def read(case: Case, body: bytes) -> Event:
    provider = case.open()
    event = translate(provider, Webhook(body, None, AT))
    assert provider.prediction_id(body) == event.prediction_id
    return event


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_id_and_status_count_whatever_the_rest_is(case: Case) -> None:
    """Every other field may be missing, or hold any JSON and what passes for it.

    Nothing changes but that field.
    """
    plain = read(case, case.body)
    tried = 0
    for path in paths(json.loads(case.body)):
        if path in DECIDING[case.provider]:
            continue
        for name, value in [("missing", None), *VALUES.items()]:
            event = read(case, changed(case.body, path, value))
            found = (event.prediction_id, event.provider_id, event.status)
            assert found == (plain.prediction_id, plain.provider_id, plain.status), (path, name)
            # What is kept can be read by everybody: it is JSON, and no deeper than readers go.
            for kept in (event.payload, event.output, event.provider_urls):
                json.loads(bytes(kept) or b"0", parse_constant=pytest.fail)
            tried += 1
    assert tried > len(VALUES)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("form", ["mark", "utf-16", "latin-1", "spaces"])
def test_the_form_of_the_text_does_not_matter(case: Case, form: str) -> None:
    """A byte-order mark, UTF-16, a byte that is no UTF-8 and white space are understood."""
    plain, text = read(case, case.body), case.body.decode()
    body = {
        "mark": b"\xef\xbb\xbf" + case.body,
        "utf-16": text.encode("utf-16"),
        "latin-1": changed(case.body, "unheard_of", '"\xe9"').decode().encode("latin-1"),
        "spaces": b" \r\n\t" + case.body + b"\n",
    }[form]
    event = read(case, body)
    assert (event.prediction_id, event.status) == (plain.prediction_id, plain.status)


LEFT_OUT = [
    ("replicate", "metrics.predict_time", '"soon"', "metrics.predict_time"),
    ("replicate", "logs", '["a"]', "logs"),
    ("replicate", "model", '{"owner": "a"}', "model"),
    ("fal", "logs", '[{"message": {}}, 5]', "logs.[].message"),
    ("runpod", "executionTime", "[]", "executionTime"),
    ("bfl", "progress", '"half"', "progress"),
]


@pytest.mark.parametrize(("provider", "path", "value", "name"), LEFT_OUT)
def test_what_does_not_fit_is_named(provider: str, path: str, value: str, name: str) -> None:
    """A field of another type is left out and named; numbers may come as text."""
    case = next(one for one in CASES if one.provider == provider)
    assert name in read(case, changed(case.body, path, value)).left_out
    assert read(case, case.body).left_out == ()


def test_numbers_may_come_as_text() -> None:
    """A length of time in quotes is a length of time."""
    replicate = next(one for one in CASES if one.provider == "replicate")
    event = read(replicate, changed(replicate.body, "metrics.predict_time", '"1.25"'))
    assert (event.generation_time, event.left_out) == (1250, ())
