"""The metrics of a gateway: one table with the name, the meaning and the source of each."""

from collections.abc import Callable
from dataclasses import dataclass

from tidings.gateway.api.webhook_counts import WebhookCounts
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.session_registry import SessionRegistry
from tidings.gateway.push.text_cursors import TextAudience
from tidings.gateway.push.text_hub import TextHub
from tidings.observability.metrics import Family, Sample, by_name


@dataclass(frozen=True)
class GatewayParts:
    """What a gateway's metrics are read from."""

    sessions: SessionRegistry
    reader: ChangesReader
    hub: Hub
    webhooks: WebhookCounts
    event_streams: Callable[[], int]
    texts: TextHub
    held: HeldBytes


def _webhooks(parts: GatewayParts) -> list[Sample]:
    answers = sorted(parts.webhooks.answers.items())
    return [((provider or "unknown", str(status)), count) for (provider, status), count in answers]


def _readers(
    figure: Callable[[TextAudience], float],
) -> Callable[[GatewayParts], list[Sample]]:
    return lambda parts: [((kind,), figure(one)) for kind, one in parts.texts.audiences.items()]


GATEWAY: tuple[Family[GatewayParts], ...] = (
    Family(
        "tidings_webhooks_total",
        "counter",
        "Webhooks by provider and status of the answer.",
        _webhooks,
        ("provider", "status"),
    ),
    Family(
        "tidings_webhooks_refused_total",
        "counter",
        "Webhooks that were not taken, by provider and reason.",
        lambda parts: [
            ((name or "unknown", code), count)
            for (name, code), count in sorted(parts.webhooks.refusals.items())
        ],
        ("provider", "reason"),
    ),
    Family(
        "tidings_webhook_seconds",
        "histogram",
        "From a webhook's last byte to its being durable.",
        lambda parts: parts.webhooks.seconds,
    ),
    Family(
        "tidings_sessions", "gauge", "WebSocket sessions open.", lambda parts: len(parts.sessions)
    ),
    Family(
        "tidings_event_streams", "gauge", "Event streams open.", lambda parts: parts.event_streams()
    ),
    Family(
        "tidings_held_bytes",
        "gauge",
        "Bytes held in memory on behalf of clients and senders, by what they are held for.",
        lambda parts: [((kind,), size) for kind, size in parts.held.by_kind.items()],
        ("kind",),
    ),
    Family(
        "tidings_sessions_opened_total",
        "counter",
        "Sessions opened.",
        lambda parts: parts.sessions.opened,
    ),
    Family(
        "tidings_sessions_closed_total",
        "counter",
        "Sessions that the gateway closed, by close code.",
        lambda parts: by_name(parts.sessions.closed),
        ("code",),
    ),
    Family(
        "tidings_sessions_backed_up",
        "gauge",
        "Sessions whose client reads too slowly at the moment.",
        lambda parts: parts.sessions.backlog()[0],
    ),
    Family(
        "tidings_messages_buffered",
        "gauge",
        "Messages that wait for such clients.",
        lambda parts: parts.sessions.backlog()[1],
    ),
    Family(
        "tidings_conflated_total",
        "counter",
        "Changes that a newer one replaced while they waited.",
        lambda parts: parts.sessions.conflated,
    ),
    Family(
        "tidings_changes_total",
        "counter",
        "Changes read from the log.",
        lambda parts: parts.reader.changes,
    ),
    Family(
        "tidings_change_to_push_seconds",
        "histogram",
        "From the announcement of a change to its being handed to every session that watches it; of those read at once "
        "the oldest.",
        lambda parts: parts.reader.to_push,
    ),
    Family(
        "tidings_changes_caught_up",
        "gauge",
        "1 while the reader of the changes follows.",
        lambda parts: float(parts.reader.caught_up),
    ),
    Family(
        "tidings_deliveries_total",
        "counter",
        "Changes handed to sessions, one for each that got it.",
        lambda parts: parts.hub.deliveries,
    ),
    Family(
        "tidings_text_readers",
        "gauge",
        "Readers that are sent texts in pieces, by kind: websocket sessions, streams of events, streams of one text.",
        _readers(len),
        ("kind",),
    ),
    Family(
        "tidings_text_readers_behind",
        "gauge",
        "Those that are still to be sent something of a text.",
        _readers(lambda one: one.behind()[0]),
        ("kind",),
    ),
    Family(
        "tidings_text_behind_bytes",
        "gauge",
        "How many bytes of texts they are still to be sent, together.",
        _readers(lambda one: one.behind()[1]),
        ("kind",),
    ),
    Family(
        "tidings_text_delivered_pieces_total",
        "counter",
        "Messages with pieces of texts, one for each reader that was sent it.",
        _readers(lambda one: one.pieces),
        ("kind",),
    ),
    Family(
        "tidings_text_delivered_bytes_total",
        "counter",
        "The bytes of these messages.",
        _readers(lambda one: one.bytes),
        ("kind",),
    ),
    Family(
        "tidings_text_read_pieces_total",
        "counter",
        "Pieces of texts read from the log.",
        lambda parts: parts.texts.pieces,
    ),
    Family(
        "tidings_text_to_push_seconds",
        "histogram",
        "From the announcement of a piece to its being handed to every reader, the joining window included; of those "
        "told at once the oldest.",
        lambda parts: parts.texts.to_push,
    ),
    Family(
        "tidings_text_caught_up",
        "gauge",
        "1 while the reader of the texts follows.",
        lambda parts: float(parts.texts.caught_up),
    ),
)
