"""Gemini's API for what its webhooks name: get and cancel of batches, interactions and videos, as pure data.

Source: the Gemini API's reference: batch mode, interactions, long-running operations. Nothing is submitted from here.
"""

from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from tidings.streams.providers.job_api import Call, Unreadable

URL = "https://generativelanguage.googleapis.com"
BATCHES = "batches/"


class Where(Struct, frozen=True):
    """A record's `providerUrls`: the resource's name, without host and version."""

    get: str | None = None


class _Resource(Struct, frozen=True):
    id: str | None = None
    name: str | None = None


_where = msgspec.json.Decoder(Where)
_resource = msgspec.json.Decoder(_Resource)


def short(name: str | None) -> str | None:
    """The id in a resource's name: a batch's webhook says `b1` or `batches/b1` for the same one."""
    return name.removeprefix(BATCHES) if name else None


class GeminiApi(Struct, frozen=True):
    """The calls, with the key that they carry."""

    token: str
    url: str = URL

    def __repr__(self) -> str:
        """Show no key."""
        return f"GeminiApi({self.url})"

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002 - the protocol
        """The batch, operation or interaction as it stands."""
        return Call(method="GET", url=self._at(provider_id, urls), headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:  # noqa: ARG002
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:  # noqa: ARG002
        """The answer itself, where it is what was asked for."""
        try:
            found = _resource.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"neither an operation nor an interaction: {error}") from None
        if provider_id not in (found.id, short(found.name)):
            raise Unreadable(f"another resource than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002
        """Stop it."""
        at = self._at(provider_id, urls)
        how = "/cancel" if "/interactions/" in at else ":cancel"
        return Call(method="POST", url=at + how, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"x-goog-api-key": self.token}

    def _at(self, provider_id: str, urls: Raw) -> str:
        try:
            name = _where.decode(urls).get if urls else None
        except (msgspec.DecodeError, RecursionError):
            name = None
        if name is None:
            name = provider_id if "/" in provider_id else f"interactions/{provider_id}"
        # Each part quoted, so that a name leads nowhere but below the API.
        parts = "/".join(
            quote(part, safe="") for part in name.split("/") if part not in ("", ".", "..")
        )
        return f"{self.url}/v1beta/{parts}"
