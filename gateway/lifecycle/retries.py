"""`POST /api/predictions/{id}/retry`: what failed or was canceled is tried again, under a new id.

The event names the successor once; its create follows from the record, whoever sees it first.
"""

from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec import Raw

from tidings.gateway.api.create import Submitter, refuse_unable
from tidings.gateway.api.long_poll import WRITE_WAIT, announced
from tidings.gateway.api.mutations import EventWriter, invalid_transition, read_object
from tidings.gateway.api.predictions import Records, answer_with, may_read
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import Handler, forbidden, not_found, unprocessable
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import GROUP, Prediction, Status, decode
from tidings.storage.store import Stored
from tidings.streams.lifecycle.follow_ups import successor_id
from tidings.streams.rules.retries import Elsewhere

MOST_LINKS = 100
"""Attempts of a chain that are followed to its newest one."""

_encoder = msgspec.json.Encoder()


def retry_handler(
    guard: RequestGuard,
    records: Records,
    writer: EventWriter,
    reader: ChangesReader,
    held: HeldBytes,
    *,
    max_body: int,
    key: bytes = b"",
    submitter: Submitter | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Handler:
    """The handler of `POST /api/predictions/{id}/retry`.

    Args:
        guard: Who may come in.
        records: What stands.
        writer: Appends the event.
        reader: Sees the successor come.
        held: The budget for bodies under way.
        max_body: Bytes of a request's body.
        key: What the ids of successors are made with.
        submitter: What hands predictions to providers; None: none can be tried again.
        clock: Tells the time.
    """

    async def retry(request: web.Request) -> web.StreamResponse:
        now = clock.ms()
        permissions = await guard.authenticate(request)
        fields: dict[str, Raw] = {}
        if request.can_read_body:
            with held.account(permissions.subject) as account:
                fields = await read_object(request, max_body, account)
        elsewhere = _elsewhere(fields)
        prediction_id = request.match_info["id"]
        stored = await records.find(prediction_id, fresh=True)
        _admit(permissions, prediction_id, stored)
        record = decode(stored.encoded)
        if record.retried_as is None:
            refuse_unfit(record, elsewhere, submitter)
            record = await append(request, record, elsewhere, now)
        assert record.retried_as is not None
        there = await records.store.get_fresh(record.retried_as)
        if there is None:
            change = await reader.wait_for_version(record.retried_as, 0, WRITE_WAIT)
            there = None if change is None or change.deleted else announced(change)
        return _answer(record.retried_as, there)

    async def append(
        request: web.Request, record: Prediction, elsewhere: Elsewhere, now: int
    ) -> Prediction:
        """The record with its successor named."""
        given = msgspec.to_builtins(elsewhere)
        said = {
            "type": "retry",
            "as": successor_id(key, record),
            "createdAt": record.created_at,
            **({"with": given} if given else {}),
        }
        fields = {name: Raw(_encoder.encode(value)) for name, value in said.items()}
        draft = writer.draft(record.prediction_id, fields, now)
        change = await writer.write(request, draft)
        stored = (
            await records.find(record.prediction_id, fresh=True)
            if change is None
            else announced(change)
        )
        found = None if stored.deleted else decode(stored.encoded)
        if found is None:
            raise not_found()
        if found.retried_as is None:  # not applied yet: the event is in the log, and will be
            return msgspec.structs.replace(found, retried_as=successor_id(key, record))
        return found

    return retry


def _elsewhere(fields: Mapping[str, Raw]) -> Elsewhere:
    try:
        return msgspec.json.decode(_encoder.encode(fields), type=Elsewhere)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise unprocessable(
            "Invalid field", f"A retry may name another provider and model: {error}."
        ) from None


def _admit(permissions: Permissions, prediction_id: str, stored: Stored) -> None:
    if not may_read(permissions, prediction_id, stored):
        raise not_found()
    if not permissions.may_create(stored.owner):
        raise forbidden("Trying it again needs its owner's token or the scope write.")


def refuse_unfit(record: Prediction, elsewhere: Elsewhere, submitter: Submitter | None) -> None:
    """Refuse what cannot be tried again.

    Raises:
        Problem: 409 if it has not failed, 422 if nobody here can make it.
    """
    if record.status not in (Status.FAILED, Status.CANCELED):
        raise invalid_transition(record.status, "a retry")
    if record.kind == GROUP:
        if elsewhere != Elsewhere():
            raise unprocessable(
                "Invalid field", "A group's members are tried again where they were."
            )
        return
    provider, model = elsewhere.provider or record.provider, elsewhere.model or record.model
    if provider is None or model is None:
        raise unprocessable(
            "Missing field", "Nobody has said provider and model of it; name both in the body."
        )
    refuse_unable(submitter, provider, model)


def _answer(prediction_id: str, stored: Stored | None) -> web.StreamResponse:
    location = f"/api/predictions/{quote(prediction_id, safe='')}"
    if stored is None:
        told = {"predictionId": prediction_id}
        response = answer_with(_encoder.encode(told), 0, status=HTTPStatus.ACCEPTED)
        del response.headers["ETag"]
    else:
        response = answer_with(stored.encoded, stored.version, status=HTTPStatus.CREATED)
    response.headers["Location"] = location
    return response


async def newest_attempt(records: Records, stored: Stored) -> Stored:
    """The newest of a prediction's attempts; the last one that stands, if one is gone."""
    for _ in range(MOST_LINKS):
        if b'"retriedAs":' not in stored.encoded:
            break
        successor = decode(stored.encoded).retried_as
        following = None if successor is None else await records.store.get(successor)
        if following is None or following.deleted:
            break
        stored = following
    return stored
