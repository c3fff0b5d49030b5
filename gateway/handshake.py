"""The opening handshake of a WebSocket, by the sans-I/O core of the `websockets` library.

Pure, apart from the shape of problems: bytes in, an answer out.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from msgspec import Struct
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from gateway.problems import CONTENT_TYPE, Problem
from gateway.protocol import SUBPROTOCOL

_logger = logging.getLogger("tidings.websocket")


class Refusal(Protocol):
    """An answer that turns a handshake away; `gateway.problems.Problem` is one."""

    status: int
    headers: dict[str, str]

    def body(self) -> bytes:
        """The JSON of the problem."""


class Accepted(Struct, frozen=True):
    """A handshake that stands."""

    request: Request
    response: bytes

    @property
    def token(self) -> str | None:
        """The bearer token of the request's `Authorization` header (RFC 6750, 2.1)."""
        return bearer(self.request.headers)


class BadHandshake(Exception):
    """The request is no WebSocket handshake of this service's."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"handshake refused with {refusal.status}")
        self.refusal = refusal


def parse(head: bytes) -> Request:
    """The request in a head that ends with an empty line.

    Raises:
        BadHandshake: It is malformed, or has too many or too long headers.
    """
    core = ServerProtocol(logger=_logger)
    core.receive_data(head)
    events = core.events_received()
    if not events or not isinstance(events[0], Request):
        detail = f"The request's head cannot be read ({core.handshake_exc}); check what sends it."
        raise BadHandshake(Problem(400, "bad-request", "Malformed request", detail))
    return events[0]


def accept(request: Request) -> Accepted:
    """Judge a handshake (RFC 6455, 4.2). A client that names no subprotocol gets `tidings.v1` all the same.

    Raises:
        BadHandshake: With the status that the RFC wants.
    """
    offers = "Sec-WebSocket-Protocol" in request.headers
    core = ServerProtocol(subprotocols=[SUBPROTOCOL] if offers else None, logger=_logger)  # type: ignore[list-item]
    response = core.accept(request)
    if response.status_code != 101:
        raise BadHandshake(_problem(response))
    return Accepted(request, response.serialize())


def _problem(response: Response) -> Problem:
    text = (response.body or b"").decode(errors="replace").strip().splitlines()
    detail = f"{text[0] if text else 'Not a WebSocket handshake.'} Connect with a WebSocket client, version 13, "
    detail += f"subprotocol {SUBPROTOCOL}."
    headers = {name: response.headers[name] for name in ("Upgrade", "Allow") if name in response.headers}
    if response.status_code in {400, 426}:
        headers["Sec-WebSocket-Version"] = "13"
    return Problem(response.status_code, "bad-handshake", "Bad WebSocket handshake", detail, headers=headers)


def refuse(refusal: Refusal) -> bytes:
    """The whole HTTP answer; the connection is closed after it."""
    body = refusal.body()
    headers = Headers(
        {
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **refusal.headers,
        }
    )
    return Response(refusal.status, _phrase(refusal.status), headers, body).serialize()


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def bearer(headers: Headers | Mapping[str, str]) -> str | None:
    """The token in an `Authorization: Bearer` header; None where there is none, or more than one."""
    try:
        value = headers.get("Authorization")
    except MultipleValuesError:
        return None
    if value is None or value[:7].lower() != "bearer ":
        return None
    return value[7:].strip() or None
