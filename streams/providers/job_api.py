"""The API of a provider for its jobs, as pure data: what to send, and how to read the answers.

Optional: a provider without it is reported to, and not submitted to. Whoever sends a `Call` decides
about time limits and retries; nothing here does I/O. `address` builds every address that contains
input, and `is_at` checks every address that a provider gave. So a token goes only to addresses
below the provider's base URL.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable
from urllib.parse import quote, unquote, urlsplit

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status

MAX_SEGMENT = 512
"""Characters of one part of a path: of a model's name, or of a job's id."""
MAX_SEGMENTS = 16
DECODINGS = 4
"""How often a server may decode a path before it normalises it."""

_control = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Call(Struct, frozen=True, kw_only=True):
    """One HTTP request. Its `repr` shows neither headers nor query: they hold tokens."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    first_event: bool = False
    """Where the answer is an event stream, its first event is all that is waited for."""

    def __repr__(self) -> str:
        """Method and address alone."""
        return f"Call({self.method} {self.url.partition('?')[0]})"


class Origin(Struct, frozen=True):
    """The submission of ours that something at a provider comes from."""

    prediction_id: str
    attempt: str


class Order(Struct, frozen=True, kw_only=True):
    """What is to be submitted."""

    model: str
    payload: Raw = ABSENT
    """The model's input; an object."""
    prompt: str | None = None
    """Put into the input as `prompt` if the input has none."""
    webhook: str | None = None
    """Where the provider is to report, token included."""
    timeout: int | None = None
    """Seconds after which the provider is to cancel it, if it can; None: it may take forever."""
    stream: bool = False
    """The answer is to be read while it is written, if the provider can."""
    origin: Origin | None = None
    """What a provider is to carry that reports to one address for all (`OriginAware`)."""


class Submitted(Struct, frozen=True):
    """What the provider answered to a create call."""

    provider_id: str
    urls: Raw = ABSENT
    """Where it is asked about and canceled, as the record keeps it (`providerUrls`)."""


class ListedJob(Struct, frozen=True):
    """One of the provider's jobs, as its list shows it."""

    provider_id: str
    webhook: str | None
    created_at: int | None = None
    """In ms since the epoch; None: it does not say."""


class Unreadable(ValueError):
    """An answer that is not what the provider's documentation says."""


@runtime_checkable
class JobApi(Protocol):
    """A provider that can be asked how jobs stand.

    `get`, `result` and `cancel` raise ValueError if a job's address cannot be told, for want of
    its model.
    """

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """Ask how a job stands."""

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> Call | None:
        """A second call, if the answer to `get` says that the result has to be fetched apart."""

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The answers to `get` and `result` in the shape of a webhook's body.

        Raises `Unreadable`.
        """

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call | None:
        """Stop a job; None: the provider has no way to."""


@runtime_checkable
class SubmissionApi(JobApi, Protocol):
    """A provider that can also be asked to start jobs."""

    def create(self, order: Order) -> Call:
        """Start a job. Raises ValueError if the order cannot be one, with the reason."""

    def created(self, body: bytes) -> Submitted:
        """Read the answer to `create`. Raises `Unreadable`."""


@runtime_checkable
class JobListing(Protocol):
    """A provider whose list shows its jobs' webhooks, by which a lost submission is found again."""

    def list(self, following: str | None = None) -> Call:
        """The newest jobs, newest first, or the page that `listed` named."""

    def listed(self, body: bytes) -> tuple[Sequence[ListedJob], str | None]:
        """What stands on a page, and the address of the next. Raises `Unreadable`."""


@runtime_checkable
class OriginAware(Protocol):
    """A provider whose webhooks all go to one address.

    It is told a job's origin with the order, and shows it.
    """

    def origin(self, body: bytes) -> Origin | None:
        """The submission that the answer to `get` belongs to.

        None: it is none of ours, as far as it says.
        """


class Reply(Struct, frozen=True, kw_only=True):
    """A person's answer to a question of a provider."""

    provider_id: str
    """Of the job that asked."""
    model: str | None
    question: bytes
    """As the provider's translation made it; JSON."""
    answer: bytes
    """Any JSON but null."""
    webhook: str | None
    """Where a job reports that goes on with the answer, token included."""
    key: str
    """The same for every try; for a provider that can tell repeats by it."""


@runtime_checkable
class AnswerApi(Protocol):
    """A provider whose jobs ask, and go on with an answer."""

    def answer(self, reply: Reply) -> Call:
        """Send an answer. Raises ValueError if it cannot be one, with the reason."""

    def answered(self, body: bytes) -> Submitted:
        """Read the answer to that: the job that goes on. Raises `Unreadable`."""


class ThinNotice(Struct, frozen=True):
    """What a webhook says that names a result and does not bring it."""

    provider_id: str
    """Of what is to be fetched."""
    urls: Raw = ABSENT
    """Where it is fetched, in the shape of a record's `providerUrls`; absent: the id says it."""
    status: Status | None = None
    """The status it names, which counts if nothing can be fetched; None: its translation says
    all of it."""
    error: str | None = None


@runtime_checkable
class ThinWebhook(Protocol):
    """A provider some of whose webhooks bring no result."""

    def thin(self, body: bytes) -> ThinNotice | None:
        """What is to be fetched; None: this body says all there is."""


def address(base: str, *segments: str, tail: str = "") -> str:
    """The address of something at a provider.

    The one place where input becomes part of a path there.

    Args:
        base: The provider's base URL, which may have a path of its own.
        segments: Of the path below it, each one part whatever it holds; input that has parts is
            split by `parts`.
        tail: Put behind the last segment as it is; never input.

    Raises:
        ValueError: A segment would lead elsewhere, or cannot be part of an address; the text says
            why.
    """
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"a name of more than {MAX_SEGMENTS} parts cannot be part of an address")
    for segment in segments:
        _check_segment(segment)
    quoted = "/".join(quote(segment, safe=":") for segment in segments)
    url = f"{base.rstrip('/')}/{quoted}{tail}"
    if not is_at(url, base):
        raise ValueError(f"{quoted[:80]!r} does not lie below the provider's address")
    return url


def parts(name: str) -> list[str]:
    """The parts of a name such as `owner/model`, as segments for `address`."""
    return name.split("/")


def _check_segment(segment: str) -> None:
    shown = repr(segment[:80])
    if not segment or len(segment) > MAX_SEGMENT:
        raise ValueError(f"{shown} cannot be part of an address: 1 to {MAX_SEGMENT} characters")
    if _control.search(segment) or "\\" in segment:
        raise ValueError(
            f"{shown} cannot be part of an address: it has a control character or `\\`"
        )
    if _leads_elsewhere(segment):
        raise ValueError(f"{shown} cannot be part of an address: it leads to another place")


def _leads_elsewhere(path: str) -> bool:
    """Whether a server may find `.` or `..` in this, also if it decodes more than once."""
    for _ in range(DECODINGS):
        if any(part.strip() in (".", "..") for part in re.split(r"[/\\]", path)):
            return True
        path = unquote(path)
    return False


def is_at(url: str, base: str) -> bool:
    """Whether an address lies at the provider, so that a token may be sent there."""
    if _control.search(url) or "\\" in url or " " in url or not url.isascii():
        return False
    try:
        given, own = urlsplit(url), urlsplit(base)
        same_place = (given.scheme, given.netloc.lower()) == (own.scheme, own.netloc.lower())
    except ValueError:
        return False
    path = own.path.rstrip("/") + "/"
    return same_place and given.path.startswith(path) and not _leads_elsewhere(given.path)


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


def job_api_of(provider: object) -> JobApi | None:
    """How this provider is asked about jobs; None: it is not."""
    api = getattr(provider, "api", None)
    return api if isinstance(api, JobApi) else None


def submission_api_of(provider: object) -> SubmissionApi | None:
    """How jobs are submitted to this provider; None: they are not."""
    api = job_api_of(provider)
    return api if isinstance(api, SubmissionApi) else None
