"""What every client of the Worker in `storage/cloudflare/worker` does first, and how it reads the Worker's refusals."""

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Struct

from tidings.storage.cloudflare.http import CloudflareAnswer, CloudflareHttp, TooManyRequests
from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable

PROTOCOL = 1
"""The version of the Worker's contract that this program speaks."""


class WorkerHealth(Struct, frozen=True):
    """What the Worker says of itself."""

    service: str
    protocol: int
    max_operations: int
    layout: str
    shards: int
    kv: bool = False
    location: str | None = None
    jurisdiction: str | None = None


class _Problem(Struct, frozen=True):
    error: str = ""
    code: str = ""


async def health(http: CloudflareHttp) -> WorkerHealth:
    """What the Worker says of itself.

    Raises:
        StoreMisconfigured: The token, the address, the Worker's version or its layout is wrong.
        StoreUnavailable: Nobody answers.
    """
    answer = await http.call("GET", "/v1/health")
    try:
        found = msgspec.json.decode(answer, type=WorkerHealth)
    except msgspec.DecodeError:
        raise StoreMisconfigured(
            f"{http.base_url} is no Worker of Tidings; check the store's URL"
        ) from None
    if found.protocol != PROTOCOL:
        side = "Worker (npx wrangler deploy)" if found.protocol < PROTOCOL else "program"
        raise StoreMisconfigured(
            f"the Worker at {http.base_url} speaks version {found.protocol}, this program version {PROTOCOL}: "
            f"deploy a newer {side}"
        )
    return found


LOCATIONS = ("wnam", "enam", "sam", "weur", "eeur", "apac", "oc", "afr", "me")
"""Where objects may be asked to be made (Cloudflare, Durable Objects, Data location)."""
JURISDICTIONS = ("eu", "fedramp")
"""In which objects may be told to stay (as above)."""


class Placement(Struct, frozen=True):
    """Where a store's objects are to be."""

    location: str | None = None
    """A hint for objects that are made from now on."""
    jurisdiction: str | None = None
    """A rule. Objects of a jurisdiction are others than those of the same names without one."""

    @property
    def headers(self) -> dict[str, str]:
        """As the Worker is told with each request."""
        given = {"tidings-location": self.location, "tidings-jurisdiction": self.jurisdiction}
        return {name: value for name, value in given.items() if value is not None}


def placed(url: str) -> tuple[str, Placement]:
    """A store's URL without its query, and what that says: `?location=weur&jurisdiction=eu`.

    Raises:
        StoreMisconfigured: It says something else.
    """
    address, _, query = url.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise StoreMisconfigured(f"{query!r} is no query; say ?location=weur") from None
    known = {"location": LOCATIONS, "jurisdiction": JURISDICTIONS}
    for name, value in pairs:
        if name not in known:
            raise StoreMisconfigured(
                f"durable-objects:// takes location and jurisdiction after its ?, not {name!r}"
            )
        if value not in known[name]:
            raise StoreMisconfigured(
                f"{name}={value} is none of Cloudflare's; use one of {', '.join(known[name])}"
            )
    if len(dict(pairs)) != len(pairs):
        raise StoreMisconfigured("location and jurisdiction can be said once each")
    return address, Placement(**dict(pairs))


def worker_url(url: str) -> str:
    """Where the Worker answers, out of a store's URL.

    `kind://host[:port][/space]`, or `kind+http://` without TLS.

    Raises:
        StoreMisconfigured: The URL names no host, or has a user, a query or a fragment.
    """
    parts = urlsplit(url)
    plain = parts.scheme.endswith("+http")
    if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        raise StoreMisconfigured(
            f"{parts.scheme}:// needs the Worker's host and nothing else: {parts.scheme}://HOST"
        )
    return f"{'http' if plain else 'https'}://{parts.netloc}{parts.path.rstrip('/')}"


def required_token(token: str | None) -> str:
    """The Worker's token.

    Raises:
        StoreMisconfigured: There is none.
    """
    if not token:
        raise StoreMisconfigured(
            "a Worker wants a token: set TIDINGS_WORKER_TOKEN to its secret TIDINGS_TOKEN"
        )
    return token


def explainer(base_url: str) -> Callable[[CloudflareAnswer], StorageError]:
    """What makes errors of a Worker's answers."""

    def explain(answer: CloudflareAnswer) -> StorageError:
        try:
            problem = msgspec.json.decode(answer.body, type=_Problem)
        except msgspec.DecodeError:
            problem = _Problem()
        if answer.status in (401, 403):
            return StoreMisconfigured(
                f"the Worker at {base_url} refuses the token: set TIDINGS_WORKER_TOKEN to its secret TIDINGS_TOKEN"
            )
        if problem.code in ("no_token", "no_kv", "bad_layout", "other_layout", "other_format"):
            return StoreMisconfigured(f"the Worker at {base_url} cannot serve: {problem.error}")
        if not problem.code and answer.status < 500 and answer.status != 429:
            return StoreMisconfigured(
                f"{base_url} is no Worker of Tidings (it answers {answer.status}); check the URL"
            )
        text = f"the Worker at {base_url} answers {answer.status}: {problem.error or 'no reason given'}"
        if answer.status == 429:
            return TooManyRequests(text, answer.retry_after)
        return StoreUnavailable(text) if answer.status >= 500 else StorageError(text)

    return explain
