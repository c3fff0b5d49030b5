"""A WebSocket's handshake that comes on a connection of the HTTP server's."""

from collections.abc import Mapping

from aiohttp.test_utils import make_mocked_request

from tests.support.gateway.pushing import pushing
from tidings.gateway.websocket.aiohttp_upgrade import upgrade_route
from tidings.gateway.websocket.listener import Acceptor, Leave

HEADERS = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "tidings.v1",
}


async def test_a_client_that_is_gone_already_keeps_no_place_of_its_address() -> None:
    """Whoever is counted when it is admitted is counted out again, even if nothing is opened."""
    places = 0

    def leave() -> None:
        nonlocal places
        places -= 1

    def admit(headers: Mapping[str, str], peer: str) -> Leave:
        nonlocal places
        places += 1
        return leave

    request = make_mocked_request("GET", "/api/ws", headers=HEADERS)
    request.protocol.transport = None
    async with pushing() as push:
        await upgrade_route(Acceptor(push.sessions, admit))(request)
    assert places == 0
