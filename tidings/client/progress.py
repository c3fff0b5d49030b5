"""What a watching client has seen, what it asks for on the next connection, and what is news.

Pure.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from tidings.storage.prediction import ABSENT, Prediction, decode

KNOWN_BYTES = 96 * 1024
"""How much of one message ids and versions may take: well under the 256 KiB that the service takes
from a client."""
REMEMBERED = 100_000
"""Predictions whose last version is remembered; the longest unseen are forgotten first."""
NAMED_AGAIN = 10_000
"""Predictions that a wide watch names as known when it comes back. By default the service takes
twice as many of one session; the other half is for naming them once more, if its store did not
answer."""


class Deleted(Struct, frozen=True):
    """A watched prediction is gone."""

    prediction_id: str
    version: int
    reason: str | None = None
    """`expired`: it is hidden by its time to live; None: it was deleted."""


Update = Prediction | Deleted


class Selection(Struct, frozen=True, kw_only=True):
    """What to watch: predictions by id, or all of an owner, a tag or a model, or everything."""

    predictions: tuple[str, ...] = ()
    owner: str | None = None
    tag: str | None = None
    model: str | None = None
    all: bool = False

    def check(self) -> None:
        """Raises ValueError unless exactly one thing is selected."""
        given = [
            bool(self.predictions),
            self.owner is not None,
            self.tag is not None,
            self.model is not None,
            self.all,
        ]
        if sum(given) != 1:
            raise ValueError("watch exactly one of: prediction ids, owner=, tag=, model=, all=True")


class Message(Struct, frozen=True):
    """A message of the server, of whatever type; fields of other types are absent."""

    type: str
    ref: int | None = None
    prediction: Raw = ABSENT
    prediction_id: str | None = msgspec.field(default=None, name="predictionId")
    version: int = 0
    more: bool = False
    code: str | None = None
    message: str | None = None
    offset: int = 0
    text: str | None = None
    updated_at: int | None = msgspec.field(default=None, name="updatedAt")
    reason: str | None = None
    retry_after: float | None = msgspec.field(default=None, name="retryAfter")
    anonymous: bool = False
    public_url: str | None = msgspec.field(default=None, name="publicUrl")


_messages = msgspec.json.Decoder(Message)


def parse(text: str | bytes) -> Message:
    """The server's message.

    Raises:
        msgspec.DecodeError: It is none.
    """
    return _messages.decode(text)


class _Seen(NamedTuple):
    version: int
    deleted: bool = False
    ended: bool = False


class WatchState:
    """What one watch has seen.

    Args:
        selection: What it watches.
        known: Versions that the caller has already; nothing at or below them is news.
        limit: How many of the newest predictions to get at first, if the selection names none.
        snapshot: Whether to get what stands at first, or only what changes from then on.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        known: Mapping[str, int],
        limit: int | None = None,
        snapshot: bool = True,
    ) -> None:
        self._selection = selection
        self._limit = limit
        self.snapshot = snapshot
        self._running: OrderedDict[str, Prediction] = OrderedDict()
        """The records that pieces of texts may be appended to."""
        self.incomplete = False
        """Whether something is to be asked for again that was said to be known."""
        self.begun = False
        """Whether a subscription has stood before: what may have changed since is asked for in any
        case."""
        self._seen = OrderedDict(
            (prediction_id, _Seen(version)) for prediction_id, version in known.items()
        )

    def requests(self) -> Iterator[dict[str, object]]:
        """The `subscribe` messages for a new connection, without their refs.

        Each is small enough for the service. What texts grow by is asked for in pieces.
        """
        for request in self._requests():
            yield {**request, "text": "append"}

    def _requests(self) -> Iterator[dict[str, object]]:
        named = self._selection.predictions
        if named:
            yield from self._named(named)
            return
        request: dict[str, object] = {"type": "subscribe"}
        for kind in ("owner", "tag", "model"):
            if (value := getattr(self._selection, kind)) is not None:
                request[kind] = value
        if self._selection.all:
            request["all"] = True
        *earlier, latest = self._known_in_pieces()
        for known in earlier:
            yield {**request, "limit": 0, "known": known}
        if self._limit is not None:
            request["limit"] = self._limit
        if not (self.snapshot or self._seen or self.begun):
            request["snapshot"] = False
        yield {**request, "known": latest}

    def _named(self, named: tuple[str, ...]) -> Iterator[dict[str, object]]:
        chunk: list[str] = []
        size = 0
        for prediction_id in dict.fromkeys(named):
            cost = 2 * len(prediction_id.encode()) + 32
            if size + cost > KNOWN_BYTES:
                yield self._subscribe(chunk)
                chunk, size = [], 0
            chunk.append(prediction_id)
            size += cost
        yield self._subscribe(chunk)

    def _subscribe(self, chunk: list[str]) -> dict[str, object]:
        known = {one: self._seen[one].version for one in chunk if one in self._seen}
        request: dict[str, object] = {"type": "subscribe", "predictions": chunk, "known": known}
        if not (self.snapshot or known or self.begun):
            request["snapshot"] = False
        return request

    def _known_in_pieces(self) -> list[dict[str, int]]:
        """What is known, by messages, at least one: the last one has what changed last."""
        standing = [one for one in self._seen.items() if not one[1].deleted]
        if (excess := len(standing) - NAMED_AGAIN) > 0:
            by_interest = sorted(
                standing, key=lambda one: not one[1].ended
            )  # stable: the latest of each kind last
            left_out = {prediction_id for prediction_id, _ in by_interest[:excess]}
            standing = [one for one in standing if one[0] not in left_out]
        pieces: list[dict[str, int]] = [{}]
        size = 0
        for prediction_id, seen in reversed(standing):
            cost = len(prediction_id.encode()) + 24
            if size + cost > KNOWN_BYTES:
                pieces.append({})
                size = 0
            size += cost
            pieces[-1][prediction_id] = seen.version
        return pieces[::-1]

    def update_from(self, message: Message) -> Update | None:
        """What the message tells that is newer than what was seen of that prediction, if anything.

        None: nothing.
        """
        if message.type in {"snapshot", "change"}:
            record = decode(bytes(message.prediction))
            seen = _Seen(record.version, ended=record.status.terminal)
            if not self._advance(record.prediction_id, seen):
                return None
            return self._keep(self._not_shortened(record))
        prediction_id = message.prediction_id
        if prediction_id is None:
            return None
        if message.type == "append":
            return self._appended(prediction_id, message)
        self._running.pop(prediction_id, None)
        if message.type == "unknown":
            self._seen.pop(prediction_id, None)
        elif message.type == "deleted" and self._advance(
            prediction_id, _Seen(message.version, deleted=True)
        ):
            return Deleted(prediction_id, message.version, message.reason)
        return None

    def _appended(self, prediction_id: str, message: Message) -> Prediction | None:
        """The record with what its text has grown by; repeats are cut from the piece's beginning."""
        record = self._running.get(prediction_id)
        if record is None and self._seen.pop(prediction_id, None) is not None:
            # The caller said to know this version, and nobody gave us its text.
            self.incomplete = True
        there = 0 if record is None else record.text_length or 0
        if record is None or message.text is None or message.offset > there:
            return None  # the next whole record closes the gap
        more = message.text.encode()[there - message.offset :]
        if not more:
            return None
        version = max(record.version, message.version)
        self._advance(prediction_id, _Seen(version))
        return self._keep(
            replace(
                record,
                text=(record.text or "") + more.decode(),
                text_length=there + len(more),
                version=version,
                updated_at=message.updated_at or record.updated_at,
            )
        )

    def _not_shortened(self, record: Prediction) -> Prediction:
        """While it runs, a record that is behind the pieces does not shorten the text."""
        there = self._running.get(record.prediction_id)
        if there is None or not there.text or record.status.terminal:
            return record
        if there.text_epoch != record.text_epoch or not there.text.startswith(record.text or ""):
            return record
        if (there.text_length or 0) < (record.text_length or 0):
            return record
        return replace(record, text=there.text, text_length=there.text_length)

    def with_text(self, record: Prediction, text: str) -> Prediction:
        """The record of a long text with the whole of it, which was read apart."""
        return self._keep(replace(record, text=text, text_length=len(text.encode())))

    def _keep(self, record: Prediction) -> Prediction:
        name = record.prediction_id
        self._running.pop(name, None)
        if not record.status.terminal:
            self._running[name] = record
            if len(self._running) > NAMED_AGAIN:
                self._running.popitem(last=False)
        return record

    def _advance(self, prediction_id: str, now: _Seen) -> bool:
        seen = self._seen.get(prediction_id)
        if seen is not None and (now.version, now.deleted) <= (seen.version, seen.deleted):
            return False
        self._seen[prediction_id] = now
        self._seen.move_to_end(prediction_id)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True
