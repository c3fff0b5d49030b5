"""Opening a log from its URL. A driver is imported only when its kind of log is asked for."""

import importlib
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from tidings.storage.extras import missing
from tidings.streams.log.protocol import Log, LogMisconfigured

DELIVERIES_LEAST = 172_800
"""Seconds that deliveries are kept at least: they are tried for a day."""


class LogOptions(Struct, frozen=True, kw_only=True):
    """What may be said about a log besides its URL."""

    topic_prefix: str = ""
    """Put before each topic and group (Kafka)."""
    partitions: int = 12
    """Of each topic that is created (Kafka)."""
    retention: int = 604_800
    """Seconds that events are kept."""
    changes_retention: int = 604_800
    """Seconds that changes are kept, besides compaction: the longest TTL; 0: forever."""
    epoch: int = 0
    """Part of the log's identity; to be raised after recreating a topic (Kafka)."""
    max_body: int = 10_485_760
    """Bytes of the greatest value."""
    create: bool = True
    """Whether missing files and topics are made."""
    deliveries: bool = False
    """Whether webhooks to other servers are set up, which have a topic of their own."""

    @property
    def deliveries_retention(self) -> int:
        """Seconds that deliveries are kept, besides compaction: beyond every try; 0: forever."""
        return self.changes_retention and max(self.changes_retention, DELIVERIES_LEAST)


_OPENERS = {
    "memory": "tidings.streams.log.memory:open_memory",
    "sqlite": "tidings.streams.log.sqlite.log:open_sqlite",
    "kafka": "tidings.streams.log.kafka.log:open_kafka",
}
"""Per scheme the function that opens the log: (URL, its parts, options)."""


async def open_log(
    url: str,
    *,
    topic_prefix: str = "",
    partitions: int = 12,
    retention: int = 604_800,
    changes_retention: int = 604_800,
    epoch: int = 0,
    max_body: int = 10_485_760,
    create: bool = True,
    deliveries: bool = False,
) -> Log:
    """Open the log at `url`: `sqlite:///data/log.db`, `kafka://host:9092,host2:9092?security_protocol=...`, `memory://`.

    The arguments are those of `LogOptions`. Raises `LogMisconfigured` for a URL, file or topic that must be fixed, and
    `LogUnavailable` if the log does not answer.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise LogMisconfigured(
            f"log URL {masked(url)!r} cannot be read ({error}); write sqlite:///FILE"
        ) from error
    opener = _OPENERS.get(parts.scheme)
    if opener is None:
        raise LogMisconfigured(
            f"log URL {masked(url)!r}: unknown kind {parts.scheme!r}; "
            "use sqlite:///data/log.db, kafka://host:9092 or memory://"
        )
    if partitions < 1 or retention < 1 or changes_retention < 0 or max_body < 1:
        raise LogMisconfigured(
            f"partitions ({partitions}), retention ({retention}) and the largest body ({max_body}) must be above 0"
        )
    module, _, function = opener.partition(":")
    try:
        open_it = cast("_Opener", getattr(importlib.import_module(module), function))
    except ImportError as error:
        line = missing(f"{parts.scheme}://", error)
        raise LogMisconfigured(line or f"{parts.scheme}:// cannot be loaded: {error}") from error
    return await open_it(
        parts,
        LogOptions(
            topic_prefix=topic_prefix,
            partitions=partitions,
            retention=retention,
            changes_retention=changes_retention,
            epoch=epoch,
            max_body=max_body,
            create=create,
            deliveries=deliveries,
        ),
    )


_Opener = Callable[[SplitResult, LogOptions], Awaitable[Log]]


def masked(url: str) -> str:
    """The URL without what may be secret: its user part and its query."""
    scheme, separator, rest = url.partition("://")
    place = rest.partition("?")[0]
    return f"{scheme}{separator}{place.rpartition('@')[2]}"
