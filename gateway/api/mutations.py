"""Changing predictions over HTTP: an event is checked, appended, and its change waited for.

The rules have the last word in the processor; the check here is for an answer that says at once
what it will say.
"""

import asyncio
import uuid
from http import HTTPStatus
from typing import assert_never

import msgspec
from aiohttp import web
from msgspec import Raw

from tidings.gateway.api.deadlines import check_deadline
from tidings.gateway.api.long_poll import WRITE_WAIT, announced
from tidings.gateway.api.predictions import Records, answer_with, may_read
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldAccount, HeldBytes
from tidings.gateway.http.problems import Problem, bad_request, forbidden, not_found, unprocessable
from tidings.gateway.http.request_body import read_json
from tidings.gateway.http.request_trace import begun
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change
from tidings.streams.log.headers import ARCHIVE_HEADER, TRACE_HEADER
from tidings.streams.log.protocol import EVENTS, Log, LogError, NewRecord, Position, StoredRecord
from tidings.streams.processing.decoder import decode_event
from tidings.streams.rules.decision import Applied, Duplicate, Rejected, Stale
from tidings.streams.rules.event import Archive, Event, Poison
from tidings.streams.rules.fields import ASKED_WIRE_NAMES, WIRE_NAMES
from tidings.streams.rules.large_fields import settle, settles
from tidings.streams.rules.transitions import decide
from tidings.streams.rules.usage import MEMBERS
from tidings.streams.support.tracing import Tracing

EVENT_FIELDS = WIRE_NAMES | ASKED_WIRE_NAMES | {"status", "at", "id"}
"""What a `PATCH` may say."""

SOURCE = "api"
APPEND_WAIT = 4.0
"""Seconds for the log to take an event: no longer than requests have to finish when the service
ends, so that one which it does not take is answered so."""
OWN_BYTES = 256
"""Bytes by which a record may grow with what the processor adds: positions and an attempt."""
MOST_VALUES = 200_000
"""JSON values in a body: taking apart as many holds the event loop for about 30 ms."""

_object = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()


class Draft:
    """An event that is not appended yet.

    Args:
        prediction_id: What it is about.
        fields: Its members as JSON.
        now: When the request came, ms since the epoch.
        archive: The archive mode that is stamped on it.

    Raises:
        Problem: 422 if the processor would not understand it.
    """

    __slots__ = ("event", "headers", "now", "prediction_id", "value")

    def __init__(
        self, prediction_id: str, fields: dict[str, Raw], now: int, archive: Archive
    ) -> None:
        members: dict[str, object] = {
            "predictionId": prediction_id,
            "id": f"api-{uuid.uuid4().hex}",
            "at": now,
        }
        value = _encoder.encode({**members, **fields, "source": SOURCE})
        self.now = now
        self.headers: list[tuple[str, bytes]] = [(ARCHIVE_HEADER, archive.value.encode())]
        self.prediction_id = prediction_id
        self.value = value
        self.event = self._event()

    def _event(self) -> Event:
        record = StoredRecord(
            EVENTS, 0, 0, self.now, self.prediction_id.encode(), self.value, self.headers
        )
        try:
            event = decode_event(record, {})
        except Poison as poison:
            raise unprocessable(
                "Invalid field", f"{poison}; fix it and send the request again."
            ) from None
        if settles(event, len(self.value)):
            settle(event)
        return event


class EventWriter:
    """Appends events that requests ask for.

    Args:
        log: Where they go.
        reader: Sees what becomes of them.
        archive: The archive mode in force.
        tracing: Where the spans of sampled requests go; None: nothing is traced here.
    """

    def __init__(
        self,
        log: Log,
        reader: ChangesReader,
        archive: Archive = Archive.AFTER,
        tracing: Tracing | None = None,
    ) -> None:
        self._log = log
        self._reader = reader
        self._archive = archive
        self._tracing = tracing

    def draft(self, prediction_id: str, fields: dict[str, Raw], now: int) -> Draft:
        """An event with these members; a problem if the processor would not understand it."""
        return Draft(prediction_id, fields, now, self._archive)

    async def write(self, request: web.Request, draft: Draft) -> Change | None:
        """Append the event and wait for its change.

        Returns:
            The change; None if it has not come in time.
        """
        position = await self.append(request, draft)
        return await self._reader.wait_for(draft.prediction_id, position, WRITE_WAIT)

    async def append(self, request: web.Request, draft: Draft) -> Position:
        """Append it, in the trace of the request; returns its position. Raises `LogError`."""
        resource = request.match_info.route.resource
        name = f"{request.method} {resource.canonical if resource is not None else request.path}"
        incoming = request.headers.get(TRACE_HEADER)
        trace, carried = begun(self._tracing, name, draft.prediction_id, incoming, draft.now / 1000)
        headers = draft.headers if carried is None else [*draft.headers, (TRACE_HEADER, carried)]
        record = NewRecord(draft.prediction_id.encode(), draft.value, headers)
        try:
            async with asyncio.timeout(APPEND_WAIT):
                (position,) = await self._log.append(EVENTS, (record,))
        except (LogError, TimeoutError) as error:
            if trace is not None:
                trace.end(str(error))
            raise
        if trace is not None:
            trace.end()
        return position


class Mutations:
    """The handlers that change predictions.

    Args:
        guard: Who may come in.
        records: What stands.
        writer: Appends their events.
        held: The budget for bodies under way.
        max_body: Bytes of a request's body.
        record_max: Bytes of a record.
        strict: Whether the rules allow no implied steps.
        clock: Tells the time.
    """

    def __init__(
        self,
        guard: RequestGuard,
        records: Records,
        writer: EventWriter,
        held: HeldBytes,
        *,
        max_body: int,
        record_max: int,
        strict: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._guard = guard
        self._records = records
        self._writer = writer
        self._held = held
        self._max_body = max_body
        self._record_max = record_max
        self._strict = strict
        self._clock = clock

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """`PATCH /api/predictions/{id}`: an event's fields."""
        now = self._clock.ms()
        permissions = await self._guard.authenticate(request)
        prediction_id = request.match_info["id"]
        if not permissions.may_write():
            await self._refuse(
                permissions, prediction_id, "Changing a prediction needs the scope write."
            )
        with self._held.account(permissions.subject) as account:
            fields = await read_object(request, self._max_body, account)
            return await self._change(request, permissions, fields, now)

    async def _change(
        self, request: web.Request, permissions: Permissions, fields: dict[str, Raw], now: int
    ) -> web.StreamResponse:
        prediction_id = request.match_info["id"]
        for name in fields:
            if name not in EVENT_FIELDS:
                raise unprocessable(
                    "Unknown field",
                    f"{name[:64]!r} cannot be changed; the fields are "
                    f"{', '.join(sorted(EVENT_FIELDS))}.",
                )
        if (usage := fields.get("usage")) is not None:
            _check_usage(usage)
        if (deadline := fields.get("deadline")) is not None and bytes(deadline) != b"null":
            check_deadline(deadline, now)
        if "question" in fields and bytes(fields.get("waiting", b"")) != b"true":
            raise unprocessable("Missing field", "A question needs waiting: true beside it.")
        stored = await self._records.find(prediction_id, fresh=True)
        draft = self._writer.draft(prediction_id, fields, now)
        if not self._would_apply(stored, draft.event):
            if draft.event.waiting and stored.status is not None and stored.status.terminal:
                raise invalid_transition(stored.status, "waiting")
            return self._answer(permissions, prediction_id, stored, HTTPStatus.OK)
        change = await self._writer.write(request, draft)
        if change is None:
            return self._answer(permissions, prediction_id, stored, HTTPStatus.ACCEPTED)
        return self._answer(permissions, prediction_id, announced(change), HTTPStatus.OK)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/predictions/{id}/cancel`: a request, carried out when the provider says so."""
        now = self._clock.ms()
        permissions = await self._guard.authenticate(request)
        prediction_id = request.match_info["id"]
        stored = await self._records.find(prediction_id, fresh=True)
        if not permissions.may_cancel(stored.owner):
            await self._refuse(
                permissions,
                prediction_id,
                "Canceling it needs its owner's token or the scope write.",
            )
        status = stored.status
        if status is not None and status.terminal and status is not Status.CANCELED:
            raise invalid_transition(status, Status.CANCELED)
        draft = self._writer.draft(prediction_id, {"type": Raw(b'"cancel"')}, now)
        if self._would_apply(stored, draft.event):
            change = await self._writer.write(request, draft)
            stored = stored if change is None else announced(change)
        return self._answer(permissions, prediction_id, stored, HTTPStatus.ACCEPTED)

    async def admit_delete(self, request: web.Request, stored: Stored) -> None:
        """Refuse whoever may not delete this record; 403 or 404."""
        permissions = await self._guard.authenticate(request)
        if not permissions.may_delete(stored.owner):
            await self._refuse(
                permissions,
                request.match_info["id"],
                "Deleting it needs its owner's token or the scope write.",
            )

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """`DELETE /api/predictions/{id}`: 204 when it is gone, 202 if that is not seen in time."""
        now = self._clock.ms()
        prediction_id = request.match_info["id"]
        await self.admit_delete(request, await self._records.find(prediction_id, fresh=True))
        draft = self._writer.draft(prediction_id, {"type": Raw(b'"delete"')}, now)
        change = await self._writer.write(request, draft)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if change is None:
            return web.Response(
                status=202,
                body=b'{"success":true}',
                headers=headers,
                content_type="application/json",
            )
        return web.Response(status=204, headers=headers)

    def _would_apply(self, stored: Stored, event: Event) -> bool:
        """Whether the event says something new; raises a 409 if the rules forbid it."""
        current = stored.standing()
        decision = decide(current, event, None, strict=self._strict)
        match decision:
            case Applied() if decision.letter is not None and event.status is not None:
                assert isinstance(current, Prediction)
                raise invalid_transition(current.status, event.status)
            case Applied():
                if isinstance(decision.record, Prediction):
                    check_size(decision.record, self._record_max)
                return True
            case Duplicate():
                return False
            case Stale():
                if decision.behind and isinstance(current, Prediction) and event.status is not None:
                    raise invalid_transition(current.status, event.status)
                return False
            case Rejected():
                if (
                    decision.code in {"contradiction", "strict"}
                    and event.status
                    and isinstance(current, Prediction)
                ):
                    raise invalid_transition(current.status, event.status)
                raise Problem(
                    409,
                    "conflict",
                    "Conflict",
                    f"{decision.reason}; leave the field out, or use another prediction.",
                )
        assert_never(decision)

    async def _refuse(self, permissions: Permissions, prediction_id: str, detail: str) -> None:
        """403 to whoever may see the record; to others it does not exist."""
        stored = await self._records.find(prediction_id)
        if not may_read(permissions, prediction_id, stored):
            raise not_found()
        raise forbidden(detail)

    def _answer(
        self, permissions: Permissions, prediction_id: str, stored: Stored, status: HTTPStatus
    ) -> web.StreamResponse:
        if may_read(permissions, prediction_id, stored):
            return answer_with(stored.encoded, stored.version, status=status)
        # The right to change everything is not the right to read it.
        told = {"predictionId": prediction_id, "status": stored.status, "version": stored.version}
        return answer_with(_encoder.encode(told), stored.version, status=status)


def _check_usage(raw: Raw) -> None:
    """A member that nobody knows is a mistake in a request; in an event it is left out. Raises a 422."""
    try:
        members = _object.decode(raw) if bytes(raw) != b"null" else {}
    except msgspec.DecodeError:
        return  # no object: the decoder says what is wrong
    for name in members:
        if name not in MEMBERS:
            raise unprocessable(
                "Unknown field", f"usage has no {name[:64]!r}; it has {', '.join(MEMBERS)}."
            )


async def read_object(request: web.Request, limit: int, account: HeldAccount) -> dict[str, Raw]:
    """The body, which must be a JSON object, by member.

    Raises:
        Problem: 415, 400, 413, 422 if it has too many values, 429 or 503.
    """
    body = await read_json(request, limit, account)
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MOST_VALUES:
        raise unprocessable(
            "Too many values",
            f"A body may have {MOST_VALUES} values (commas and brackets count); send fewer.",
        )
    try:
        body.decode()  # a member that is not looked at may be in another encoding
    except UnicodeDecodeError:
        raise unprocessable("Not UTF-8", "The body is not in UTF-8; encode it so.") from None
    try:
        return _object.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise bad_request(
            "Not JSON", "The body is no JSON object, or one of too great a depth; send one."
        ) from None


def check_size(record: Prediction, record_max: int) -> None:
    """Refuse what would be over the limit once it is applied, rather than keep it as a dead letter.

    Raises:
        Problem: 413.
    """
    if len(encode(record)) + OWN_BYTES > record_max:
        raise Problem(
            413,
            "too-large",
            "Record too large",
            f"The record would have more than {record_max} bytes; send less, or less of it inline.",
        )


def invalid_transition(current: Status, wanted: str) -> Problem:
    """The rules do not let the prediction go from one status to the other."""
    return Problem(
        409,
        "invalid-transition",
        f"Invalid transition from {current} to {wanted}",
        f"The prediction is {current}, from where it does not become {wanted}; read it and send "
        "what still applies.",
    )
