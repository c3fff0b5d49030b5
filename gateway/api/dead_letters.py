"""Dead letters for admins over HTTP: what lies there and why, and trying it again."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import bad_request, unprocessable
from tidings.gateway.http.request_body import read_json
from tidings.storage.redaction import redact
from tidings.streams.log.protocol import EVENTS, Log, LogError
from tidings.streams.processing.dead_letter_marks import DeadLetterIndex, dismiss, redrive
from tidings.streams.processing.dead_letters import (
    DeadLetter,
    home,
    read_dead_letters,
    select_for_redrive,
)
from tidings.streams.processing.processor import GROUP

DEFAULT_LIMIT = 50
COUNTED = 1.0
"""Seconds for which a count is given again."""
MAX_LIMIT = 1000
EVIDENCE = 16_384
"""Bytes of a letter's value that a list shows."""

_NOT_CACHED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Redrive(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which letters to try again; what is given must hold together."""

    positions: frozenset[str] | None = None
    """`partition:offset` of the events, as the list names them."""
    reason: str | None = None
    prediction: str | None = None
    all: bool = False


class DeadLetters:
    """The handlers.

    Args:
        guard: Who may come in: admins.
        log: The log that the letters are in.
        held: The budget for bodies under way.
        max_body: Bytes of a request's body.
        group: Of the processors, whose commits say what was judged.
    """

    def __init__(
        self,
        guard: RequestGuard,
        log: Log,
        held: HeldBytes,
        max_body: int,
        group: str = GROUP,
    ) -> None:
        self._guard = guard
        self._log = log
        self._group = group
        self._index = DeadLetterIndex(log)
        self._held = held
        self._max_body = max_body

    async def list(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/dead-letters`: the newest, and how many there are by reason."""
        await self._guard.require_admin(request)
        query = request.query
        await self._index.refresh(within=COUNTED)
        still_open = self._index.open_reasons()
        if query.get("count") == "true":  # asked for often: the bodies stay unread
            counted = {"open": sum(still_open.values()), "openReasons": still_open}
            return _answer({"success": True, "data": [], **counted})
        limit = _limit(query.get("limit"))
        wanted = _wanted(query.get("reason"), query.get("prediction"), None)
        if query.get("state") == "open":
            wanted = _both(wanted, self._index.is_open)
        newest: deque[DeadLetter] = deque(maxlen=limit)
        reasons: Counter[str] = Counter()
        async for letter in read_dead_letters(self._log):
            reasons[letter.code] += 1
            if wanted(letter):
                newest.append(_shortened(letter))
        found = sorted(newest, key=lambda letter: letter.at, reverse=True)
        counts = {
            "count": reasons.total(),
            "reasons": dict(reasons.most_common()),
            "open": sum(still_open.values()),
            "openReasons": still_open,
        }
        committed = await self._judged(found)
        data = [{**_shown(letter), "done": self._done(letter, committed)} for letter in found]
        return _answer({"success": True, "data": data, **counts})

    async def _judged(self, letters: Sequence[DeadLetter]) -> Mapping[int, int]:
        """Up to where the events were judged, if a letter that was tried again asks for it.

        A gateway may have no right to see the processors' group: then nothing is said to be taken.
        """
        marks = map(self._index.mark_of, letters)
        if all(mark is None or mark.appended is None for mark in marks):
            return {}
        try:
            return await self._log.committed(EVENTS, self._group)
        except LogError:
            return {}

    def _done(self, letter: DeadLetter, committed: Mapping[int, int]) -> dict[str, Any] | None:
        """What became of a letter; None: it is open."""
        mark = self._index.mark_of(letter)
        if mark is None:
            return None
        done: dict[str, Any] = {"what": mark.what.value, "at": mark.at}
        if mark.appended is None:
            return done
        if self._index.came_back(letter):
            outcome = "returned"
        elif home(letter) != EVENTS or (
            committed.get(mark.appended.partition, 0) > mark.appended.offset
        ):
            outcome = "taken"
        else:
            outcome = "waiting"
        return {**done, "position": str(mark.appended), "outcome": outcome}

    async def dismiss(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/dead-letters/dismiss`: say that nothing is to be done about them any more."""
        chosen = await self._choice(request)
        count = await dismiss(self._log, await self._chosen(chosen))
        await self._index.refresh()
        return _answer({"success": True, "data": {"dismissed": count}})

    async def _chosen(self, choice: Redrive) -> Callable[[DeadLetter], bool]:
        """Whether a letter is covered: a named one in any case, else one that is open."""
        wanted = _wanted(choice.reason, choice.prediction, choice.positions)
        if choice.positions:
            return wanted
        await self._index.refresh()
        return _both(wanted, self._index.is_open)

    async def _choice(self, request: web.Request) -> Redrive:
        await self._guard.require_admin(request)
        with self._held.account() as account:
            body = await read_json(request, self._max_body, account)
        try:
            chosen = msgspec.json.decode(body, type=Redrive)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            raise unprocessable(
                "Bad choice",
                "The choice cannot be read; give positions (a list), reason, prediction or all.",
            ) from None
        if not (chosen.positions or chosen.reason or chosen.prediction or chosen.all):
            raise unprocessable(
                "Nothing chosen", "Give positions, reason or prediction, or say all: true."
            )
        return chosen

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/dead-letters/redrive`: append them to the events again, under the same rules."""
        chosen = await self._choice(request)
        done = 0

        def covers(letter: DeadLetter) -> bool:
            nonlocal done
            if not named(letter):
                return False
            if chosen.positions or self._index.is_open(letter):
                return True
            done += 1
            return False

        await self._index.refresh()
        named = _wanted(chosen.reason, chosen.prediction, chosen.positions)
        log, count = self._log, 0
        selection = await select_for_redrive(log, covers, repeats=bool(chosen.positions))
        skipped = selection.left_out + done
        async for appended in redrive(log, selection):
            count += appended
        await self._index.refresh()
        return _answer({"success": True, "data": {"redriven": count, "skipped": skipped}})


def _both(
    one: Callable[[DeadLetter], bool], other: Callable[[DeadLetter], bool]
) -> Callable[[DeadLetter], bool]:
    return lambda letter: one(letter) and other(letter)


def _wanted(
    reason: str | None, prediction: str | None, positions: frozenset[str] | None
) -> Callable[[DeadLetter], bool]:
    return lambda letter: (
        reason in (None, letter.code)
        and prediction in (None, letter.prediction_id)
        and (positions is None or str(letter.position) in positions)
    )


def _shortened(letter: DeadLetter) -> DeadLetter:
    """With as much of its value as is shown: others wait beside it."""
    value = letter.value or b""
    if len(value) <= EVIDENCE:
        return letter
    return replace(letter, value=value[:EVIDENCE], truncated=letter.truncated or len(value))


def _shown(letter: DeadLetter) -> dict[str, Any]:
    value = letter.value or b""
    return {
        "position": str(letter.position),
        "topic": letter.topic,
        "reason": letter.code,
        "message": redact(letter.message),
        "at": letter.at,
        "timestamp": letter.timestamp,
        "attempt": letter.attempt,
        "predictionId": letter.prediction_id,
        "headers": [
            [name, redact(content.decode("utf-8", "replace"))] for name, content in letter.headers
        ],
        "value": redact(value.decode("utf-8", "replace")),
        "bytes": len(value) if letter.truncated is None else letter.truncated,
    }


def _answer(content: dict[str, Any]) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(content), headers=_NOT_CACHED, content_type="application/json"
    )


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MAX_LIMIT):
        raise bad_request(
            "Bad limit", f"The limit is {text[:20]!r}; give a number from 1 to {MAX_LIMIT}."
        )
    return int(text)
