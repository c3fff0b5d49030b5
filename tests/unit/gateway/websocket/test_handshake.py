"""The handshake: the fast way takes nothing that the library would refuse, and answers the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from tidings.gateway.websocket import handshake
from tidings.gateway.websocket.handshake import HandshakeRefused

USUAL = [
    "GET /api/ws HTTP/1.1",
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: other, tidings.v1",
]


def head(lines: list[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def ours(data: bytes) -> bytes | int:
    try:
        return handshake.accept(handshake.parse(data))
    except HandshakeRefused as error:
        return error.refusal.status


def library(data: bytes) -> Response | None:
    """What the library says on its own."""
    core = ServerProtocol()
    core.receive_data(data)
    events = core.events_received()
    if not events or not isinstance(events[0], Request):
        return None
    if "Sec-WebSocket-Protocol" in events[0].headers:
        core = ServerProtocol(subprotocols=["tidings.v1"])  # type: ignore[list-item]
    return core.accept(events[0])


def test_the_usual_handshake() -> None:
    """The example of RFC 6455, 1.3 is answered with its accept key, and the subprotocol."""
    answer = ours(head(USUAL))
    assert isinstance(answer, bytes)
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"Sec-WebSocket-Protocol: tidings.v1\r\n" in answer
    without = ours(head(USUAL[:-1]))
    assert isinstance(without, bytes)
    assert b"Protocol" not in without.replace(b"Switching Protocols", b"")


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer ", None),
        ("Bearerabc", None),
    ],
)
def test_the_bearer_token(value: str, token: str | None) -> None:
    """A token is taken from a bearer header alone."""
    assert handshake.parse(head([*USUAL, f"Authorization: {value}"])).token == token


def test_a_repeated_header_is_no_trick() -> None:
    """A repeated origin or token is seen whole, so that it equals no single one."""
    parsed = handshake.parse(head([*USUAL, "Origin: http://a", "Origin: http://b"]))
    assert parsed.headers["origin"] == "http://a, http://b"


def test_white_space_around_a_value() -> None:
    """Spaces and tabs before and after a value are none of it, and no other character is left out."""
    parsed = handshake.parse(head([*USUAL, "a:\t b\t c \t", "d:e\xa0", "f:"]))
    assert (parsed.headers["a"], parsed.headers["d"], parsed.headers["f"]) == ("b\t c", "e\xa0", "")
    assert handshake.from_request(handshake._parse_unusual(parsed.raw)).headers == parsed.headers


lines = st.one_of(
    st.sampled_from(
        [
            *USUAL,
            "upgrade: WebSocket",
            "Upgrade: h2c, websocket",
            "Upgrade: \twebsocket\t ",
            "Sec-WebSocket-Version: 13\xa0",
            "Connection: close",
            "Connection: upgrade",
            "Connection: keep-alive,,Upgrade,",
            "Connection: keep-alive Upgrade",
            "Sec-WebSocket-Version: 13, 13",
            "Sec-WebSocket-Version: 8",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=!",
            "Sec-WebSocket-Protocol: a b, tidings.v1",
            "Sec-WebSocket-Protocol: ",
            "Sec-WebSocket-Extensions: permessage-deflate",
            " folded: yes",
            "Bad Name: x",
            "No colon",
            "Content-Length: 5",
        ]
    ),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=30),
)


@settings(max_examples=400)
@given(st.lists(lines, max_size=3), st.permutations(USUAL[1:]), st.integers(0, 6))
def test_it_takes_nothing_that_the_library_refuses(
    extra: list[str], usual: list[str], left: int
) -> None:
    """Whatever is accepted, the library accepts with the same key and subprotocol; nothing odd raises otherwise."""
    data = head([USUAL[0], *usual[:left], *extra, *usual[left:]])
    answer = ours(data)
    theirs = library(data)
    if isinstance(answer, bytes):
        assert theirs is not None
        assert theirs.status_code == 101
        assert (
            f"Sec-WebSocket-Accept: {theirs.headers['Sec-WebSocket-Accept']}\r\n".encode() in answer
        )
        assert ("Sec-WebSocket-Protocol" in theirs.headers) == (b"Sec-WebSocket-Protocol" in answer)
    elif theirs is not None:
        assert theirs.status_code == answer
