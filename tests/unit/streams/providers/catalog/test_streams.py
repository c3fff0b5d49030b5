"""Where a provider's stream is read, and what its events say."""

import msgspec
import pytest
from msgspec import Raw

from tidings.streams.providers.catalog.openai import OpenAIApi
from tidings.streams.providers.catalog.replicate import ReplicateApi
from tidings.streams.providers.job_api import Order, Unreadable
from tidings.streams.providers.text_stream import NOTHING, StreamedPiece
from tidings.streams.support.event_stream import ServerEvent


def urls(stream: object) -> Raw:
    return Raw(msgspec.json.encode({"get": "https://api.replicate.com/x", "stream": stream}))


@pytest.mark.parametrize(
    "stream",
    [
        "https://evil.example/v1/x",
        "https://api.replicate.com.evil.example/x",
        "https://replicate.com.evil.example/x",
        "https://api.replicate.com@evil.example/x",
        "https://evilreplicate.com/x",
        "https://user@stream.replicate.com/x",
        "https://stream.replicate.com:8443/x",
        "https://stream.replicate.com\\@evil.example/x",
        "http://stream.replicate.com/x",
        "http://169.254.169.254/latest",
        "https://[::1]/x",
        "https://[x",
        "file:///etc/passwd",
        "",
        7,
        None,
    ],
)
def test_a_stream_elsewhere_is_not_read(stream: object) -> None:
    """The provider's answer does not choose whom we connect to."""
    assert ReplicateApi("secret").stream("j", urls(stream), None) is None


def test_the_token_goes_to_the_api_alone() -> None:
    """A host of Replicate's streams is read without the token; the base URL with it."""
    api = ReplicateApi("secret")
    for host in ("stream.replicate.com", "stream-b.svc.rno2.c.replicate.net"):
        call = api.stream("j", urls(f"https://{host}/v1/files/x?y=1"), None)
        assert call is not None
        assert call.url == f"https://{host}/v1/files/x?y=1"
        assert "Authorization" not in call.headers
    call = api.stream("j", urls("https://api.replicate.com/v1/streams/x"), None)
    assert call is not None
    assert call.headers["Authorization"] == "Bearer secret"
    own = ReplicateApi("secret", "http://127.0.0.1:9/base")
    assert own.stream("j", urls("http://127.0.0.1:9/base/x"), None) is not None
    assert own.stream("j", urls("http://127.0.0.1:9/x"), None) is None


@pytest.mark.parametrize(
    ("kind", "piece"),
    [
        ("output", StreamedPiece(" word\n")),
        ("done", StreamedPiece(over=True)),
        ("error", StreamedPiece(over=True)),
        ("logs", NOTHING),
    ],
)
def test_what_replicates_events_say(kind: str, piece: StreamedPiece) -> None:
    """`output` is text; the stream says only that it has ended, not how."""
    assert ReplicateApi("t").piece(ServerEvent(kind, " word\n")) == piece


def test_replicate_is_asked_for_a_stream_only_where_the_order_asks() -> None:
    """And its webhooks then leave out what the stream brings."""
    api = ReplicateApi("t")
    plain = msgspec.json.decode(api.create(Order(model="o/m", webhook="https://e.com/h")).body)
    assert "stream" not in plain
    asked = api.create(Order(model="o/m", webhook="https://e.com/h", stream=True))
    body = msgspec.json.decode(asked.body)
    assert body["stream"] is True
    assert body["webhook_events_filter"] == ["start", "completed"]


def test_openais_stream_goes_on_after_an_event() -> None:
    """By the number of the last one; the address is built, not taken from an answer."""
    api = OpenAIApi("t")
    first, later = api.stream("resp_1", Raw(b""), None), api.stream("resp_1", Raw(b""), 12)
    assert first is not None
    assert later is not None
    assert first.url == "https://api.openai.com/v1/responses/resp_1?stream=true"
    assert later.url == "https://api.openai.com/v1/responses/resp_1?stream=true&starting_after=12"
    assert api.stream("batch_1", Raw(b""), None) is None
    with pytest.raises(ValueError, match="leads to another place"):
        api.stream("..", Raw(b""), None)


def test_what_openais_events_say() -> None:
    """Deltas of the text count, other deltas do not, and each has its number."""
    api = OpenAIApi("t")

    def said(**fields: object) -> StreamedPiece:
        return api.piece(ServerEvent("message", msgspec.json.encode(fields).decode()))

    kind = "response.output_text.delta"
    assert said(type=kind, sequence_number=4, delta="für") == StreamedPiece("für", 4)
    other = said(type="response.audio.delta", sequence_number=5, delta={"a": 1})
    assert other == StreamedPiece("", 5)
    assert said(type="response.completed", sequence_number=9) == StreamedPiece("", 9, over=True)
    for bad in ("{", "[]", '{"type": "response.output_text.delta"}'):
        with pytest.raises(msgspec.DecodeError):
            api.piece(ServerEvent("message", bad))


def test_the_answer_to_a_create_that_streams() -> None:
    """Its first event has the response; what is none is unreadable."""
    api = OpenAIApi("t")
    assert api.create(Order(model="m", stream=True)).first_event
    body = b'event: response.created\ndata: {"response": {"id": "resp_1"}}\n\n'
    assert api.created(body).provider_id == "resp_1"
    for bad in (b"event: x\n\n", b"data: {\n\n", b"data: {}\n\n"):
        with pytest.raises(Unreadable):
            api.created(bad)
