"""The two routes with the most traffic, without what aiohttp's requests cost: a read and a webhook.

Their handlers look at the headers, the id in the path and the body. A request as aiohttp has it is
made only if one of them, or an unusual answer, wants more of it. Anything else, and whatever is out
of the ordinary here, goes the whole way.
"""

import re
from functools import lru_cache
from typing import Any, cast

from aiohttp import HttpVersion11, web
from yarl import URL

from tidings.gateway.asgi.request import SMALL, ReceivedBody, carry_out, made
from tidings.gateway.asgi.scope import Receive, Scope, Send, client_of
from tidings.gateway.auth.request_guard import SCOPE, RequestGuard
from tidings.gateway.http.fast_response import FastAnswer
from tidings.gateway.http.problems import Handler, from_failure

_NAME = r"[A-Za-z0-9_.:~-]+"
"""An id, or a provider, as nearly all are."""
_READ = re.compile(rf"/api/predictions/({_NAME})")
_WEBHOOK = re.compile(rf"/api/webhooks/({_NAME})(?:/({_NAME}))?")
_NO_QUERY = URL("")


class PlainHeaders(dict[str, str]):
    """Headers that occur once each, asked for by a name in any case."""

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or the default."""
        return dict.get(self, name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return dict.__getitem__(self, name.lower())

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name.lower()) if isinstance(name, str) else False


class PlainRequest:
    """As much of a request as the handlers of this lane look at; the rest is made when asked for."""

    version = HttpVersion11
    keep_alive = True

    def __init__(
        self,
        scope: Scope,
        send: Send,
        prefix: str,
        headers: PlainHeaders,
        match_info: dict[str, str],
        body: ReceivedBody,
        app: web.Application,
    ) -> None:
        self.method: str = scope["method"]
        self.headers = headers
        self.match_info = match_info
        self.remote = client_of(scope)
        self.content = body
        self._whole: web.Request | None = None
        self._made_of = scope, send, prefix, body
        self._app = app

    @property
    def rel_url(self) -> URL:
        """The address; one without a query is read for that alone."""
        scope = self._made_of[0]
        return self.whole().rel_url if scope.get("query_string") else _NO_QUERY

    def get(self, key: object, default: object = None) -> object:
        """The scope, which is all that this lane keeps with a request."""
        return self._made_of[0] if key is SCOPE else default

    def whole(self) -> web.Request:
        """The same as aiohttp's request."""
        if self._whole is None:
            scope, send, prefix, body = self._made_of
            self._whole = made(scope, send, prefix, body)
            self._whole[SCOPE] = scope
        return self._whole

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        """As aiohttp's request does, which knows the application by its router."""
        await self._app.on_response_prepare.send(cast("web.Request", self), response)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole(), name)


class FastLane:
    """Serves what it can of the scopes of a mounted gateway.

    Args:
        app: Whose signals are sent as answers begin.
        read: The handler of `GET /api/predictions/{id}`.
        receive: The handler of both routes of webhooks.
    """

    def __init__(self, app: web.Application, read: Handler, receive: Handler) -> None:
        self._app, self._read, self._receive = app, read, receive

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, prefix: str, guard: RequestGuard
    ) -> bool:
        """Serve a scope of type `http`; False if it has to go the whole way, and is untouched.

        Raises:
            ConnectionError: The client is gone.
        """
        found = self._found(scope, prefix)
        if found is None:
            return False
        handler, match_info, headers = found
        body = ReceivedBody(receive)
        if scope["method"] == "POST":
            await body.receive_first()
        request = PlainRequest(scope, send, prefix, headers, match_info, body, self._app)
        response: web.StreamResponse
        try:
            guard.check_peer(request.remote)
            response = await handler(cast("web.Request", request))
        except ConnectionError:
            raise
        except Exception as error:
            response = from_failure(error).response()
        if isinstance(response, FastAnswer):
            await _send(response, send)
        else:
            await carry_out(cast("web.Request", request), response)
        return True

    def _found(
        self, scope: Scope, prefix: str
    ) -> tuple[Handler, dict[str, str], PlainHeaders] | None:
        method: str = scope["method"]
        if method not in ("GET", "POST"):
            return None
        path: str = scope["path"]
        for mount in (scope.get("root_path", ""), prefix):
            if mount and path.startswith(mount):
                path = path[len(mount) :]
        handler = self._read
        if method == "GET":
            match = None if scope.get("query_string") else _READ.fullmatch(path)
            match_info = {"id": match[1]} if match else {}
        else:
            handler = self._receive
            match = _WEBHOOK.fullmatch(path)
            match_info = {"provider": match[1]} if match else {}
            if match and match[2] is not None:
                match_info["id"] = match[2]
        if match is None or b"%" in (scope.get("raw_path") or b"").partition(b"?")[0]:
            return None
        headers = PlainHeaders(
            [
                (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
                for name, value in scope["headers"]
            ]
        )
        # Answers to pages get headers more, and a host may have answered an `Expect` or not.
        if len(headers) != len(scope["headers"]) or "origin" in headers or "expect" in headers:
            return None
        if method == "POST" and not _small(headers.get("content-length", "")):
            return None
        return handler, match_info, headers


def _small(length: str) -> bool:
    return length.isdecimal() and len(length) < 8 and 0 < int(length) <= SMALL


async def _send(answer: FastAnswer, send: Send) -> None:
    """Send an answer in the two messages that it takes at least.

    Raises:
        ConnectionResetError: The client is gone.
    """
    headers = [*_pairs(answer.lines), (b"content-length", b"%d" % len(answer.body))]
    try:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})
    except ConnectionError:
        raise
    except OSError as error:  # what the specification has servers raise of a client that is gone
        raise ConnectionResetError(str(error)) from error


@lru_cache(maxsize=512)
def _pairs(lines: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Lines of a header as pairs; few differ, as versions are small numbers."""
    split = (line.partition(b": ") for line in lines.split(b"\r\n") if line)
    return tuple((name.lower(), value) for name, _, value in split)


FAST_LANE = web.AppKey("FAST_LANE", FastLane)
"""Of an application: its lane for a mounted gateway."""
