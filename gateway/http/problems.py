"""Errors as `application/problem+json` (RFC 9457), each with what to do about it.

```
Problem
├── status, code      of the HTTP answer; the code is what programs tell problems apart by
├── error             a short text for people, also as the member `error`
└── detail            what was wrong, with which value, and the remedy
```
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

from tidings.gateway.http.held_bytes import HeldAccount
from tidings.storage.errors import IndexBehind, StorageError
from tidings.storage.loggers import get_logger
from tidings.streams.log.protocol import LogError, RecordTooLarge

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER = "1"
"""Seconds; an outage ends at an unknown time, and a sooner return helps."""

BUSY_RETRY_AFTER = "5"
"""Seconds; what is held is given back when clients read, or after 30 s without progress."""

_encoder = msgspec.json.Encoder()
logger = get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(Exception):
    """An answer that is an error.

    Args:
        status: The HTTP status.
        code: What programs tell it apart by, in words with dashes.
        error: A short text for people.
        detail: What was wrong and what to do.
        headers: More headers of the answer.
        extra: More members of the body.
    """

    def __init__(
        self,
        status: int,
        code: str,
        error: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {error}")
        self.status = status
        self.code = code
        self.error = error
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def body(self) -> bytes:
        """The JSON of the answer."""
        return _encoder.encode(
            {
                "type": f"urn:tidings:problem:{self.code}",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                "error": self.error,
                "success": False,
                "errorCode": self.code,
                **self.extra,
            }
        )

    def response(self) -> web.Response:
        """The answer itself."""
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **self.headers}
        response = web.Response(
            status=self.status, body=self.body(), headers=headers, content_type=CONTENT_TYPE
        )
        if self.ends_connection:
            response.force_close()
        return response

    @property
    def ends_connection(self) -> bool:
        """Whether its connection's state is in doubt: what is left of the body is not worth reading."""
        return self.status in {
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        }


def not_found(headers: Mapping[str, str] | None = None) -> Problem:
    """No such prediction, or none that the caller may see: the two must look alike."""
    return Problem(
        404,
        "not-found",
        "Prediction not found",
        "No prediction has this id, or it is not yours to see; check the id and the token.",
        headers=headers,
    )


def bad_request(error: str, detail: str) -> Problem:
    """The request's parameters or headers are off."""
    return Problem(400, "bad-request", error, detail)


def unprocessable(error: str, detail: str) -> Problem:
    """The body is JSON, and its content is off."""
    return Problem(422, "invalid-content", error, detail)


def forbidden(detail: str) -> Problem:
    """The caller is known, and may not do this."""
    return Problem(403, "forbidden", "Forbidden", detail)


def too_large(limit: int) -> Problem:
    """The body is over the limit."""
    return Problem(
        413,
        "too-large",
        "Body too large",
        f"A body may have {limit} bytes at most; send less, or raise TIDINGS_MAX_BODY.",
    )


def busy(account: HeldAccount, size: int) -> Problem:
    """Too much is held in memory to hold so much more: for this caller, or for all."""
    if account.within_own_limits(size):
        return Problem(
            503,
            "busy",
            "Busy",
            "The service holds as much for others as it may; send the request again in a while.",
            headers={"Retry-After": BUSY_RETRY_AFTER},
        )
    return Problem(
        429,
        "too-much-held",
        "Too much under way",
        "What you have under way is as much as you may; finish reading or sending some of it.",
        headers={"Retry-After": BUSY_RETRY_AFTER},
    )


def unavailable(what: str, reason: str) -> Problem:
    """A part that the answer needs does not answer; the same request may succeed soon."""
    return Problem(
        503,
        "unavailable",
        f"{what} unavailable",
        f"{reason}; send the same request again in a moment.",
        headers={"Retry-After": RETRY_AFTER},
    )


def from_failure(error: Exception) -> Problem:
    """The problem that an exception of a lower floor amounts to; else a 500."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RecordTooLarge):
        return Problem(
            413,
            "too-large",
            "Record too large",
            "The log does not take a record of this size; send less at once.",
        )
    if isinstance(error, IndexBehind):
        return Problem(
            503,
            "index-behind",
            "Index behind",
            f"{error.left} records are not in the store's index yet; send the same request again in a while.",
            headers={"Retry-After": RETRY_AFTER},
        )
    if isinstance(error, StorageError):
        logger.warning("http.store_failed", error=str(error), kind=type(error).__name__)
        return unavailable("Store", "The store does not answer")
    if isinstance(error, LogError | TimeoutError):
        logger.warning("http.log_failed", error=str(error), kind=type(error).__name__)
        return unavailable("Log", "The log has not taken it in time")
    logger.error("http.failed", exc_info=error)
    return Problem(
        500,
        "internal",
        "Internal error",
        "The service failed at this request, which is its own fault; its log has the particulars.",
    )


def answering(handler: Handler) -> Handler:
    """The handler, with all that it raises turned into a problem; a middleware would cost more."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ConnectionError:
            raise  # the client went away; the server ends the connection
        except Exception as error:
            return from_failure(error).response()

    return answer
