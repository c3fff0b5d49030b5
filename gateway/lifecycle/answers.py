"""`POST /api/predictions/{id}/answer`: what a person says to the question that a prediction waits with.

The event names the question's number. Of two answers at once the rules take the first; the other
caller sees in the record whose it is, and is told so at once.
"""

import time
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web
from msgspec import Raw

from tidings.gateway.api.long_poll import WRITE_WAIT, announced
from tidings.gateway.api.mutations import Draft, EventWriter, check_size, read_object
from tidings.gateway.api.predictions import Records, answer_with, may_read
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import Handler, Problem, forbidden, not_found, unprocessable
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Prediction, decode
from tidings.storage.store import Stored
from tidings.streams.rules.decision import Applied
from tidings.streams.rules.large_fields import reference, says
from tidings.streams.rules.questions import question_of
from tidings.streams.rules.transitions import decide

MAX_ANSWER = 256 * 1024
"""Bytes of an answer: it is a person's, or the result of a call."""

_encoder = msgspec.json.Encoder()
_any = msgspec.json.Decoder()
_MEMBERS = frozenset({"answer", "questionNumber"})


class _Given:
    """An answer as a request brings it.

    Raises:
        Problem: 422 if it is none, 413 if it is too large.
    """

    def __init__(self, fields: Mapping[str, Raw]) -> None:
        for name in fields:
            if name not in _MEMBERS:
                raise unprocessable(
                    "Unknown field",
                    f"{name[:64]!r} is no part of an answer; say answer, and perhaps questionNumber.",
                )
        self.answer = fields.get("answer", Raw(b"null"))
        if bytes(self.answer) == b"null":
            raise unprocessable("Missing field", "An answer needs answer; any JSON but null.")
        if len(bytes(self.answer)) > MAX_ANSWER:
            raise Problem(
                413,
                "too-large",
                "Answer too large",
                f"An answer may have {MAX_ANSWER} bytes at most; send less, or the address of it.",
            )
        try:
            _any.decode(self.answer)
        except (msgspec.DecodeError, RecursionError):
            raise unprocessable(
                "Invalid field",
                "The answer is no JSON that can be read: half a character, or too deep.",
            ) from None
        self.number: int | None = None
        if (number := fields.get("questionNumber")) is not None:
            try:
                self.number = msgspec.json.decode(number, type=int | None)
            except (msgspec.DecodeError, UnicodeError):
                raise unprocessable(
                    "Invalid field", "questionNumber is that of the record, a whole number."
                ) from None

    def check(self, record: Prediction, subject: str | None) -> bool:
        """Whether this record takes it now; False: it has it already.

        Raises:
            Problem: 409 if it waits for nothing, or for the answer to another question; 422
                if the question has choices and this is none.
        """
        if record.question_number is None:
            raise Problem(409, "not-waiting", "Nothing was asked", "It has no question to answer.")
        if self.number is not None and self.number != record.question_number:
            raise Problem(
                409,
                "other-question",
                "Another question",
                f"Its question is number {record.question_number}, not {self.number}; read it.",
            )
        if not record.waiting:
            return self._repeated(record, subject)
        if reference(record.question) is None:
            self._check_choice(record.question)
        return True

    def _repeated(self, record: Prediction, subject: str | None) -> bool:
        if record.answered_at is None or record.status.terminal:
            raise Problem(
                409,
                "not-waiting",
                "It does not wait",
                f"It is {record.status} and needs no answer any more.",
            )
        if not says(record.answer, self.answer) or record.answered_by != subject:
            raise Problem(
                409,
                "answered",
                "Answered already",
                "Somebody else's answer was first; read the record for it.",
            )
        return False

    def _check_choice(self, question: Raw) -> None:
        choices = question_of(question).choices
        if choices is None:
            return
        given = _any.decode(self.answer)
        if not any(_same(_any.decode(one), given) for one in choices):
            raise unprocessable(
                "None of the choices",
                "The question has choices, and the answer is none of them; read them in it.",
            )


def answer_handler(
    guard: RequestGuard,
    records: Records,
    writer: EventWriter,
    reader: ChangesReader,
    held: HeldBytes,
    *,
    max_body: int,
    record_max: int,
    clock: Clock = SYSTEM_CLOCK,
) -> Handler:
    """The handler of `POST /api/predictions/{id}/answer`.

    Args:
        guard: Who may come in.
        records: What stands.
        writer: Appends the event.
        reader: Sees what becomes of it.
        held: The budget for bodies under way.
        max_body: Bytes of a request's body.
        record_max: Bytes of a record.
        clock: Tells the time.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        now = clock.ms()
        permissions = await guard.authenticate(request)
        with held.account(permissions.subject) as account:
            given = _Given(await read_object(request, max_body, account))
            prediction_id, subject = request.match_info["id"], permissions.subject
            stored = await records.find(prediction_id, fresh=True)
            _admit(permissions, prediction_id, stored)
            record = decode(stored.encoded)
            if not given.check(record, subject):
                return answer_with(stored.encoded, stored.version)
            draft = writer.draft(prediction_id, _event(record, given, subject), now)
            decision = decide(record, draft.event, None)
            if isinstance(decision, Applied) and isinstance(decision.record, Prediction):
                check_size(decision.record, record_max)
            await writer.append(request, draft)
        return await outcome(draft, given, stored, subject)

    async def outcome(
        draft: Draft, given: _Given, stored: Stored, subject: str | None
    ) -> web.StreamResponse:
        """What became of it: a later change of the record says whose answer was taken."""
        until = time.monotonic() + WRITE_WAIT
        while (left := until - time.monotonic()) > 0:
            change = await reader.wait_for_version(draft.prediction_id, stored.version, left)
            if change is None:
                break
            stored = announced(change)
            record = decode(stored.encoded)
            if record.answer_id == draft.event.id:
                return answer_with(stored.encoded, stored.version)
            if not (record.waiting and record.question_number == draft.event.question_number):
                given.number = draft.event.question_number
                given.check(record, subject)
                return answer_with(stored.encoded, stored.version)
        return answer_with(stored.encoded, stored.version, status=HTTPStatus.ACCEPTED)

    return answer


def _event(record: Prediction, given: _Given, subject: str | None) -> dict[str, Raw]:
    said: dict[str, object] = {
        "type": "answer",
        "answer": given.answer,
        "questionNumber": record.question_number,
        "createdAt": record.created_at,
    }
    if subject is not None:
        said["answeredBy"] = subject
    return {name: Raw(_encoder.encode(value)) for name, value in said.items()}


def _admit(permissions: Permissions, prediction_id: str, stored: Stored) -> None:
    if not may_read(permissions, prediction_id, stored):
        raise not_found()
    if not permissions.may_cancel(stored.owner):
        raise forbidden("Answering it needs its owner's token or the scope write.")


def _same(one: object, other: object) -> bool:
    """Equal as JSON: 1 is not true."""
    return one == other and isinstance(one, bool) is isinstance(other, bool)
