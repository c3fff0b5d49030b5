"""What can go wrong for a client of the service.

```
ClientError
├── Unreachable         nobody answered within the client's patience; a retry helps
├── Unauthorized        the token is missing, refused or expired: bring another
├── Forbidden           the token does not allow it
├── PredictionNotFound  no such prediction, or none that this client may see
├── Conflicting         the rules forbid the change, or the id is in use
└── RequestRefused      anything else that the service would not do
```
"""


class ClientError(Exception):
    """The service could not, or would not, do what was asked."""

    #: Whether the same call may succeed later without anybody fixing anything.
    retryable = False

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, or the WebSocket's close code, if there was one."""
        self.code = code
        """The service's own word for it."""


class Unreachable(ClientError):
    """Nobody answered; the same call may succeed later."""

    retryable = True


class Unauthorized(ClientError):
    """The token is missing, refused or expired."""


class Forbidden(ClientError):
    """The token does not allow it."""


class PredictionNotFound(ClientError):
    """No such prediction, or none that this client may see."""


class Conflicting(ClientError):
    """The rules forbid the change, or the id is in use."""


class RequestRefused(ClientError):
    """The service would not do it."""


def from_status(status: int, code: str | None, message: str) -> ClientError:
    """The error for an HTTP answer."""
    kinds: dict[int, type[ClientError]] = {
        401: Unauthorized,
        403: Forbidden,
        404: PredictionNotFound,
        409: Conflicting,
        429: Unreachable,
        502: Unreachable,
        503: Unreachable,
        504: Unreachable,
    }
    return kinds.get(status, RequestRefused)(message, status=status, code=code)
