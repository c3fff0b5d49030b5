"""The events that follow from what a record says: a retry, the create of its successor, a group's members.

Each has an id made from the record's own, so whoever appends it, and however often, it counts once.
"""

import hmac
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Raw

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StoreUnavailable
from tidings.storage.prediction import ABSENT, GROUP, Prediction, Status
from tidings.streams.log.protocol import NewRecord, Position
from tidings.streams.rules.groups import WAITING, member_id
from tidings.streams.rules.large_fields import path, reference, whole
from tidings.streams.rules.retries import Elsewhere
from tidings.streams.submission.event_publisher import EventPublisher

Read = Callable[[str], Awaitable[bytes | None]]
"""Gives the content at a path of the object storage."""

_encoder = msgspec.json.Encoder()
_ids = msgspec.json.Decoder(list[str])
_orders = msgspec.json.Decoder(list[dict[str, Raw]])
_elsewhere = msgspec.json.Decoder(Elsewhere)


class FollowUps:
    """Appends what follows from records.

    Args:
        publisher: Where events go.
        read: Reads what is too large for a record.
        shown: The object storage, for people.
        key: What successors' ids are made with: nobody else can tell, or take, one.
        clock: Tells the time.
    """

    def __init__(
        self,
        publisher: EventPublisher,
        read: Read,
        shown: str,
        key: bytes,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._publisher, self._read, self._shown = publisher, read, shown
        self._key, self._clock = key, clock

    def _event(self, prediction_id: str, type_: str, id_: str, **said: object) -> NewRecord:
        members = {
            name: value for name, value in said.items() if value is not None and value != ABSENT
        }
        value = _encoder.encode(
            {
                "type": type_,
                "predictionId": prediction_id,
                "id": id_,
                "at": self._clock.ms(),
                **members,
                "source": self._publisher.source,
            }
        )
        return NewRecord(prediction_id.encode(), value, [self._publisher.archive])

    # ---- retries ----

    def retry(self, record: Prediction, elsewhere: Elsewhere) -> NewRecord:
        """The event that names a prediction's successor."""
        successor = successor_id(self._key, record)
        with_ = msgspec.structs.asdict(elsewhere)
        given = {name: value for name, value in with_.items() if value is not None}
        return self._event(
            record.prediction_id,
            "retry",
            f"retry-{successor}",
            **{"as": successor, "with": given or None, "createdAt": record.created_at},
        )

    async def successor(self, record: Prediction) -> NewRecord:
        """The create of the successor that a record names; raises `StorageError`."""
        successor = record.retried_as
        assert successor is not None
        first = record.first_attempt or record.retry_of or record.prediction_id
        id_ = f"create-{successor}"
        more = {"retryOf": record.prediction_id, "firstAttempt": first}
        if record.kind == GROUP:
            return await self._successor_group(record, successor, id_, more)
        contents = await whole(self._read, self._shown, record)
        instead = _elsewhere.decode(record.retried_with) if record.retried_with else Elsewhere()
        return self._event(
            successor,
            "create",
            id_,
            provider=instead.provider or record.provider,
            model=instead.model or record.model,
            prompt=contents.prompt,
            payload=contents.payload,
            owner=record.owner,
            tags=record.tags or None,
            estimatedTime=None if record.retried_with else record.estimated_time,
            deadline=self._moved(record.deadline, record),
            retries=record.retries,
            stream=record.stream,
            retryCount=(record.retry_count or 0) + 1,
            group=record.group,
            index=record.index,
            webhook=record.webhook,
            webhookEvents=record.webhook_events,
            **more,
        )

    async def _successor_group(
        self, record: Prediction, successor: str, id_: str, more: dict[str, Any]
    ) -> NewRecord:
        """A group of those members that did not succeed."""
        letters = record.member_status or ""
        orders = [
            order
            for letter, order in zip(letters, await self.orders(record), strict=True)
            if letter in "fc"
        ]
        for order in orders:
            if "deadline" in order:
                given = msgspec.json.decode(order["deadline"], type=int)
                order["deadline"] = Raw(b"%d" % (self._moved(given, record) or given))
        said = group_members(successor, orders)
        return self._event(
            successor,
            "create",
            id_,
            owner=record.owner,
            tags=record.tags or None,
            webhook=record.webhook,
            webhookEvents=record.webhook_events,
            **said,
            **more,
        )

    def _moved(self, deadline: int | None, record: Prediction) -> int | None:
        """A deadline as long after now as it was after the record's creation."""
        if deadline is None:
            return None
        return self._clock.ms() + max(1, deadline - record.created_at)

    # ---- groups ----

    async def members(self, group: Prediction) -> list[str]:
        """The ids of a group's members, as they were created; raises `StorageError`."""
        return _ids.decode(await self._content(group, group.members))

    async def orders(self, group: Prediction) -> list[dict[str, Raw]]:
        """Their orders; raises `StorageError`."""
        return _orders.decode(await self._content(group, group.orders))

    async def _content(self, group: Prediction, field: Raw) -> bytes:
        blob = reference(field)
        if blob is None:
            return bytes(field)
        found = await self._read(path(group.prediction_id, blob.hash))
        if found is None:
            raise StoreUnavailable(
                f"{blob.hash} of {group.prediction_id} is not in the object storage {self._shown}"
            )
        return found

    async def creates(self, group: Prediction, indexes: Iterable[int]) -> list[NewRecord]:
        """The creates of members at these places; raises `StorageError`."""
        ids, orders = await self.members(group), await self.orders(group)
        return [
            self._event(
                ids[index],
                "create",
                member_create_id(group, index),
                **{name: value for name, value in orders[index].items() if name not in _OWN},
                group=group.prediction_id,
                index=index,
            )
            for index in indexes
        ]

    def member(self, group: Prediction, index: int, status: Status, attempt: int) -> NewRecord:
        """The event that tells a group how a member stands."""
        return self._event(
            group.prediction_id,
            "member",
            f"member-{index}-{attempt}-{status.value}",
            index=index,
            status=status.value,
            retryCount=attempt or None,
            createdAt=group.created_at,
        )

    def cancel(self, prediction_id: str) -> NewRecord:
        """A request to cancel."""
        return self._event(prediction_id, "cancel", f"cancel-{prediction_id}")

    def delete(self, prediction_id: str) -> NewRecord:
        """A deletion."""
        return self._event(prediction_id, "delete", f"delete-{prediction_id}")

    async def publish(self, records: Sequence[NewRecord]) -> list[Position]:
        """Append; outages of the log are waited out."""
        return await self._publisher.publish(records) if records else []


_OWN = frozenset({"type", "predictionId", "id", "at", "source", "group", "index"})
"""Members of an event that an order does not say."""


def successor_id(key: bytes, record: Prediction) -> str:
    """The id of the attempt after this one."""
    named = f"tidings retry\0{record.prediction_id}\0{record.created_at}".encode()
    return hmac.new(key, named, sha256).hexdigest()[:32]


def member_create_id(group: Prediction, index: int) -> str:
    """The id of the create of a group's member."""
    return f"{group.create_id}-{index}"


def group_members(group: str, orders: Sequence[dict[str, Raw]]) -> dict[str, object]:
    """What the create of a group says of its members."""
    return {
        "kind": GROUP,
        "status": Status.PROCESSING.value,
        "members": [member_id(group, index) for index in range(len(orders))],
        "orders": orders,
        "memberStatus": WAITING * len(orders),
    }
