"""Watching predictions over a WebSocket, through cuts, restarts and expiring tokens."""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus
from websockets.typing import Subprotocol

from tidings.client.answers import absolute
from tidings.client.errors import ClientError, Forbidden, RequestRefused, Unauthorized, Unreachable
from tidings.client.progress import Deleted, Message, Update, WatchState, parse
from tidings.client.token import TokenSource, renewal_time
from tidings.storage.loggers import get_logger
from tidings.storage.proxies import by_way_of, proxy_for

SUBPROTOCOL = Subprotocol("tidings.v1")
MAX_MESSAGE = 16 * 1024 * 1024
OPEN_WITHIN = 10.0
"""Seconds for the handshake."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0
"""Bounds of the wait before coming back, in seconds."""
TOKEN_ATTEMPTS = 3
AGAIN_WITHIN = 5.0
"""Seconds within which a subscription is sent again that the service could not answer from its
store."""

logger = get_logger(__name__)


class Watch:
    """An async iterator over the newest states of what is watched; also an async context manager.

    Each item is a `Prediction` or, if one is gone, `Deleted`. Of one prediction versions only
    rise: across reconnects it resumes where it was. A caller slower than the changes skips to the
    newest ones. It ends when it is closed.

    Raises (while iterating):
        Unreachable: Nobody answered for longer than `patience`.
        Unauthorized: The token was refused, and there is no other.
        Forbidden: The token does not allow to watch this.
        RequestRefused: The service would not serve this watch.
    """

    def __init__(
        self,
        url: str,
        tokens: TokenSource,
        state: WatchState,
        *,
        patience: float | None = None,
        heartbeat: float = 20.0,
        when_closed: Callable[["Watch"], None] | None = None,
        read_text: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self._when_closed = when_closed
        self._read_text = read_text
        self._service = url
        self._outside = url
        self._url = f"ws{url.removeprefix('http')}/api/ws"
        self._tokens = tokens
        self._state = state
        self._patience = math.inf if patience is None else patience
        self._heartbeat = heartbeat
        self._connection: ClientConnection | None = None
        self._shown: str | None = None
        """The token that this connection has shown."""
        self._told = False
        """Whether it was said that the service looks at no token."""
        self._renew_at = math.inf
        """Seconds since the epoch."""
        self._unanswered: set[int | None] = set()
        """The requests of this connection that are not answered yet, by ref."""
        self._incomplete = False
        """Whether the service could not read what one of them asks for."""
        self._again_at = math.inf
        """Seconds of the monotonic clock."""
        self._failures = 0
        self._refusals = 0
        self._unreached_since: float | None = None
        self._wait: float | None = None
        self._closing = asyncio.Event()
        self.synced = False
        """Whether everything that stood at the last (re)connect has been delivered."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open right now."""
        return self._connection is not None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        while not self._closing.is_set():
            if self._connection is None:
                await self._connect()
                continue
            message = await self._receive(self._connection)
            if message is None:
                continue
            if (update := self._state.update_from(message)) is not None:
                update = await self._whole(update)
                if isinstance(update, Deleted):
                    return update
                return absolute(update, self._outside)
            if self._state.incomplete:
                self._state.incomplete = False
                await self._subscribe()
            await self._handle(message)
        raise StopAsyncIteration

    async def _whole(self, update: Update) -> Update:
        """The update with its whole text, of which a long one lies beside the record."""
        if isinstance(update, Deleted) or not update.text_parts or update.text is not None:
            return update
        if self._read_text is None:
            return update
        text = await self._read_text(update.prediction_id)
        return self._state.with_text(update, text)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the watch. Idempotent."""
        self._closing.set()
        if self._when_closed is not None:
            self._when_closed(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> None:
        """Come back, after a wait if there was a failure, and subscribe with what is known."""
        self.synced = False
        now = time.monotonic()
        if self._unreached_since is None:
            self._unreached_since = now
        if self._failures or self._wait is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._delay())
                return
        token = self._shown = await self._tokens.current()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            connection = await connect(
                self._url,
                proxy=proxy_for(self._service),
                subprotocols=[SUBPROTOCOL],
                additional_headers=headers,
                compression=None,
                max_size=MAX_MESSAGE,
                open_timeout=min(OPEN_WITHIN, max(1.0, self._patience)),
                close_timeout=2,
                ping_interval=self._heartbeat,
                ping_timeout=self._heartbeat,
            )
        except InvalidStatus as error:
            await self._handshake_refused(error)
            return
        except (InvalidProxy, ImportError) as error:  # of the environment: it will not fix itself
            raise Unreachable(
                f"{self._url} cannot be reached{by_way_of(self._service)}: {error}"
            ) from error
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            self._failed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            return
        if self._closing.is_set():
            await connection.close()
            return
        self._connection = connection
        self._renew_at = self._again_at = math.inf
        if token is not None and self._tokens.renewable:
            self._renew_at = renewal_time(token, time.time()) or math.inf

    def _delay(self) -> float:
        """Seconds before the next attempt.

        What the server asked for, else at most as long again as the outage has lasted so far.
        """
        if (asked := self._wait) is not None:
            self._wait = None
            return asked
        lasted = time.monotonic() - (self._unreached_since or 0.0)
        bound = min(longest_wait(lasted), max(0.1, self._patience - lasted))
        return random.uniform(0, bound)  # noqa: S311 - spreads load; guards nothing

    def _failed(self, reason: str) -> None:
        self._failures += 1
        since = self._unreached_since
        if since is not None and time.monotonic() - since >= self._patience:
            raise Unreachable(
                f"{self._url} cannot be reached{by_way_of(self._service)} ({reason}); "
                "is the service running there?"
            )

    async def _handshake_refused(self, error: InvalidStatus) -> None:
        status = error.response.status_code
        if status == 401:
            await self._token_refused(status, "the token was refused")
        elif status == 403:
            raise Forbidden(
                f"{self._url} refused this client; check its origin and token", status=status
            )
        elif status == 429 or status >= 500:
            after = error.response.headers.get("Retry-After", "")
            if after.isascii() and after.isdecimal():
                self._wait = float(after) + random.uniform(0, FIRST_DELAY)  # noqa: S311 - spreads load
            self._failed(f"HTTP {status}")
        else:
            raise RequestRefused(
                f"{self._url} answered {status}; is it the address of a Tidings service?",
                status=status,
            )

    async def _token_refused(self, status: int, reason: str) -> None:
        """Ask for another token once it was refused.

        There is no use in showing the same one again.
        """
        self._refusals += 1
        if self._refusals > TOKEN_ATTEMPTS or not await self._tokens.renew(self._shown):
            raise Unauthorized(f"{self._url}: {reason}; bring another token", status=status)

    async def _receive(self, connection: ClientConnection) -> Message | None:
        """The next message; None: the connection has ended, or something else was due."""
        left = min(self._renew_at - time.time(), self._again_at - time.monotonic())
        try:
            async with asyncio.timeout(None if left == math.inf else max(0.0, left)):
                return parse(await connection.recv())
        except TimeoutError:
            if self._again_at <= time.monotonic():
                await self._subscribe()
            elif self._renew_at <= time.time():
                await self._renew(connection)
        except ConnectionClosed as closed:
            self._connection = None
            await self._connection_closed(closed)
        except msgspec.DecodeError as error:
            raise RequestRefused(f"{self._url} does not speak tidings.v1 ({error})") from error
        return None

    async def _renew(self, connection: ClientConnection) -> None:
        """Show a new token on the open connection, ahead of the old one's expiry."""
        self._renew_at = math.inf
        try:
            renewed = await self._tokens.renew(self._shown)
        except Exception as error:  # of the caller's function: the token in use is still good
            logger.warning("client.token_not_renewed", error=f"{type(error).__name__}: {error}")
            return
        if not renewed:
            return  # nothing newer yet; should the service close the connection, it is asked for again
        token = self._shown = await self._tokens.current()
        if token is not None:
            self._renew_at = renewal_time(token, time.time()) or math.inf
            await self._send(connection, {"type": "auth", "token": token})

    async def _send(self, connection: ClientConnection, message: dict[str, object]) -> None:
        try:
            await connection.send(msgspec.json.encode(message).decode(), text=True)
        except ConnectionClosed as closed:
            self._connection = None
            await self._connection_closed(closed)

    async def _handle(self, message: Message) -> None:
        """Do what a message that carries no news asks for."""
        if message.type == "welcome":
            self._refusals = 0
            self._outside = message.public_url or self._service
            if message.anonymous and self._shown is not None and not self._told:
                self._told = True
                logger.warning("client.token_ignored", why="the service has no authentication")
            await self._subscribe()
        elif message.type == "synced":
            self._answered(message.ref)
        elif message.type == "bye":
            self._wait = (message.retry_after or 0.0) / 1000
        elif message.type == "error":
            if message.code == "unavailable":
                self._incomplete = True
            elif message.code != "unsupported" or self._state.snapshot:
                kind: type[ClientError] = (
                    Forbidden if message.code == "forbidden" else RequestRefused
                )
                raise kind(
                    message.message or "the service refused the subscription", code=message.code
                )
            self._answered(message.ref)

    async def _subscribe(self) -> None:
        """Ask for what is watched, and what is newer than what is known of it."""
        self._again_at = math.inf
        self._incomplete = False
        requests = dict(enumerate(self._state.requests(), 1))
        self._unanswered = set(requests)
        for ref, request in requests.items():
            if self._connection is not None:
                await self._send(self._connection, {**request, "ref": ref})

    def _answered(self, ref: int | None) -> None:
        """Note that a subscription stands.

        Once all do, ask again if the service could not read its store.
        """
        self._unanswered.discard(ref)
        self._state.begun = True
        self._failures = 0
        self._unreached_since = None
        if not self._unanswered:
            self.synced = not self._incomplete
            if self._incomplete:
                self._again_at = time.monotonic() + random.uniform(0, AGAIN_WITHIN)  # noqa: S311 - spreads load

    async def _connection_closed(self, closed: ConnectionClosed) -> None:
        """Decide from the close code whether to come back."""
        code = closed.rcvd.code if closed.rcvd is not None else None
        reason = closed.rcvd.reason if closed.rcvd is not None else ""
        if self._closing.is_set():
            return
        if code == 4102:
            await self._token_refused(code, reason or "the token was refused or has expired")
        elif code == 4101:
            raise Unauthorized(
                f"{self._url}: {reason or 'no token was shown in time'}; bring a token", status=code
            )
        elif code == 1009 or (code is not None and 4100 <= code < 4200):
            raise RequestRefused(f"{self._url} closed the watch: {reason or code}", status=code)
        elif self._wait is None:
            self._failed(f"closed with {code}" if code is not None else "the connection broke")


def longest_wait(lasted: float) -> float:
    """Seconds to wait at most before coming back, after an outage of so many seconds so far.

    The wait is drawn evenly from nothing up to this ("full jitter"), so that clients cut off
    together do not come back together; and as no wait is longer than what has passed, an outage is
    at most doubled by it.
    """
    return min(LONGEST_DELAY, max(FIRST_DELAY, lasted))
