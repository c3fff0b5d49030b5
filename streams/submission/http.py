"""Sends calls to providers.

Time limits, a limit of bytes, no redirects, and one word for each way of failing.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from tidings.storage.proxies import by_way_of, calls_this_machine
from tidings.storage.redaction import error_text
from tidings.streams.providers.job_api import Call
from tidings.streams.support.compression import TooLarge, inflated, is_compressed

if TYPE_CHECKING:
    import httpx

CONNECT_LIMIT, READ_LIMIT, WHOLE_LIMIT = 10.0, 30.0, 60.0
"""Seconds to connect, between two pieces of an answer, and for the whole call."""
STREAM_SILENCE = 60.0
"""Seconds without a byte, after which a stream is opened again."""
MAX_ANSWER = 32 * 1024 * 1024

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_RESETS = re.compile(rb"resets in ~?(\d{1,5})\s*s", re.IGNORECASE)


class Answer(Struct, frozen=True):
    """What a provider answered; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def good(self) -> bool:
        """Whether it did what was asked."""
        return 200 <= self.status < 300


class CallFailed(Exception):
    """No answer has come."""


class NotSent(CallFailed):
    """The provider was not reached: it has not seen the call."""


class NoAnswer(CallFailed):
    """The call went out and nothing whole came back: what became of it is unknown."""


Send = Callable[[Call], Awaitable[Answer]]
"""Carries out a call; raises `CallFailed`."""


class OpenedStream(Struct, frozen=True):
    """An answer whose body is read as it comes."""

    status: int
    pieces: AsyncIterator[bytes]
    """Raises `CallFailed` if it is cut."""


OpenStream = Callable[[Call], AbstractAsyncContextManager[OpenedStream]]
"""Carries out a call whose answer is a stream; raises `CallFailed`."""


class HttpCalls:
    """Calls over HTTP. Redirects are answers like any other: a token never follows one.

    Args:
        max_answer: Bytes of an answer's body.
    """

    def __init__(self, max_answer: int = MAX_ANSWER) -> None:
        self._max_answer = max_answer
        self._clients: dict[bool, httpx.AsyncClient] = {}
        """By whether they take the proxies of the environment."""

    async def send(self, call: Call) -> Answer:
        """Carry out a call.

        Raises:
            NotSent, NoAnswer: As they say; the message names the address without its query.
        """
        where = f"{call.method} {call.url.partition('?')[0]}"
        with _told(where, call):
            async with (
                asyncio.timeout(WHOLE_LIMIT),
                self._client(call.url).stream(
                    call.method,
                    call.url,
                    headers={
                        "Accept-Encoding": "identity" if call.first_event else "gzip, deflate",
                        **call.headers,
                    },
                    content=call.body or None,
                ) as answer,
            ):
                body = bytearray()
                kind = answer.headers.get("content-type", "")
                first_event = call.first_event and kind.startswith("text/event-stream")
                async for piece in answer.aiter_raw():
                    body += piece
                    if len(body) > self._max_answer:
                        raise NoAnswer(f"{where}: the answer is over {self._max_answer} bytes")
                    if first_event and _END_OF_EVENT.search(body):
                        break
                headers = dict(answer.headers.items())
                return Answer(answer.status_code, headers, self._plain(where, headers, bytes(body)))

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[OpenedStream]:
        """Carry out a call whose answer is read as it comes, for as long as the block lasts.

        Raises:
            NotSent, NoAnswer: As they say, also while it is read.
        """
        import httpx

        where = f"{call.method} {call.url.partition('?')[0]}"
        limits = httpx.Timeout(STREAM_SILENCE, connect=CONNECT_LIMIT, pool=None)
        with _told(where, call):
            async with self._client(call.url).stream(
                call.method, call.url, headers=call.headers, timeout=limits
            ) as answer:
                yield OpenedStream(answer.status_code, answer.aiter_bytes())

    def _client(self, url: str) -> "httpx.AsyncClient":
        import httpx

        elsewhere = not calls_this_machine(url)
        if (client := self._clients.get(elsewhere)) is None:
            client = self._clients[elsewhere] = httpx.AsyncClient(
                timeout=httpx.Timeout(READ_LIMIT, connect=CONNECT_LIMIT, pool=None),
                limits=httpx.Limits(max_connections=None),  # streams are kept open
                follow_redirects=False,
                trust_env=elsewhere,
            )
        return client

    def _plain(self, where: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """The body decompressed.

        As it came if it is not what its header says: its reader tells what it is then.
        """
        if not is_compressed(body, headers.get("content-encoding")):
            return body
        try:
            return inflated(body, self._max_answer)
        except TooLarge:
            raise NoAnswer(f"{where}: the answer is over {self._max_answer} bytes") from None
        except ValueError:
            return body

    async def close(self) -> None:
        """Let go of the connections."""
        for client in self._clients.values():
            await client.aclose()


@contextmanager
def _told(where: str, call: Call) -> Iterator[None]:
    """The client's errors in our words."""
    import httpx

    try:
        yield
    except (
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.UnsupportedProtocol,
        httpx.InvalidURL,
        # What the client itself refuses to write, such as a header with a line break: nothing
        # went out.
        httpx.LocalProtocolError,
        UnicodeEncodeError,
    ) as error:
        raise NotSent(f"{where}{by_way_of(call.url)}: {error_text(error)}") from None
    except (httpx.HTTPError, TimeoutError) as error:
        raise NoAnswer(f"{where}{by_way_of(call.url)}: {error_text(error)}") from None


def asked_to_wait(answer: Answer, now: float) -> float | None:
    """Seconds for which the provider asks to be left alone; None: it does not say.

    By `Retry-After` (RFC 9110, 10.2.3: seconds or a date), else by what Replicate writes: `resets
    in ~30s`.

    Args:
        answer: Of status 429 or 5xx.
        now: Seconds since the epoch.
    """
    given = answer.headers.get("retry-after", "").strip()
    if given.isascii() and given.isdecimal() and len(given) < 7:
        return float(given)
    if given:
        try:
            moment = parsedate_to_datetime(given)
        except ValueError:
            moment = None
        if moment is not None:
            aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            return max(0.0, (aware - datetime.fromtimestamp(now, UTC)).total_seconds())
    match = _RESETS.search(answer.body[:4096])
    return float(match[1]) if match else None
