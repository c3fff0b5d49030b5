"""Replicate's HTTP API: create, get, cancel and list predictions, as pure data.

Source: Replicate's HTTP API reference, predictions.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT
from tidings.streams.providers.job_api import (
    Call,
    Listed,
    Order,
    Submitted,
    Unreadable,
    given_input,
    inside,
)

URL = "https://api.replicate.com"


class _Urls(Struct, frozen=True):
    get: str | None = None
    cancel: str | None = None


class _Answer(Struct, frozen=True):
    id: str
    urls: Raw = ABSENT
    webhook: str | None = None
    created_at: datetime | None = None


class _Page(Struct, frozen=True):
    results: tuple[_Answer, ...]
    next: str | None = None


_answer = msgspec.json.Decoder(_Answer)
_page = msgspec.json.Decoder(_Page)
_urls = msgspec.json.Decoder(_Urls)


class ReplicateApi(Struct, frozen=True):
    """The calls, with the token that they carry."""

    token: str
    url: str = URL

    def __repr__(self) -> str:
        """Show no token."""
        return f"ReplicateApi({self.url})"

    def create(self, order: Order) -> Call:
        """By the model's name (`owner/name`), or by a version (`owner/name:version`, or the version alone)."""
        body: dict[str, Any] = {"input": given_input(order)}
        if order.webhook is not None:
            body |= {
                "webhook": order.webhook,
                "webhook_events_filter": ["start", "output", "logs", "completed"],
            }
        name, _, version = (
            order.model.rpartition(":") if ":" in order.model else (order.model, "", "")
        )
        if "/" in name and not version:
            path = f"/v1/models/{quote(name)}/predictions"
        else:
            path = "/v1/predictions"
            body["version"] = version or name
        headers = self._headers() | {"Content-Type": "application/json"}
        return Call(
            method="POST", url=self.url + path, headers=headers, body=msgspec.json.encode(body)
        )

    def created(self, body: bytes) -> Submitted:
        """The answer is a prediction like any webhook's."""
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"no prediction: {error}") from None
        return Submitted(answer.id, answer.urls)

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002 - the protocol
        """At `urls.get`, or where that would be."""
        return Call(
            method="GET", url=self._at(urls, "get", provider_id, ""), headers=self._headers()
        )

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:  # noqa: ARG002
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:  # noqa: ARG002
        """The answer itself, where it is the prediction that was asked for."""
        if self.created(body).provider_id != provider_id:
            raise Unreadable(f"another prediction than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002
        """At `urls.cancel`, or where that would be."""
        return Call(
            method="POST",
            url=self._at(urls, "cancel", provider_id, "/cancel"),
            headers=self._headers(),
        )

    def list(self, following: str | None = None) -> Call:
        """Newest first, a hundred a page."""
        url = (
            following
            if following is not None and inside(following, self.url)
            else f"{self.url}/v1/predictions"
        )
        return Call(method="GET", url=url, headers=self._headers())

    def listed(self, body: bytes) -> tuple[Sequence[Listed], str | None]:
        """What stands on the page, and the next one's address."""
        try:
            page = _page.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"no page of predictions: {error}") from None
        following = page.next if page.next is not None and inside(page.next, self.url) else None
        return [
            Listed(one.id, one.webhook, _milliseconds(one.created_at)) for one in page.results
        ], following

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _at(self, urls: Raw, name: str, provider_id: str, tail: str) -> str:
        """The address that the provider gave, where it is the provider's: the token must not go elsewhere."""
        try:
            given = getattr(_urls.decode(urls), name) if urls else None
        except (msgspec.DecodeError, RecursionError):
            given = None
        if isinstance(given, str) and inside(given, self.url):
            return given
        return f"{self.url}/v1/predictions/{quote(provider_id, safe='')}{tail}"


def _milliseconds(moment: datetime | None) -> int | None:
    return (
        int(moment.timestamp() * 1000) if moment is not None and moment.tzinfo is not None else None
    )
