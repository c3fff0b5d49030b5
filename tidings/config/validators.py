"""What single settings may look like: parsing and checks of one value at a time. Pure.

Every function raises ValueError with the end of a sentence that begins with the setting's name.
"""

import base64
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import SplitResult, unquote, urlsplit

from tidings.gateway.auth.origins import canonical_origin
from tidings.storage.errors import StoreMisconfigured
from tidings.storage.postgres import address as postgres_address
from tidings.storage.redaction import MASK
from tidings.storage.redis import address as redis_address
from tidings.streams.rules.timeouts import timeout_entry

_REDIS_SCHEMES = ("redis", "rediss", "redis+unix", "valkey", "valkeys", "valkey+unix")
LOG_SCHEMES = ("sqlite", "kafka", "memory")
STORE_SCHEMES = (
    "sqlite",
    "memory",
    "postgresql",
    "postgres",
    *_REDIS_SCHEMES,
    "cloudflare-kv",
    "cloudflare-kv+http",
    "cloudflare-kv+worker",
    "cloudflare-kv+worker+http",
    "durable-objects",
    "durable-objects+http",
)
ASSET_SCHEMES = ("file", "s3", "gs", "az", "memory")

_ESCAPES = "in a user or a password write / ? # @ [ ] as %2F %3F %23 %40 %5B %5D"
_SECRET_PARAMETER = re.compile(r"[?&][^?&=]*(?:password|secret|token|key)[^?&=]*=", re.IGNORECASE)


def at_least(length: int) -> Callable[[str], None]:
    """A check that a secret has at least so many bytes: what is shorter can be found by trying."""

    def check(secret: str) -> None:
        if (found := len(secret.encode())) < length:
            raise ValueError(
                f"is too short ({found} bytes); what guards something needs {length} or more: "
                "openssl rand -hex 32"
            )

    return check


def header_value(text: str) -> str:
    """A secret that is sent in a header (RFC 9110, 5.5: visible ASCII and spaces), checked."""
    if not text.isascii() or not text.isprintable():
        raise ValueError(
            "has a character that no header can carry; copy it again, without quotes and line breaks"
        )
    return text


def without_controls(text: str) -> None:
    """Refuse control characters, a line break in the middle of a copied secret among them."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ValueError("has a control character or a line break in it; copy it again, whole")


_SIGNATURE_VERSION = re.compile(r"(?:^|[,|\s])v\d+a?,\s*(?=\S)")


def webhook_secrets(text: str) -> tuple[str, ...]:
    """The entries of a list of webhook secrets, as providers hand them out.

    The version of the signature may stand before a secret (`v1,whsec_...`), and `|` between two of
    them; neither is a secret of its own.
    """
    return words(_SIGNATURE_VERSION.sub(",", text).replace("|whsec_", ",whsec_"))


def signing_secret(text: str) -> str:
    """A secret of Standard Webhooks that signs: `whsec_` and 24 bytes or more in base64."""
    try:
        secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        secret = b""
    if not text.startswith("whsec_") or len(secret) < 24:
        raise ValueError('is no signing secret; make one: echo "whsec_$(openssl rand -base64 32)"')
    return text


def words(text: str) -> tuple[str, ...]:
    """The entries of a comma list, without the empty ones."""
    return tuple(entry for part in text.split(",") if (entry := part.strip()))


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # its text repeats the part with the password
        raise ValueError(f"{masked_url(url)!r} is not a URL; {_ESCAPES}") from None
    if not parts.scheme or "://" not in url:
        raise ValueError(
            f"{masked_url(url)!r} is not a URL; it begins with one of {_listed(schemes)}"
        )
    if parts.scheme not in schemes:
        raise ValueError(
            f"{parts.scheme!r} in {masked_url(url)!r} is not known here; use one of {_listed(schemes)}"
        )
    return parts


def _escaped(parts: SplitResult, url: str) -> None:
    """Refuse a URL whose password ends the host's part.

    What follows would be shown as its path or its host.
    """
    if "@" in parts.path or ("@" not in parts.netloc and "@" in url):
        raise ValueError(f"{masked_url(url)!r} has an @ behind the first /, ? or #; {_ESCAPES}")


def _listed(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)


def _port(parts: SplitResult, url: str) -> None:
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(
            f"{masked_url(url)!r} has a port that is not a number from 0 to 65535"
        ) from None


def _sqlite_path(parts: SplitResult, url: str) -> None:
    if parts.netloc:
        raise ValueError(
            f"{url!r} names a host; a file takes three slashes: sqlite:///{parts.netloc}{parts.path}"
        )
    if len(parts.path) < 2 or parts.path.endswith("/"):
        raise ValueError(f"{url!r} names no file; say sqlite:///data/name.db")


def log_url(url: str) -> str:
    """The URL of a log, checked."""
    parts = _split(url, LOG_SCHEMES)
    if parts.scheme == "sqlite":
        _sqlite_path(parts, url)
    elif parts.scheme == "kafka":
        if "@" in parts.path:
            _escaped(parts, url)
        brokers = words(parts.netloc.rpartition("@")[2])
        if not brokers:
            raise ValueError(f"{masked_url(url)!r} names no broker; say kafka://host:9092")
        for broker in brokers:
            _broker(broker, masked_url(url) if "@" in url else broker)
    return url


def _broker(broker: str, shown: str) -> None:
    try:
        parts = urlsplit(f"//{broker}")
        port = parts.port
    except ValueError:
        port = None
        parts = SplitResult("", "", "", "", "")
    if not parts.hostname or port is None or port == 0:
        raise ValueError(f"{shown!r} is not a broker's host:port; say kafka://host:9092,host2:9092")


def store_url(url: str) -> str:
    """The URL of a store, checked."""
    parts = _split(url, STORE_SCHEMES)
    if parts.scheme == "sqlite":
        _sqlite_path(parts, url)
        return url
    _escaped(parts, url)
    if parts.scheme in {"postgresql", "postgres"}:
        _taken_by(postgres_address.parse, url)
        return url
    if parts.scheme in _REDIS_SCHEMES:
        if not parts.netloc and "+" not in parts.scheme:
            raise ValueError(f"{masked_url(url)!r} names no host; say {parts.scheme}://host")
        _taken_by(redis_address.parse, url)
        return url
    _port(parts, url)
    if parts.scheme in {"cloudflare-kv", "cloudflare-kv+http"}:
        if not parts.netloc or not parts.path.strip("/") or "/" in parts.path.strip("/"):
            raise ValueError(
                f"{masked_url(url)!r} lacks a part; say {parts.scheme}://ACCOUNT/NAMESPACE"
            )
    elif parts.scheme != "memory" and not parts.hostname:
        raise ValueError(f"{masked_url(url)!r} names no host; say {parts.scheme}://host")
    return url


def _taken_by(parse: Callable[[str], object], url: str) -> None:
    """Refuse what the store would refuse.

    A check before the start and the start itself say the same.
    """
    try:
        parse(url)
    except StoreMisconfigured as error:
        raise ValueError(f"{masked_url(url)!r} cannot be used: {error}") from None


def split_arm(text: str) -> tuple[str, float]:
    """The URL and the per cent in `URL=10`."""
    url, equals, share = text.rpartition("=")
    try:
        percent = float(share) if equals else -1.0
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise ValueError(
            f"{masked_url(text)!r} does not end with a share; say URL=10 for 10 per cent"
        )
    return store_url(url), percent


def timeout(text: str) -> str:
    """A default timeout, `PROVIDER=SECONDS`."""
    name, seconds = timeout_entry(text)
    return f"{name}={seconds:g}"


def assets_url(url: str) -> str:
    """The URL of an object storage, checked."""
    parts = _split(url, ASSET_SCHEMES)
    if parts.scheme == "file" and (parts.netloc or len(parts.path) < 2):
        raise ValueError(
            f"{masked_url(url)!r} names no folder; say file:///data/assets (three slashes)"
        )
    if parts.scheme in {"s3", "gs", "az"} and not parts.netloc:
        raise ValueError(f"{masked_url(url)!r} names no bucket; say {parts.scheme}://bucket/prefix")
    return url


def http_url(url: str) -> str:
    """An http(s) URL, checked, without a slash at its end."""
    parts = _split(url, ("https", "http"))
    _port(parts, url)
    if not parts.hostname:
        raise ValueError(f"{masked_url(url)!r} names no host")
    return url.rstrip("/")


def origin(text: str) -> str:
    """An origin of pages or of a packaged app (RFC 6454), as two equal ones are both written."""
    found = canonical_origin(text.rstrip("/") if not text.startswith("file:") else text)
    if found is not None:
        return found
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme and (host := parts.netloc.rpartition("@")[2]):
        raise ValueError(
            f"{masked_url(text)!r} is more than an origin, or names no valid host; "
            f"say {parts.scheme}://{host}"
        )
    raise ValueError(
        f"{masked_url(text)!r} is no origin; say https://app.example, capacitor://localhost or null"
    )


def network(text: str) -> str:
    """An address or a network in CIDR notation, checked."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is neither an address nor a network; say 10.0.0.0/8") from None


def host_port(text: str) -> str:
    """`host:port`, checked."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not host:port; say 127.0.0.1:9000")
    return text


def url_secrets(url: str) -> list[str]:
    """What `masked_url` strikes out of a URL, as it stands there and decoded."""
    found = [url[start:end] for start, end in _secret_spans(url)]
    return [one for text in found for one in (text, unquote(text)) if one]


def masked_url(url: str) -> str:
    """The URL with its password, and every parameter that sounds like a secret, struck out.

    A password that was not escaped may hold a `/`, `?` or `#`, so everything from the first `:` to
    the last `@` is one.
    """
    shown: list[str] = []
    done = 0
    for start, end in _secret_spans(url):
        if start > done or not shown:
            shown += [url[done:start], MASK]
        done = max(done, end)
    return "".join((*shown, url[done:]))


def _secret_spans(url: str) -> list[tuple[int, int]]:
    """Where the password and the parameters that sound like secrets begin and end."""
    begin = url.find("://") + 3 if "://" in url else 0
    spans: list[tuple[int, int]] = []
    if (at := url.rfind("@", begin)) >= 0 and (colon := url.find(":", begin, at)) >= 0:
        spans.append((colon + 1, at))
    for parameter in _SECRET_PARAMETER.finditer(url, begin):
        end = url.find("&", parameter.end())
        spans.append((parameter.end(), len(url) if end < 0 else end))
    return sorted(spans)
