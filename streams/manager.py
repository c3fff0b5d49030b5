"""The library's entrance: validated transitions on a store, for programs without a log.

```python
manager = PredictionStatusManager(await open_store("sqlite:///predictions.db"))
await manager.initialize("p1", prompt="a cat", model="acme/paint")
await manager.mark_as_processing("p1")
await manager.mark_as_succeeded("p1", "https://example.com/cat.png")
```
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Unpack

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import (
    AlreadyExists,
    InvalidTransition,
    NotFound,
    StorageError,
    StoreOwned,
)
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import (
    Prediction,
    Standing,
    Status,
    Tombstone,
    Usage,
    encode,
)
from tidings.storage.store import (
    Conflict,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
    WriteRefused,
    hidden,
)
from tidings.streams.keywords import Filters, InitialFields, ReportedFields, library_event
from tidings.streams.rules.decision import Applied, Decision, Rejected, Stale
from tidings.streams.rules.event import Event, EventType
from tidings.streams.rules.large_fields import note, path
from tidings.streams.rules.questions import is_repeat
from tidings.streams.rules.reducer import Expiry, Reduction
from tidings.streams.rules.text import PART, TEXT_MAX
from tidings.streams.rules.transitions import decide


class PredictionStatusManager:
    """Keeps predictions in a store that no log owns; each change is one atomic validated compare-and-set.

    Args:
        store: An open store.
        strict: Refuse a status that is reached only by skipping one, instead of implying the steps between.
        expiry: When records are hidden and purged.
        clock: Tells the time.
        objects: Takes parts of texts over 32 KiB; None: such texts are refused.
    """

    def __init__(
        self,
        store: PredictionStore,
        *,
        strict: bool = False,
        expiry: Expiry | None = None,
        clock: Clock = SYSTEM_CLOCK,
        objects: ObjectStorage | None = None,
    ) -> None:
        self._store = store
        self._objects = objects
        self._strict = strict
        self._expiry = expiry or Expiry()
        self._clock = clock
        self._claimed = False
        self._told: dict[str, set[Callable[[Standing], None]]] = {}

    async def initialize(
        self,
        prediction_id: str,
        payload: Any = None,
        prompt: str | None = None,
        model: str | None = None,
        estimated_time: float | None = None,
        **fields: Unpack[InitialFields],
    ) -> Prediction:
        """Write a new prediction down, `starting`.

        Args:
            prediction_id: 1 to 256 bytes of UTF-8 without control characters, spaces or commas.
            payload: What was asked for: anything that JSON can hold.
            prompt: The prompt.
            model: The model's name.
            estimated_time: In ms.
            **fields: Those of `InitialFields`.

        Raises:
            AlreadyExists: A prediction with this id stands.
            ValueError: The id or a field is not valid.
            StoreOwned: The store belongs to a log.
            StoreUnavailable: The store cannot answer; a retry helps.
        """
        event = self._event(
            prediction_id,
            EventType.CREATE,
            None,
            {
                "payload": payload,
                "prompt": prompt,
                "model": model,
                "estimated_time": estimated_time,
                **fields,
            },
        )

        def admit(current: Standing | None, _decision: Decision) -> None:
            if isinstance(current, Prediction):
                raise AlreadyExists(prediction_id)

        return await self._apply(event, admit, again=True)

    async def get(self, prediction_id: str) -> Prediction | None:
        """The prediction; None if there is none, or if it has expired."""
        stored = await self._store.get(prediction_id)
        return _prediction(stored) if stored is not None else None

    async def update(
        self,
        prediction_id: str,
        status: Status | str | None = None,
        **fields: Unpack[ReportedFields],
    ) -> Prediction:
        """Change the status, fields, or both, as a report would.

        Args:
            prediction_id: An existing prediction.
            status: The new status; None: fields alone.
            **fields: Those of `ReportedFields`.

        Raises:
            NotFound: There is no such prediction.
            InvalidTransition: The rules forbid it: from an end to anything else, or backwards.
            ValueError: A field is unknown or of a wrong type.
            StoreOwned: The store belongs to a log.
            StoreUnavailable: The store cannot answer; a retry helps.
        """
        wanted = Status(status) if status is not None else None
        event = self._event(prediction_id, EventType.REPORT, wanted, fields)

        def admit(current: Standing | None, decision: Decision) -> None:
            if not isinstance(current, Prediction):
                raise NotFound(prediction_id)
            if isinstance(decision, Stale) and decision.behind:
                raise InvalidTransition(current.status, str(wanted))
            if isinstance(decision, Rejected):
                if decision.code in {"contradiction", "strict"}:
                    raise InvalidTransition(current.status, str(wanted))
                raise ValueError(decision.reason)
            if isinstance(decision, Applied) and decision.letter is not None:
                raise ValueError(decision.letter.reason)

        return await self._apply(event, admit)

    async def append_text(
        self, prediction_id: str, text: str, *, offset: int | None = None, close: bool = False
    ) -> Prediction:
        """Add a piece to the text of a prediction; one that is there already changes nothing.

        Args:
            prediction_id: An existing prediction; one that is `starting` is `processing` then.
            text: Whole characters.
            offset: Bytes of the text before this piece, in UTF-8; None: it goes to the end.
            close: Nothing follows, and the prediction has succeeded.

        Raises:
            NotFound: There is no such prediction.
            InvalidTransition: It has ended, and its text has something else or nothing there.
            ValueError: The piece differs from what stands at its offset, leaves a gap, or the text would be too long.
            StoreOwned: The store belongs to a log.
            StoreUnavailable: The store cannot answer; a retry helps.
        """
        piece = {"text": text, "offset": offset, "text_closed": close}
        event = self._event(prediction_id, EventType.APPEND, None, piece)

        def admit(current: Standing | None, decision: Decision) -> None:
            if not isinstance(current, Prediction):
                raise NotFound(prediction_id)
            if isinstance(decision, Rejected):
                raise ValueError(decision.reason)
            refusal = getattr(decision, "refusal", None)
            if refusal in {"text-late", "text-closed"}:
                raise InvalidTransition(current.status, str(Status.PROCESSING))
            if refusal == "text-gap":
                raise ValueError(
                    f"the text has {current.text_length or 0} bytes and the piece is for byte {offset}; send what is missing"
                )
            if refusal == "text-too-long":
                raise ValueError(f"the text would have over {TEXT_MAX} bytes")

        return await self._apply(event, admit)

    async def answer(
        self, prediction_id: str, answer: Any, by: str | None = None, number: int | None = None
    ) -> Prediction:
        """Answer the question that a prediction waits with.

        Args:
            prediction_id: An existing prediction; it has asked by `update(waiting=True, question=...)`.
            answer: Anything that JSON can hold but None.
            by: Who says so.
            number: The question's (`question_number`); None: of the one that stands.

        Raises:
            NotFound: There is no such prediction.
            ValueError: It does not wait for this answer.
            StoreOwned: The store belongs to a log.
            StoreUnavailable: The store cannot answer; a retry helps.
        """
        if number is None and (standing := await self.get(prediction_id)) is not None:
            number = standing.question_number
        said = {"answer": answer, "answered_by": by, "question_number": number}
        event = self._event(prediction_id, EventType.ANSWER, None, said)

        def admit(current: Standing | None, decision: Decision) -> None:
            if not isinstance(current, Prediction):
                raise NotFound(prediction_id)
            if isinstance(decision, Stale) and not is_repeat(current, event):
                raise ValueError(f"{prediction_id!r} does not wait for an answer to this question")

        return await self._apply(event, admit)

    async def mark_as_processing(self, prediction_id: str) -> Prediction:
        """The provider works on it. Raises as `update` does."""
        return await self.update(prediction_id, Status.PROCESSING)

    async def mark_as_succeeded(
        self,
        prediction_id: str,
        image_url: str | None = None,
        image_path: str | None = None,
        generation_time: float | None = None,
        *,
        output: Any = None,
        usage: Usage | Mapping[str, Any] | None = None,
    ) -> Prediction:
        """It is done: its picture or any output, where that is stored, its time in ms, its usage. Raises as `update` does."""
        return await self.update(
            prediction_id,
            Status.SUCCEEDED,
            image_url=image_url,
            image_path=image_path,
            generation_time=generation_time,
            output=output,
            usage=usage,
        )

    async def mark_as_failed(self, prediction_id: str, error: str) -> Prediction:
        """It failed, and why. Raises as `update` does."""
        return await self.update(prediction_id, Status.FAILED, error=error)

    async def mark_as_canceled(self, prediction_id: str) -> Prediction:
        """It was canceled. Raises as `update` does."""
        return await self.update(prediction_id, Status.CANCELED)

    async def delete(self, prediction_id: str) -> None:
        """Leave a tombstone in its place. Raises `NotFound`, `StoreOwned`, `StoreUnavailable`."""
        event = self._event(prediction_id, EventType.DELETE, None, {})

        def admit(current: Standing | None, _decision: Decision) -> None:
            if not isinstance(current, Prediction):
                raise NotFound(prediction_id)

        await self._change(event, admit)

    async def list(self, query: Query | None = None, **filters: Unpack[Filters]) -> Page:
        """A page of predictions, newest first (`page.predictions`), by a query or by keyword.

        Raises ValueError for a bad cursor, or a filter that the store cannot serve.
        """
        if query is not None and filters:
            raise ValueError("name a query or its fields by keyword, not both")
        return await self._store.list(query or Query(**filters))

    async def report(self, event: Event) -> Prediction | None:
        """Take a provider's report: what it brings is merged by the rules, and what is no news changes nothing.

        Args:
            event: As a provider's translation gives it, with its prediction's id and `recorded_at`.

        Returns:
            The prediction as it stands then; None: it was deleted, and stays so.

        Raises:
            StoreOwned: The store belongs to a log.
            StoreUnavailable: The store cannot answer; a retry helps.
        """
        standing = await self._change(event, lambda current, decision: None)  # noqa: ARG005
        return standing if isinstance(standing, Prediction) else None

    async def subscribe(self, prediction_id: str) -> AsyncGenerator[Prediction]:
        """The prediction as it stands, then every change that this manager makes, until it has ended.

        For one process: what others write into the store is not seen. A reader that lags gets the newest state.
        """
        told: asyncio.Event = asyncio.Event()
        newest: dict[str, Standing] = {}

        def tell(standing: Standing) -> None:
            newest["now"] = standing
            told.set()

        self._told.setdefault(prediction_id, set()).add(tell)
        try:
            current = await self.get(prediction_id)
            version = 0 if current is None else current.version
            if current is not None:
                yield current
            while current is None or not current.status.terminal:
                await told.wait()
                told.clear()
                standing = newest["now"]
                if not isinstance(standing, Prediction):
                    return
                if standing.version > version:
                    current, version = standing, standing.version
                    yield current
        finally:
            told_of = self._told[prediction_id]
            told_of.discard(tell)
            if not told_of:
                del self._told[prediction_id]

    async def sweep(self, limit: int = 500) -> int:
        """Remove up to `limit` records and tombstones whose time is past; returns how many. Call it now and then."""
        return await self._store.sweep(self._clock.ms(), limit)

    # ---- one compare-and-set ----

    async def _apply(
        self,
        event: Event,
        admit: Callable[[Standing | None, Decision], None],
        *,
        again: bool = False,
    ) -> Prediction:
        standing = await self._change(event, admit, again=again)
        assert isinstance(standing, Prediction)
        return standing

    async def _change(
        self,
        event: Event,
        admit: Callable[[Standing | None, Decision], None],
        *,
        again: bool = False,
    ) -> Standing:
        await self._claim()
        while True:
            before = (await self._load(event.prediction_id)).get(event.prediction_id)
            current = before.standing() if before is not None else None
            if again and before is not None and hidden(before, self._clock.ms()):
                current = _expired(event.prediction_id, before)
            decision = decide(current, event, None, strict=self._strict)
            admit(current, decision)
            if not isinstance(decision, Applied):
                assert current is not None
                return current
            record = decision.record
            if decision.contents:
                await self._put(record.prediction_id, decision.contents)
            stepped = event.recorded_at if decision.step else None
            expires_at, purge_at = self._expiry.of(
                Reduction(record, recorded_at=event.recorded_at, stepped_at=stepped),
                before.expires_at if before is not None else None,
                self._clock.ms(),
            )
            write = Write(
                record, encode(record), before.version if before else 0, expires_at, purge_at
            )
            [outcome] = await self._store.write([write])
            if isinstance(outcome, WriteRefused):
                raise StorageError(
                    f"the store refuses prediction {event.prediction_id!r}: {outcome.reason}"
                )
            if not isinstance(outcome, Conflict):
                for tell in tuple(self._told.get(event.prediction_id, ())):
                    tell(record)
                return record
            # Another writer was faster: judge again by what stands now.

    async def _put(self, prediction_id: str, contents: Mapping[str, bytes]) -> None:
        """Put the parts of a text, before the record stands that names them."""
        if self._objects is None:
            raise ValueError(
                f"a text over {PART} bytes lies in object storage: give the manager objects=ObjectStorage(...)"
            )
        await self._objects.put(note(prediction_id), prediction_id.encode())
        for name, content in contents.items():
            await self._objects.put(path(prediction_id, name), content)

    async def _load(self, prediction_id: str) -> dict[str, Stored]:
        return await self._store.load_fresh([prediction_id])

    async def _claim(self) -> None:
        if self._claimed:
            return
        standing = await self._store.claim(Ownership(log=None, strict=self._strict))
        if standing.log is not None:
            raise StoreOwned(
                f"this store belongs to the log {standing.log}: write through that log, or open another store"
            )
        if standing.strict != self._strict:
            raise StoreOwned(
                f"this store was opened with strict={standing.strict}; open it the same way"
            )
        self._claimed = True

    def _event(
        self, prediction_id: str, kind: EventType, status: Status | None, fields: Mapping[str, Any]
    ) -> Event:
        return library_event(prediction_id, kind, status, fields, self._clock.ms())


def _expired(prediction_id: str, stored: Stored) -> Tombstone:
    """An id whose record has expired is free again, for anybody; versions go on."""
    return Tombstone(
        prediction_id=prediction_id, deleted=True, version=stored.version, updated_at=0
    )


def _prediction(stored: Stored) -> Prediction:
    standing = stored.standing()
    assert isinstance(standing, Prediction)
    return standing
