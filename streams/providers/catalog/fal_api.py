"""fal's queue API: submit, status, result and cancel, as pure data.

Source: fal's documentation of the queue. The answer to a submission names the addresses of the rest.
"""

from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT
from tidings.streams.providers.job_api import (
    Call,
    Order,
    Submitted,
    Unreadable,
    given_input,
    inside,
)

URL = "https://queue.fal.run"


class _Urls(Struct, frozen=True, omit_defaults=True):
    status_url: str | None = None
    response_url: str | None = None
    cancel_url: str | None = None


class _Answer(Struct, frozen=True):
    request_id: str
    status_url: str | None = None
    response_url: str | None = None
    cancel_url: str | None = None


class _Status(Struct, frozen=True):
    status: str
    error: Raw = ABSENT


_answer = msgspec.json.Decoder(_Answer)
_urls = msgspec.json.Decoder(_Urls)
_status = msgspec.json.Decoder(_Status)
_fields = msgspec.json.Decoder(dict[str, Raw])


class FalApi(Struct, frozen=True):
    """The calls, with the key that they carry."""

    token: str
    url: str = URL

    def __repr__(self) -> str:
        """Show no key."""
        return f"FalApi({self.url})"

    def create(self, order: Order) -> Call:
        """Put it into the model's queue; the webhook stands in the query."""
        query = f"?fal_webhook={quote(order.webhook, safe='')}" if order.webhook is not None else ""
        headers = self._headers() | {"Content-Type": "application/json"}
        body = msgspec.json.encode(given_input(order))
        return Call(
            method="POST", url=f"{self.url}/{quote(order.model)}{query}", headers=headers, body=body
        )

    def created(self, body: bytes) -> Submitted:
        """The request's id, and the addresses of its status, its result and its end."""
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"no request: {error}") from None
        urls = _Urls(answer.status_url, answer.response_url, answer.cancel_url)
        return Submitted(answer.request_id, Raw(msgspec.json.encode(urls)))

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """The status, logs included."""
        url = self._at(urls, "status_url", provider_id, model, "/status")
        return Call(method="GET", url=f"{url}?logs=1", headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> Call | None:
        """The result of a request that completed without an error."""
        try:
            status = _status.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return None
        if status.status != "COMPLETED" or (status.error and bytes(status.error) != b"null"):
            return None
        return Call(
            method="GET",
            url=self._at(urls, "response_url", provider_id, model, ""),
            headers=self._headers(),
        )

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The status with the request's id, and the result as its payload."""
        try:
            fields = _fields.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"no status: {error}") from None
        fields["request_id"] = Raw(msgspec.json.encode(provider_id))
        if result is not None:
            fields["payload"] = Raw(result)
        return msgspec.json.encode(fields)

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """Take it out of the queue, or stop it."""
        url = self._at(urls, "cancel_url", provider_id, model, "/cancel")
        return Call(method="PUT", url=url, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Key {self.token}"}

    def _at(self, urls: Raw, name: str, provider_id: str, model: str | None, tail: str) -> str:
        """The address that fal gave, where it is fal's: the key must not go elsewhere."""
        try:
            given = getattr(_urls.decode(urls), name) if urls else None
        except (msgspec.DecodeError, RecursionError):
            given = None
        if isinstance(given, str) and inside(given, self.url):
            return given
        if not model:
            # Another address would answer 404, which says that the request is gone.
            raise ValueError(
                "no model: a request is found by the model's name; report it as `model`"
            )
        # fal's addresses leave out what follows the second part of a model's name.
        owner_and_name = "/".join(model.split("/")[:2])
        return f"{self.url}/{quote(owner_and_name)}/requests/{quote(provider_id, safe='')}{tail}"
