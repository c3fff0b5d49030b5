"""How the client's requests are spelled, and what answers that are no success mean."""

from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct

from tidings.client.errors import from_status
from tidings.storage.prediction import Prediction
from tidings.storage.resilience.backoff import Backoff

REFUSED = Backoff((0.5, 1.0))
"""Before asking again after 429 or 503, where the service does not say for how long."""
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


def retry_after(answer: httpx.Response, attempt: int) -> float:
    """Seconds to wait before asking again, after 429 or 503."""
    text = answer.headers.get("Retry-After", "")
    asked = float(text) if text.isascii() and text.isdecimal() else REFUSED.wait(attempt)
    return min(asked, LONGEST_RETRY_AFTER)


def error_of(answer: httpx.Response) -> Exception:
    """The exception that an answer stands for."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    message = problem.error or answer.reason_phrase
    if problem.detail and problem.detail != message:
        message = f"{message}: {problem.detail}"
    return from_status(answer.status_code, problem.code, message)
