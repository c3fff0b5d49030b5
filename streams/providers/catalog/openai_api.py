"""OpenAI's API for responses in the background: create, get and cancel, as pure data.

Source: OpenAI's API reference, responses. Where its webhooks go is set in the project, not in the call: whose a
response is stands in its `metadata` (at most 16 members, values of at most 512 characters).
"""

from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from tidings.streams.providers.job_api import (
    Call,
    Order,
    Origin,
    Submitted,
    Unreadable,
    given_input,
)

URL = "https://api.openai.com"


PREDICTION, ATTEMPT = "tidings_prediction_id", "tidings_attempt"
"""Members of the metadata."""


class _Response(Struct, frozen=True):
    id: str


class _Metadata(Struct, frozen=True):
    tidings_prediction_id: str | None = None
    tidings_attempt: str | None = None


class _Marked(Struct, frozen=True):
    metadata: _Metadata | None = None


_response = msgspec.json.Decoder(_Response)
_marked = msgspec.json.Decoder(_Marked)
_object = msgspec.json.Decoder(dict[str, Raw])


class OpenAIApi(Struct, frozen=True):
    """The calls, with the key that they carry."""

    token: str
    url: str = URL

    def __repr__(self) -> str:
        """Show no key."""
        return f"OpenAIApi({self.url})"

    def create(self, order: Order) -> Call:
        """A response in the background; the payload's members are the call's, and a prompt is its `input`."""
        fields = given_input(order)
        if "prompt" in fields and "input" not in fields and bytes(fields["prompt"])[:1] == b'"':
            fields["input"] = fields.pop("prompt")
        fields |= {"model": Raw(msgspec.json.encode(order.model)), "background": Raw(b"true")}
        if order.origin is not None:
            fields["metadata"] = _with(fields.get("metadata"), order.origin)
        headers = self._headers() | {"Content-Type": "application/json"}
        return Call(
            method="POST",
            url=f"{self.url}/v1/responses",
            headers=headers,
            body=msgspec.json.encode(fields),
        )

    def created(self, body: bytes) -> Submitted:
        """The answer is the response as it stands."""
        try:
            return Submitted(_response.decode(body).id)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"no response: {error}") from None

    def origin(self, body: bytes) -> Origin | None:
        """What `create` put into the metadata."""
        try:
            found = _marked.decode(body).metadata
        except (msgspec.DecodeError, RecursionError):
            return None
        if found is None or not found.tidings_prediction_id or not found.tidings_attempt:
            return None
        return Origin(found.tidings_prediction_id, found.tidings_attempt)

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002 - the protocol
        """The response, or the batch, as its id tells."""
        return Call(method="GET", url=self._at(provider_id), headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:  # noqa: ARG002
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:  # noqa: ARG002
        """The answer itself, where it is what was asked for."""
        if self.created(body).provider_id != provider_id:
            raise Unreadable(f"another response than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002
        """Stop it."""
        return Call(method="POST", url=f"{self._at(provider_id)}/cancel", headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _at(self, provider_id: str) -> str:
        kind = "batches" if provider_id.startswith("batch_") else "responses"
        return f"{self.url}/v1/{kind}/{quote(provider_id, safe='')}"


def _with(given: Raw | None, origin: Origin) -> Raw:
    """The metadata of the order with ours; what is no object is left for OpenAI to refuse."""
    try:
        members = _object.decode(given) if given and bytes(given) != b"null" else {}
    except msgspec.ValidationError:
        return Raw(given or b"")
    ours = {PREDICTION: origin.prediction_id, ATTEMPT: origin.attempt}
    return Raw(
        msgspec.json.encode(
            members | {name: Raw(msgspec.json.encode(value)) for name, value in ours.items()}
        )
    )
