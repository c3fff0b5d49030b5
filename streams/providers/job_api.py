"""Asking a provider to do something, as pure data: what to send, and how to read the answers.

Optional: a provider without it is reported to, and not submitted to. Whoever sends a `Call` decides about time limits
and retries; nothing here does I/O.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status


class Call(Struct, frozen=True, kw_only=True):
    """One HTTP request. Its `repr` shows neither headers nor query: they hold tokens."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""

    def __repr__(self) -> str:
        """Method and address alone."""
        return f"Call({self.method} {self.url.partition('?')[0]})"


class Origin(Struct, frozen=True):
    """Which submission of ours something at a provider comes from."""

    prediction_id: str
    attempt: str


class Order(Struct, frozen=True, kw_only=True):
    """What is to be submitted."""

    model: str
    payload: Raw = ABSENT
    """The model's input; an object."""
    prompt: str | None = None
    """Put into the input as `prompt` where the input has none."""
    webhook: str | None = None
    """Where the provider is to report, token included."""
    origin: Origin | None = None
    """What a provider is to carry that reports to one address for all (`Naming`)."""


class Submitted(Struct, frozen=True):
    """What the provider answered to a create call."""

    provider_id: str
    urls: Raw = ABSENT
    """Where it is asked about and canceled, as the record keeps it (`providerUrls`)."""


class Listed(Struct, frozen=True):
    """One of the provider's predictions, as its list shows it."""

    provider_id: str
    webhook: str | None
    created_at: int | None = None
    """ms since the epoch; None: it does not say."""


class Unreadable(ValueError):
    """An answer that is not what the provider's documentation says."""


@runtime_checkable
class Asking(Protocol):
    """A provider that can be asked how predictions stand.

    `get`, `result` and `cancel` raise ValueError where a prediction's address cannot be told, for want of its model.
    """

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """Ask how a prediction stands."""

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> Call | None:
        """A second call, where the answer to `get` says that the result has to be fetched apart."""

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The answers to `get` and `result` in the shape of a webhook's body: appended as one. Raises `Unreadable`."""

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call | None:
        """Stop a prediction; None: the provider has no way to."""


@runtime_checkable
class Submitting(Asking, Protocol):
    """A provider that can also be asked to start predictions."""

    def create(self, order: Order) -> Call:
        """Start a prediction."""

    def created(self, body: bytes) -> Submitted:
        """Read the answer to `create`. Raises `Unreadable`."""


@runtime_checkable
class Listing(Protocol):
    """A provider whose list shows webhooks' addresses, by which a submission without an answer is found again."""

    def list(self, following: str | None = None) -> Call:
        """The newest predictions, newest first, or the page that `listed` named."""

    def listed(self, body: bytes) -> tuple[Sequence[Listed], str | None]:
        """What stands on a page, and the address of the next. Raises `Unreadable`."""


@runtime_checkable
class Naming(Protocol):
    """A provider that is told with a submission whose it is, and shows it: its webhooks' address is the same for all."""

    def origin(self, body: bytes) -> Origin | None:
        """The submission that the answer to `get` belongs to; None: it is none of ours, as far as it says."""


class Notice(Struct, frozen=True):
    """A webhook that names a result and does not bring it."""

    provider_id: str
    """Of what is to be fetched."""
    urls: Raw = ABSENT
    """Where it is fetched, in the shape of a record's `providerUrls`; absent: the id says it."""
    status: Status | None = None
    """What it says, which counts where nothing can be fetched; None: its translation says all of it."""
    error: str | None = None


@runtime_checkable
class Thin(Protocol):
    """A provider some of whose webhooks bring no result."""

    def thin(self, body: bytes) -> Notice | None:
        """What is to be fetched; None: this body says all there is."""


_fields = msgspec.json.Decoder(dict[str, Raw])


def given_input(order: Order) -> dict[str, Raw]:
    """The model's input with the prompt in it; members come out as they came in.

    Raises:
        ValueError: The payload is no object.
    """
    payload = bytes(order.payload)
    try:
        fields = _fields.decode(payload) if payload and payload != b"null" else {}
    except msgspec.ValidationError:
        raise ValueError("the payload is no JSON object; a model's input is one") from None
    if order.prompt is not None and "prompt" not in fields:
        fields["prompt"] = Raw(msgspec.json.encode(order.prompt))
    return fields


def inside(url: str, base: str) -> bool:
    """Whether an address that a provider gave lies at the provider, so that a token may be sent there."""
    return url.startswith(f"{base.rstrip('/')}/") and "/../" not in url and "\\" not in url


def api_of(provider: object) -> Asking | None:
    """How this provider is asked about predictions; None: it is not."""
    api = getattr(provider, "api", None)
    return api if isinstance(api, Asking) else None


def submitting_of(provider: object) -> Submitting | None:
    """How predictions are submitted to this provider; None: they are not."""
    api = api_of(provider)
    return api if isinstance(api, Submitting) else None
