"""The opening handshake of a WebSocket (RFC 6455, 4).

Pure, apart from the shape of problems: bytes in, an answer out. A handshake of the usual shape is
recognized as such; any other is left to the `websockets` library, which costs four times as much.
"""

import binascii
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from msgspec import Struct
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from tidings.gateway.http.problems import CONTENT_TYPE, Problem
from tidings.gateway.push.protocol import SUBPROTOCOL

_USUAL = re.compile(
    rb"GET [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n){1,100}\r\n",
)
"""A head without anything odd: no folded lines or control characters, valid names (RFC 9110, 5).

Any bytes can be read in one way alone: with two, each line of a head that fails at its end would
double the work.
"""

_USUAL_CONNECTION = frozenset({"upgrade", "keep-alive, upgrade"})

_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n"
)
_WITH_SUBPROTOCOL = _ACCEPTED + b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode() + b"\r\n\r\n"
_WITHOUT = _ACCEPTED + b"\r\n"

logger = logging.getLogger("tidings.websocket")


class Refusal(Protocol):
    """An answer that turns a handshake away; `gateway.problems.Problem` is one."""

    status: int
    headers: dict[str, str]

    def body(self) -> bytes:
        """The JSON of the problem."""


class HandshakeRefused(Exception):
    """The request is no WebSocket handshake of this service's."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"handshake refused with {refusal.status}")
        self.refusal = refusal


class RequestHead(Struct, frozen=True):
    """A request's head."""

    headers: dict[str, str]
    """Names in lower case; values of a repeated one joined with commas (RFC 9110, 5.3)."""
    request: Request | None = None
    """As the library has it, if the head is unusual or was parsed by somebody else."""
    raw: bytes = b""

    @property
    def token(self) -> str | None:
        """The bearer token of the `Authorization` header (RFC 6750, 2.1), if there is one."""
        value = self.headers.get("authorization")
        if value is None or value[:7].lower() != "bearer ":
            return None
        return value[7:].strip() or None


def parse(head: bytes) -> RequestHead:
    """The request in a head that ends with an empty line.

    Raises:
        HandshakeRefused: It is malformed, or has too many or too long headers.
    """
    if _USUAL.fullmatch(head) is None:
        return from_request(_parse_unusual(head))
    headers: dict[str, str] = {}
    for line in head[head.index(b"\n") + 1 : -4].decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        name = name.lower()
        value = value.strip(" \t")  # no other white space (RFC 9110, 5.5), as the library does
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return RequestHead(headers, raw=head)


def from_request(request: Request) -> RequestHead:
    """The head of a request that was parsed already."""
    headers: dict[str, str] = {}
    for name, value in request.headers.raw_items():
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return RequestHead(headers, request)


def _parse_unusual(head: bytes) -> Request:
    core = ServerProtocol(logger=logger)
    core.receive_data(head)
    events = core.events_received()
    if not events or not isinstance(events[0], Request):
        detail = f"The request's head cannot be read ({core.handshake_exc}); check what sends it."
        raise HandshakeRefused(Problem(400, "bad-request", "Malformed request", detail))
    return events[0]


def accept(head: RequestHead) -> bytes:
    """The answer to a handshake. A client that names no subprotocol gets `tidings.v1` all the same.

    Raises:
        HandshakeRefused: With the status that the RFC wants.
    """
    headers = head.headers
    key = headers.get("sec-websocket-key", "")
    offered = headers.get("sec-websocket-protocol")
    usual = (
        head.request is None
        and headers.get("upgrade", "").lower() == "websocket"
        and headers.get("connection", "").lower() in _USUAL_CONNECTION
        and headers.get("sec-websocket-version") == "13"
        and _is_key(key)
        and offered in {None, SUBPROTOCOL}
    )
    if usual:
        return (_WITHOUT if offered is None else _WITH_SUBPROTOCOL) % accept_key(key).encode()
    return _accept_unusual(head)


def _is_key(key: str) -> bool:
    """Whether it is base64 of 16 bytes (RFC 6455, 4.2.1)."""
    try:
        return len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except ValueError:
        return False


def _accept_unusual(head: RequestHead) -> bytes:
    request = head.request or _parse_unusual(head.raw)
    offers = "Sec-WebSocket-Protocol" in request.headers
    offered = [Subprotocol(SUBPROTOCOL)] if offers else None
    core = ServerProtocol(subprotocols=offered, logger=logger)
    response = core.accept(request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        raise HandshakeRefused(_problem(response))
    return response.serialize()


def _problem(response: Response) -> Problem:
    text = (response.body or b"").decode(errors="replace").strip().splitlines()
    detail = (
        f"{text[0] if text else 'Not a WebSocket handshake.'} "
        f"Connect with a WebSocket client, version 13, subprotocol {SUBPROTOCOL}."
    )
    headers = {
        name: response.headers[name] for name in ("Upgrade", "Allow") if name in response.headers
    }
    if response.status_code in {HTTPStatus.BAD_REQUEST, HTTPStatus.UPGRADE_REQUIRED}:
        headers["Sec-WebSocket-Version"] = "13"
    return Problem(
        response.status_code, "bad-handshake", "Bad WebSocket handshake", detail, headers=headers
    )


def refuse(refusal: Refusal) -> bytes:
    """The whole HTTP answer; the connection is closed after it."""
    body = refusal.body()
    named: Mapping[str, str] = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        **refusal.headers,
    }
    return Response(
        refusal.status, HTTPStatus(refusal.status).phrase, Headers(named), body
    ).serialize()
