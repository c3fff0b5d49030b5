"""How the client's requests are spelled, and what answers that are no success mean."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct, structs

from tidings.client.errors import from_status
from tidings.storage.prediction import Prediction
from tidings.storage.resilience.backoff import Backoff

if TYPE_CHECKING:
    import httpx

REFUSED = Backoff((0.5, 1.0))
"""Before asking again after 429 or 503, if the service does not say for how long."""
LONGEST_RETRY_AFTER = 10.0


class PredictionPage(Struct, frozen=True):
    """A page of predictions, newest first, and the cursor of the next one.

    None: this was the last.
    """

    data: list[Prediction]
    cursor: str | None = None


class One(Struct):
    """An answer with one record."""

    data: Prediction


class _Problem(Struct):
    code: str | None = None
    error: str | None = None
    detail: str | None = None


def path_of(prediction_id: str) -> str:
    """Where a prediction is read."""
    return f"/api/predictions/{quote(prediction_id, safe='')}"


def camel(name: str) -> str:
    """The name on the wire of what is called so in Python."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def retry_after(answer: "httpx.Response", attempt: int) -> float:
    """Seconds to wait before asking again, after 429 or 503."""
    text = answer.headers.get("Retry-After", "")
    asked = float(text) if text.isascii() and text.isdecimal() else REFUSED.wait(attempt)
    return min(asked, LONGEST_RETRY_AFTER)


def error_of(answer: "httpx.Response") -> Exception:
    """The exception that an answer stands for."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    message = problem.error or answer.reason_phrase
    if problem.detail and problem.detail != message:
        message = f"{message}: {problem.detail}"
    return from_status(answer.status_code, problem.code, message)


def outside(answer: "httpx.Response", url: str) -> str:
    """Where the service is for everybody, as it says; else the address that was asked."""
    return str(answer.headers.get("Tidings-Public-Url") or url)


def record_of(answer: "httpx.Response", url: str) -> Prediction:
    """The record in an answer. Raises `msgspec.DecodeError` if there is none."""
    return absolute(msgspec.json.decode(answer.content, type=One).data, outside(answer, url))


def absolute(record: Prediction, service: str) -> Prediction:
    """The record with the whole addresses of its archived files: in it they are the service's own.

    Args:
        record: As the service tells it.
        service: Where they lie, without a slash at its end.
    """
    changes: dict[str, Any] = {}
    if record.image_url is not None and record.image_url.startswith(_OWN):
        changes["image_url"] = service + record.image_url
    if record.assets and b'"/assets/' in bytes(record.assets):
        assets = msgspec.json.decode(record.assets)
        if isinstance(assets, list):
            changes["assets"] = Raw(msgspec.json.encode([_whole(one, service) for one in assets]))
    return structs.replace(record, **changes) if changes else record


def _whole(asset: Any, service: str) -> Any:
    url = asset.get("url") if isinstance(asset, dict) else None
    if isinstance(url, str) and url.startswith(_OWN):
        return {**asset, "url": service + url}
    return asset


_OWN = "/assets/"
