"""OpenAI: Standard Webhooks around an event that names a response or a batch and no more.

Pure. The event tells what is final without a result, to a record that stands; a fetched response or
batch, which comes in its own shape, tells the rest, and by its metadata whose it is. If webhooks
go is set in the project, not in the call, so events about other resources (fine-tuning, evals,
calls, videos) come too; they are set aside by their type.

Source: OpenAI's documentation of webhooks and its API reference, responses and batches (`metadata`:
at most 16 members, values of at most 512 characters).
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status, Usage
from tidings.streams.providers import payload as bodies
from tidings.streams.providers import usage as usages
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import (
    Call,
    Order,
    Origin,
    Submitted,
    ThinNotice,
    Unreadable,
    address,
    given_input,
)
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.standard_webhooks import (
    StandardWebhooks,
    open_keys,
    signed_headers,
)
from tidings.streams.providers.text_stream import StreamedPiece
from tidings.streams.rules.event import Event, OtherResource
from tidings.streams.support.event_stream import EventStreamReader, ServerEvent

URL = "https://api.openai.com"

STATUSES = {
    "queued": Status.STARTING,
    "validating": Status.STARTING,
    "in_progress": Status.PROCESSING,
    "finalizing": Status.PROCESSING,
    "cancelling": Status.PROCESSING,
    "completed": Status.SUCCEEDED,
    "failed": Status.FAILED,
    "incomplete": Status.FAILED,
    "expired": Status.FAILED,
    "cancelled": Status.CANCELED,
}

NAMED_ERRORS = frozenset({"incomplete", "expired"})
"""Kinds of failure that are their own reason."""

RESOURCES = frozenset({"response", "batch"})
"""First words of the events that are about predictions, and `object` of what is fetched."""

OTHER_IDS = ("video_", "ftjob", "evalrun_", "eval_", "rtc_", "call_", "file-", "file_", "img_")
"""How ids of other resources begin: where a response would be, nobody knows of them, which says
nothing about them."""

STREAM_ENDS = frozenset(
    {
        "response.completed",
        "response.failed",
        "response.incomplete",
        "response.cancelled",
        "error",
    }
)
"""Events of a response's stream that nothing follows."""

PREDICTION, ATTEMPT = "tidings_prediction_id", "tidings_attempt"
"""Members of the metadata."""


class _Data(Struct, frozen=True, gc=False):
    id: str | None = None


class _Metadata(Struct, frozen=True, gc=False):
    tidings_prediction_id: str | None = None
    tidings_attempt: str | None = None


class _Event(Struct, frozen=True, gc=False):
    """An event (`object: event`), or a response or batch as fetched."""

    id: str | None = None
    type: str | None = None
    data: _Data | None = None
    object: str | None = None
    status: str | None = None
    model: str | None = None
    input: Raw = ABSENT
    output: Raw = ABSENT
    output_file_id: Raw = ABSENT
    error: Raw = ABSENT
    errors: Raw = ABSENT
    incomplete_details: Raw = ABSENT
    usage: Raw = ABSENT


class _Marked(Struct, frozen=True, gc=False):
    metadata: _Metadata | None = None


_event = bodies.Reader(_Event)
_marked = bodies.Reader(_Marked)
_object = msgspec.json.Decoder(dict[str, Raw])


class _Streamed(Struct, frozen=True, gc=False):
    """An event of a response's stream."""

    type: str = ""
    sequence_number: int | None = None
    delta: Raw = ABSENT
    """Of other events than text no string."""
    response: Raw = ABSENT


_streamed = msgspec.json.Decoder(_Streamed)


class _Content(Struct, frozen=True, gc=False):
    type: str
    text: str = ""
    annotations: tuple[Raw, ...] = ()


class _Item(Struct, frozen=True, gc=False):
    """An item of a response's output; of reasoning a summary alone would be something to keep."""

    type: str
    content: tuple[_Content, ...] = ()
    summary: tuple[Raw, ...] = ()


_items = msgspec.json.Decoder(tuple[_Item, ...])


def _text_of(output: Raw) -> str | None:
    """What a response says, if its output is plain text and nothing else.

    https://platform.openai.com/docs/api-reference/responses/object: `output_text` is the parts of
    this type in the order of the items.
    """
    if not bodies.given(output):
        return None
    try:
        items = _items.decode(output)
    except (msgspec.DecodeError, RecursionError):
        return None
    text = []
    for item in items:
        if item.type == "reasoning" and not item.summary:
            continue
        if item.type != "message":
            return None
        for part in item.content:
            if part.type != "output_text" or part.annotations:
                return None
            text.append(part.text)
    return "".join(text) if text else None


class OpenAI(Struct, frozen=True):
    """OpenAI's webhooks."""

    keys: StandardWebhooks
    name: str = "openai"
    api: "OpenAIApi | None" = None
    """For submitting; None without a token."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By Standard Webhooks; the delivery's id is `webhook-id`."""
        return self.keys.verify(headers, body, now)

    def prediction_id(self, body: bytes) -> str | None:
        """`data.id`: the response's or batch's own."""
        found = _event.peek(body)
        if found is None:
            return None
        return found.data.id if found.data is not None else found.id

    def thin(self, body: bytes) -> ThinNotice | None:
        """The response or batch that is to be fetched, if the body is an event alone."""
        found = _event.peek(body)
        if found is None or found.data is None or not found.data.id:
            return None
        resource, _, word = (found.type or "").rpartition(".")
        status = STATUSES.get(word)
        if resource not in RESOURCES or status is None:
            return None
        error = word if word in NAMED_ERRORS else None
        return ThinNotice(found.data.id, status=status, error=error)

    def translate(self, webhook: Webhook) -> Event:
        """An event says how it failed or that it was canceled; a success waits for its result."""
        found, left_out = _event.read(webhook.body)
        if found.data is not None:
            return self._of_event(webhook, found, left_out)
        if found.object is not None and found.object not in RESOURCES:
            raise OtherResource(self.name, found.object)
        return bodies.event(
            webhook,
            self.name,
            found.id,
            left_out=left_out,
            status=bodies.status(STATUSES, found.status, self.name),
            model=found.model,
            payload=bodies.given(found.input),
            prompt=bodies.string(found.input),
            output=bodies.given(found.output) or bodies.given(found.output_file_id),
            output_text=_text_of(found.output),
            error=_error(found),
            usage=_usage(found.usage) if webhook.usage else None,
        )

    def _of_event(self, webhook: Webhook, found: _Event, left_out: tuple[str, ...]) -> Event:
        resource, _, word = (found.type or "").rpartition(".")
        if found.type is not None and resource not in RESOURCES:
            raise OtherResource(self.name, found.type)
        status = bodies.status(STATUSES, word, self.name)
        return bodies.event(
            webhook,
            self.name,
            found.data.id if found.data is not None else None,
            left_out=left_out,
            request_id=found.id,
            status=status if status in (Status.FAILED, Status.CANCELED) else None,
            error=word if word in NAMED_ERRORS else None,
            notice=True,
        )

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """Signed with the first secret."""
        said = {
            "id": f"evt_{prediction_id}",
            "object": "event",
            "created_at": now,
            "type": "response.completed",
            "data": {"id": prediction_id},
        }
        body = msgspec.json.encode(said)
        return SampleWebhook(body, signed_headers(self.name, self.keys, body, now))


def _usage(raw: Raw) -> Usage | None:
    """`usage` of a response or of a batch: its tokens."""
    said = usages.members(raw)
    return usages.usage(
        input_tokens=said.get("input_tokens", ABSENT),
        output_tokens=said.get("output_tokens", ABSENT),
    )


def _error(found: _Event) -> str | None:
    reasons = map(bodies.text, (found.error, found.errors, found.incomplete_details))
    reason = next((one for one in reasons if one is not None), None)
    if found.status in NAMED_ERRORS:
        return found.status if reason is None else f"{found.status}: {reason}"
    return reason


class OpenAIApi(Struct, frozen=True):
    """The calls for responses in the background, with the key that they carry."""

    token: str
    url: str = URL

    def __repr__(self) -> str:
        """Show no key."""
        return f"OpenAIApi({self.url})"

    def create(self, order: Order) -> Call:
        """A response in the background.

        The payload's members are the call's, and a prompt is its `input`.
        """
        fields = given_input(order)
        if "prompt" in fields and "input" not in fields and bytes(fields["prompt"])[:1] == b'"':
            fields["input"] = fields.pop("prompt")
        fields |= {"model": Raw(msgspec.json.encode(order.model)), "background": Raw(b"true")}
        if order.stream:
            fields["stream"] = Raw(b"true")  # or nothing of it could be streamed later
        if order.origin is not None:
            fields["metadata"] = _with(fields.get("metadata"), order.origin)
        return Call(
            method="POST",
            url=address(self.url, "v1", "responses"),
            headers=self._headers() | {"Content-Type": "application/json"},
            body=msgspec.json.encode(fields),
            first_event=order.stream,
        )

    def created(self, body: bytes) -> Submitted:
        """The answer is the response as it stands, or a stream whose first event has it."""
        if body.startswith((b"event:", b"data:")):
            body = _first_response(body)
        found = _event.answer(body, "response")
        if not found.id:
            raise Unreadable("no response: it has no id")
        return Submitted(found.id)

    def origin(self, body: bytes) -> Origin | None:
        """What `create` put into the metadata."""
        found = _marked.peek(body)
        marks = found.metadata if found is not None else None
        if marks is None or not marks.tidings_prediction_id or not marks.tidings_attempt:
            return None
        return Origin(marks.tidings_prediction_id, marks.tidings_attempt)

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """The response, or the batch, as its id tells."""
        return Call(method="GET", url=self._at(provider_id), headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The answer itself, if it is what was asked for."""
        if self.created(body).provider_id != provider_id:
            raise Unreadable(f"another response than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """Stop it."""
        return Call(method="POST", url=self._at(provider_id, "cancel"), headers=self._headers())

    def stream(self, provider_id: str, urls: Raw, after: int | None) -> Call | None:
        """The events of a response, after one of them."""
        if provider_id.startswith("batch_"):
            return None
        query = "?stream=true" if after is None else f"?stream=true&starting_after={after}"
        headers = self._headers() | {"Accept": "text/event-stream"}
        return Call(method="GET", url=self._at(provider_id) + query, headers=headers)

    def piece(self, event: ServerEvent) -> StreamedPiece:
        """Text that comes in; how it ends says the webhook."""
        found = _streamed.decode(event.data)
        if found.type == "response.output_text.delta":
            return StreamedPiece(msgspec.json.decode(found.delta, type=str), found.sequence_number)
        return StreamedPiece("", found.sequence_number, found.type in STREAM_ENDS)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _at(self, provider_id: str, *tail: str) -> str:
        if provider_id.startswith(OTHER_IDS):
            raise ValueError(f"{provider_id[:64]!r} is neither a response nor a batch")
        kind = "batches" if provider_id.startswith("batch_") else "responses"
        return address(self.url, "v1", kind, provider_id, *tail)


def _first_response(body: bytes) -> bytes:
    """The response in the first event of a stream; raises `Unreadable`."""
    try:
        events = EventStreamReader().feed(body)
        return bytes(_streamed.decode(events[0].data).response)
    except (IndexError, ValueError) as error:
        raise Unreadable(f"no stream of a response: {error}") from None


def _with(given: Raw | None, origin: Origin) -> Raw:
    """The metadata of the order with ours; what is no object is left for OpenAI to refuse."""
    try:
        members = _object.decode(given) if given and bytes(given) != b"null" else {}
    except msgspec.ValidationError:
        return Raw(given or b"")
    ours = {PREDICTION: origin.prediction_id, ATTEMPT: origin.attempt}
    marked = {name: Raw(msgspec.json.encode(value)) for name, value in ours.items()}
    return Raw(msgspec.json.encode(members | marked))


def open_provider(name: str, configuration: Configuration) -> OpenAI | None:
    """OpenAI as configured; a secret without `whsec_` is the key's bytes themselves.

    None without a secret.
    """
    keys = open_keys(name, configuration, plain=True)
    token = configuration.token
    api = OpenAIApi(token, configuration.url_or(URL)) if token else None
    return OpenAI(keys, name, api) if keys is not None else None


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_OPENAI_SECRET`; `_TOKEN` to submit and to fetch results",
    proof="Standard Webhooks; a secret without `whsec_` is the key itself",
)
