"""A prediction's text: read piece by piece, or written piece by piece.

```python
async with client.text("p1") as text:  # ends the prediction with the block
    async for token in model.stream(prompt):
        await text.write(token)

async for piece in client.text("p1"):
    print(piece, end="")
```
"""

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from tidings.client.errors import PredictionNotFound, RequestRefused, Unreachable
from tidings.client.progress import Deleted, Update
from tidings.storage.resilience.backoff import Backoff

JOIN = 0.02
"""Seconds within which pieces are joined into one request, beside those that come while one is under
way."""
AGAIN = Backoff((0.1, 0.2, 0.4, 0.8, 1.6, 3.0))
PATIENCE = 60.0
"""Seconds for which a piece is repeated while the service does not take it."""


class Text:
    """The text of one prediction; made by `Client.text`.

    Iterated, it yields what is there already and then each piece once, until the prediction has
    succeeded. As a context manager it writes: `write` takes a piece, and the end of the block ends
    the prediction, as failed if the block raises. If there is no such prediction the first
    piece makes it.

    Args:
        prediction_id: Whose.
        send: Appends one piece, with headers, without repeating it.
        watch: Watches the prediction.
        begin: Makes the prediction, if there is none.
        fail: Reports it as failed.
    """

    def __init__(
        self,
        prediction_id: str,
        send: Callable[[bytes, Mapping[str, str]], Awaitable[None]],
        watch: Callable[[], AsyncIterator[Update]],
        begin: Callable[[], Awaitable[None]],
        fail: Callable[[str], Awaitable[object]],
    ) -> None:
        self.prediction_id = prediction_id
        self._send = send
        self._watch = watch
        self._begin = begin
        self._fail = fail
        self._name = f"py-{uuid.uuid4().hex}"
        self._seq = 0
        self._waiting: list[str] = []
        self._half = ""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self.replaced = False
        """Whether the text starts over with the piece that was yielded last."""

    # Reading

    async def __aiter__(self) -> AsyncIterator[str]:
        """What is there, then each piece once.

        Raises:
            PredictionNotFound: It was deleted.
            RequestRefused: The prediction failed or was canceled; `code` says which.
        """
        given = ""
        async for update in self._watch():
            if isinstance(update, Deleted):
                raise PredictionNotFound(f"prediction {self.prediction_id!r} was deleted")
            record = update
            text = record.text or ""
            self.replaced = not text.startswith(given)
            piece = text if self.replaced else text[len(given) :]
            given = text
            if piece or self.replaced:
                yield piece
            if record.status.terminal:
                if record.status.value != "succeeded":
                    raise RequestRefused(
                        f"prediction {self.prediction_id!r} ended {record.status}: {record.error}",
                        code=record.status.value,
                    )
                return

    # Writing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        elif isinstance(error, Exception) and error is not self._error:
            await self.fail(str(error) or type(error).__name__)
        else:
            await self._stop()

    async def write(self, piece: str) -> None:
        """Append a piece; it is sent within 20 ms, or as soon as the request under way is answered.

        Raises:
            ClientError: What was written before could not be appended.
        """
        if self._error is not None:
            raise self._error
        if not piece:
            return
        self._waiting.append(piece)
        self._idle.clear()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        self._wake.set()
        # A writer faster than the service waits: what is held stays small.
        if sum(map(len, self._waiting)) > 65_536:
            await self.flush()

    async def flush(self) -> None:
        """Wait until everything written so far is part of the text. Raises as `write` does."""
        if self._task is not None:
            idle = asyncio.create_task(self._idle.wait())
            await asyncio.wait({idle, self._task}, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Append what is left, and end the prediction as succeeded."""
        await self._stop()
        if self._error is not None:
            raise self._error
        await self._post(self._taken(end=True), closed=True)

    async def fail(self, reason: str) -> None:
        """Append what is left, and end the prediction as failed."""
        await self._stop()
        if self._error is None and (rest := self._taken(end=True)):
            await self._post(rest, closed=False)
        await self._fail(reason)

    async def pipe(self, source: AsyncIterator[Any]) -> None:
        """Write what a source yields: strings, or chunks of an OpenAI-compatible API.

        A chunk is `chunk.choices[0].delta.content`, or an event with `type`
        `response.output_text.delta`; objects and dictionaries are taken alike.
        """
        async for chunk in source:
            await self.write(piece_of(chunk))

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(JOIN)
                while piece := self._taken(end=False):
                    await self._post(piece, closed=False)
                self._idle.set()
        except Exception as error:
            self._error = error

    async def _stop(self) -> None:
        """Send what waits, but for half a character, and send nothing more by itself."""
        with contextlib.suppress(Exception):  # it is raised by whoever asks for more
            await self.flush()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _taken(self, *, end: bool) -> str:
        """What waits, joined; half a character stays until its rest comes."""
        text = self._half + "".join(self._waiting)
        self._waiting.clear()
        self._half = ""
        if text and not end and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    async def _post(self, piece: str, *, closed: bool) -> None:
        """Send a piece until it is judged: with its number a repeat is taken once."""
        headers = {
            "Content-Type": "text/plain",
            "Producer-Id": self._name,
            "Producer-Epoch": "0",
            "Producer-Seq": str(self._seq),
        }
        self._seq += 1
        if closed:
            headers["Stream-Closed"] = "true"
        deadline = asyncio.get_running_loop().time() + PATIENCE
        attempt, begun = 0, False
        while True:
            attempt += 1
            try:
                await self._send(piece.encode(), headers)
            except PredictionNotFound:
                if self._seq > 1 or begun:
                    raise
                begun = True
                await self._begin()
            except Unreachable:
                wait = AGAIN.wait(attempt) * (0.5 + random.random() / 2)  # noqa: S311 - spreads load
                if asyncio.get_running_loop().time() + wait > deadline:
                    raise
                await asyncio.sleep(wait)
            else:
                return


def piece_of(chunk: Any) -> str:
    """The text in a chunk of a model's stream; empty if it has none."""
    if isinstance(chunk, str):
        return chunk
    if isinstance(chunk, bytes):
        return chunk.decode()
    choices = _member(chunk, "choices")
    if choices is not None:
        content = _member(_member(choices[0], "delta"), "content") if choices else None
    elif _member(chunk, "type") in {None, "response.output_text.delta"}:
        content = _member(chunk, "delta")
    else:
        content = None
    return content if isinstance(content, str) else ""


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)
