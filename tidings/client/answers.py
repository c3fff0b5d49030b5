"""What an answer of the service that is none says: an error, and when to come back."""

import httpx
import msgspec
from msgspec import Struct

from tidings.client.errors import from_status
from tidings.storage.resilience.backoff import Backoff

REFUSED = Backoff((0.5, 1.0))
"""Before asking again after 429 or 503, where the service does not say for how long."""
LONGEST_RETRY_AFTER = 10.0


class _Problem(Struct):
    code: str | None = None
    error: str | None = None
    detail: str | None = None


def retry_after(answer: httpx.Response, attempt: int) -> float:
    """Seconds to wait before the request is sent again."""
    text = answer.headers.get("Retry-After", "")
    asked = float(text) if text.isascii() and text.isdecimal() else REFUSED.wait(attempt)
    return min(asked, LONGEST_RETRY_AFTER)


def error_of(answer: httpx.Response) -> Exception:
    """The error that a refusal amounts to."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    message = problem.error or answer.reason_phrase
    if problem.detail and problem.detail != message:
        message = f"{message}: {problem.detail}"
    return from_status(answer.status_code, problem.code, message)
