"""The topics on a Kafka cluster: made if they are missing, never altered, checked if they exist."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code
from msgspec import Struct

from tidings.storage.loggers import get_logger
from tidings.streams.log.factory import LogOptions
from tidings.streams.log.kafka.errors import STOP_SECONDS, bounded, refused_login
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    DELIVERIES,
    EVENTS,
    TEXT,
    TEXT_SECONDS,
    LogMisconfigured,
    LogUnavailable,
    TopicMissing,
)
from tidings.streams.log.size_limits import HEADROOM

logger = get_logger(__name__)

_DEAD_LETTERS_SECONDS = 14 * 86_400
_TEXT_SEGMENT_SECONDS = 60
"""Only whole segments are removed, and Kafka's default is a week."""
_NOT_ALLOWED = frozenset({29, 31})
"""TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED."""
_UNKNOWN_TOPIC = 3
"""Kafka's error code UNKNOWN_TOPIC_OR_PARTITION."""


class Cluster(Struct, frozen=True):
    """What was found at the start."""

    cluster_id: str
    partitions: dict[str, int]
    """Per topic, named without prefix."""


def _wanted(options: LogOptions) -> dict[str, dict[str, str]]:
    """Per topic its configuration if we create it."""
    forever = -1
    changes = options.changes_retention * 1000 or forever
    room = {"max.message.bytes": str(options.max_body + HEADROOM)}
    wanted = {
        EVENTS: {"retention.ms": str(options.retention * 1000), **room},
        CHANGES: {"cleanup.policy": "compact,delete", "retention.ms": str(changes), **room},
        DEAD_LETTERS: {"retention.ms": str(_DEAD_LETTERS_SECONDS * 1000), **room},
        TEXT: {
            "cleanup.policy": "delete",
            "retention.ms": str(TEXT_SECONDS * 1000),
            "segment.ms": str(_TEXT_SEGMENT_SECONDS * 1000),
            **room,
        },
    }
    if options.deliveries:
        kept = options.deliveries_retention * 1000 or forever
        wanted[DELIVERIES] = {
            "cleanup.policy": "compact,delete",
            "retention.ms": str(kept),
            **room,
        }
    return wanted


async def prepare(arguments: dict[str, Any], options: LogOptions) -> Cluster:
    """Create what is missing and check what is there.

    Raises `LogMisconfigured` for a topic that does not fit and `LogUnavailable` if the cluster does not answer.
    """
    async with _admin(arguments) as admin:
        cluster_id = str((await admin.describe_cluster())["cluster_id"])
        wanted = {
            options.topic_prefix + name: settings for name, settings in _wanted(options).items()
        }
        found = await _partition_counts(admin, list(wanted))
        events, text = options.topic_prefix + EVENTS, options.topic_prefix + TEXT
        partitions = found.get(events, options.partitions)
        if not options.create:  # a command on a log of a version that had no texts
            wanted = {name: one for name, one in wanted.items() if name in found or name != text}
        missing = [name for name in wanted if name not in found]
        if missing and not options.create:
            raise TopicMissing(
                f"topic {missing[0]} does not exist; start the service first, which creates it"
            )
        standing = set(found)
        if missing:
            # What stood all along may be missing from metadata that lag: it is checked like the others.
            standing |= await _create(admin, {name: wanted[name] for name in missing}, partitions)
            found = await _partition_counts(admin, list(wanted))
            partitions = found.get(events, partitions)
        for name, count in found.items():
            if count < partitions:
                raise LogMisconfigured(
                    f"topic {name} has {count} partitions and {events} has {partitions}; "
                    f"give it as many: kafka-topics.sh --alter --topic {name} --partitions {partitions}"
                )
        if standing:
            await _check_room(admin, sorted(standing), options.max_body)
        own = len(options.topic_prefix)
        return Cluster(cluster_id, {name[own:]: count for name, count in found.items()})


@contextlib.asynccontextmanager
async def _admin(arguments: dict[str, Any]) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**arguments, request_timeout_ms=10_000)
    servers = ",".join(arguments["bootstrap_servers"])
    try:
        try:
            async with bounded(
                9, f"Kafka at {servers} does not answer (is it running, is the address right?)"
            ):
                await admin.start()
        except LogUnavailable:
            if (refused := await refused_login(arguments)) is not None:
                raise LogMisconfigured(f"Kafka at {servers}: {refused}") from None
            raise
        async with bounded(9, f"Kafka at {servers} does not answer"):
            yield admin
    finally:
        with contextlib.suppress(LogUnavailable):
            async with bounded(STOP_SECONDS, "disconnecting"):
                await admin.close()


async def _partition_counts(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, int]:
    """The partitions of those topics that exist."""
    counts: dict[str, int] = {}
    for topic in await admin.describe_topics(names):
        if topic["error_code"] == 0:
            counts[topic["topic"]] = len(topic["partitions"])
        elif topic["error_code"] != _UNKNOWN_TOPIC:
            error = for_code(topic["error_code"])
            raise LogMisconfigured(f"topic {topic['topic']} cannot be described: {error.__name__}")
    return counts


async def _create(
    admin: AIOKafkaAdminClient, topics: dict[str, dict[str, str]], partitions: int
) -> set[str]:
    """Create topics, with the broker's default replication; returns those that somebody else had created already."""
    standing: set[str] = set()
    new = [
        # An empty assignment together with -1 leaves the replication to the broker's default.
        NewTopic(name, partitions, -1, replica_assignments={}, topic_configs=settings)
        for name, settings in topics.items()
    ]
    answer = await admin.create_topics(new)
    for name, code, *rest in answer.topic_errors:
        error = for_code(code)
        if error is TopicAlreadyExistsError:
            standing.add(name)
        elif code:
            reason = rest[0] if rest and rest[0] else error.__name__
            raise LogMisconfigured(
                f"topic {name} cannot be created: {reason}; create it by hand or grant the right"
            )
    # The metadata lag behind the answer.
    while True:
        counts = await _partition_counts(admin, list(topics))
        if len(counts) == len(topics) and all(count for count in counts.values()):
            return standing
        await asyncio.sleep(0.05)


async def _check_room(admin: AIOKafkaAdminClient, names: list[str], max_body: int) -> None:
    needed = max_body + HEADROOM
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": None})
        for name in names
    ]
    for answer in await admin.describe_configs(resources):
        for code, message, _, name, entries in answer.resources:
            if code in _NOT_ALLOWED:
                logger.warning(
                    "log.right.missing",
                    right="DescribeConfigs",
                    topic=name,
                    consequence="whether the topic has room for the largest body is not known",
                    grant="kafka-acls.sh --bootstrap-server HOST --add --allow-principal User:NAME "
                    f"--operation DescribeConfigs --topic {name}",
                )
                continue
            if code:
                raise LogMisconfigured(
                    f"topic {name} cannot be described: {message or for_code(code).__name__}"
                )
            for key, value, *_ in entries:
                if key == "max.message.bytes" and int(value) < needed:
                    raise LogMisconfigured(
                        f"topic {name} takes {value} bytes a record and TIDINGS_MAX_BODY needs {needed}; lower it, or "
                        f"raise the topic's: kafka-configs.sh --alter --entity-type topics --entity-name {name} "
                        f"--add-config max.message.bytes={needed}"
                    )
