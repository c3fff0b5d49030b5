"""The metrics of each part: one table a part with the name, meaning and source of each metric."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tidings.observability.metrics import Family, Kind, Sample, by_name
from tidings.observability.traces import OpenTracing
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.archive.worker import Archiver
from tidings.streams.changes.projecting import Projecting
from tidings.streams.lifecycle.deadlines import Deadlines
from tidings.streams.lifecycle.groups import Groups
from tidings.streams.lifecycle.retries import Retries
from tidings.streams.log.instrumented import Appends, ObservedLog
from tidings.streams.log.protocol import Log
from tidings.streams.notifications.notifier import Notifier
from tidings.streams.submission.reconciler import Reconciler
from tidings.streams.submission.submitter import Submitter
from tidings.streams.submission.text_readers import TextReaders
from tidings.streams.submission.throttle import ProviderThrottle

if TYPE_CHECKING:
    from tidings.observability.health import HealthMonitor


@dataclass(frozen=True)
class ProviderSources:
    """What the metrics of the work with providers are read from."""

    throttles: Mapping[str, ProviderThrottle]
    """By provider."""
    submissions: Callable[[], Submitter | None]
    reconciler: Callable[[], Reconciler | None]
    deadlines: Callable[[], Deadlines | None]
    retries: Callable[[], Retries | None]
    groups: Callable[[], Groups | None]
    texts: Callable[[], TextReaders | None]
    """All of these are there only while this process does that work."""


# ---- every role ----

SERVICE: tuple[Family["HealthMonitor"], ...] = (
    Family(
        "tidings_build_info",
        "gauge",
        "1, with the version.",
        lambda o: [((o.version,), 1)],
        ("version",),
    ),
    Family(
        "tidings_loop_delay_seconds",
        "gauge",
        "By how much the event loop was late the last time it was looked at.",
        lambda o: o.loop_delay,
    ),
    Family(
        "tidings_loop_stall_seconds",
        "histogram",
        "Stalls of the event loop: how long one piece of work held up all others, from 50 ms on.",
        lambda o: o.stalls.seconds,
    ),
    Family(
        "tidings_lag_records",
        "gauge",
        "Records that a reader (events: the processor; changes: the gateway) has not passed yet.",
        lambda o: [
            ((reader, str(partition)), records)
            for reader, progress in o.progress.items()
            for partition, records in sorted(progress.partitions.items())
        ],
        ("reader", "partition"),
    ),
    Family(
        "tidings_lag_seconds",
        "gauge",
        "For how long the oldest record that a reader has not passed has waited.",
        lambda o: [((reader,), progress.seconds) for reader, progress in o.progress.items()],
        ("reader",),
    ),
    Family(
        "tidings_stuck",
        "gauge",
        "1 if a reader needs a restart to go on; /healthz fails then.",
        lambda o: float(o.alive() is not None),
    ),
)

# ---- the log ----


def _appends(log: Log) -> Iterator[tuple[str, Appends]]:
    if isinstance(log, ObservedLog):
        yield from log.appends.items()


LOG: tuple[Family[Log], ...] = (
    Family(
        "tidings_log_appended_records_total",
        "counter",
        "Records that the log has taken.",
        lambda log: [((topic,), appends.records) for topic, appends in _appends(log)],
        ("topic",),
    ),
    Family(
        "tidings_log_append_errors_total",
        "counter",
        "Appends that the log did not take, or did not answer in time.",
        lambda log: [((topic,), appends.failed) for topic, appends in _appends(log)],
        ("topic",),
    ),
    Family(
        "tidings_log_append_seconds",
        "histogram",
        "Time of an append until it is durable.",
        lambda log: [((topic,), appends.seconds) for topic, appends in _appends(log)],
        ("topic",),
    ),
)

# ---- the cache ----

CACHE: tuple[Family[CachedStore], ...] = (
    Family(
        "tidings_cache_hits_total",
        "counter",
        "Reads answered from memory.",
        lambda cache: cache.hits,
    ),
    Family(
        "tidings_cache_misses_total",
        "counter",
        "Reads that went to the store.",
        lambda cache: cache.misses,
    ),
    Family("tidings_cache_entries", "gauge", "Records in memory.", len),
    Family(
        "tidings_cache_bytes", "gauge", "About how many bytes they take.", lambda cache: cache.size
    ),
)

# ---- the processor ----


def _outcomes(monitor: "HealthMonitor") -> list[Sample]:
    figures = monitor.processor.statistics
    return [
        (("applied",), figures.applied),
        (("duplicate",), figures.duplicates),
        (("stale",), figures.stale - figures.behind),
        (("behind",), figures.behind),
        (("dead-letter",), sum(figures.dead_letters.values())),
    ]


PROCESSOR: tuple[Family["HealthMonitor"], ...] = (
    Family(
        "tidings_processor_records_total",
        "counter",
        "Records processed.",
        lambda o: o.processor.statistics.records,
    ),
    Family(
        "tidings_processor_batches_total",
        "counter",
        "Batches processed; records by batches is their size.",
        lambda o: o.processor.statistics.batches,
    ),
    Family(
        "tidings_processor_events_total",
        "counter",
        "Events by what became of them: applied, duplicate, stale (said nothing new), behind (of a status that had "
        "passed), dead-letter.",
        _outcomes,
        ("outcome",),
    ),
    Family(
        "tidings_dead_letters_total",
        "counter",
        "Records put into the dead letters, by reason; contradiction, owner, provider-id and strict are rejections.",
        lambda o: by_name(o.processor.statistics.dead_letters),
        ("reason",),
    ),
    Family(
        "tidings_processor_conflicts_total",
        "counter",
        "Writes that met a newer version and were judged again.",
        lambda o: o.processor.statistics.conflicts,
    ),
    Family(
        "tidings_processor_unknown_fields_total",
        "counter",
        "Fields of events that nobody knows, left out.",
        lambda o: o.processor.statistics.unknown_fields,
    ),
    Family(
        "tidings_processor_fields_left_out_total",
        "counter",
        "Fields of providers' webhooks that did not fit, left out.",
        lambda o: sorted(o.processor.statistics.left_out.items()),
        ("provider", "field"),
    ),
    Family(
        "tidings_processor_other_resources_total",
        "counter",
        "Webhooks about something else than a prediction, and tombstones (no provider), set aside.",
        lambda o: sorted(o.processor.statistics.other_resources.items()),
        ("provider", "kind"),
    ),
    Family(
        "tidings_processor_pauses_total",
        "counter",
        "Times that processing paused because the store or the log was out.",
        lambda o: o.processor.statistics.pauses,
    ),
    Family(
        "tidings_processor_paused",
        "gauge",
        "1 while it waits for the store or the log.",
        lambda o: float(o.processor.obstacle is not None),
    ),
    Family(
        "tidings_text_pieces_total",
        "counter",
        "Pieces of growing texts announced between two records.",
        lambda o: o.processor.texts.announced,
    ),
    Family(
        "tidings_text_held",
        "gauge",
        "Predictions whose texts have grown since their records were written.",
        lambda o: len(o.processor.texts.held),
    ),
    Family(
        "tidings_text_held_bytes",
        "gauge",
        "About how many bytes these hold in memory; 64 MiB at most.",
        lambda o: o.processor.texts.size,
    ),
    Family(
        "tidings_processor_breaker_open",
        "gauge",
        "1 if a flood of poison has stopped the processor.",
        lambda o: float(o.breaker_reason is not None),
    ),
    Family(
        "tidings_processor_silent_seconds",
        "gauge",
        "Since the processor's loop last went round; half a second when idle.",
        lambda o: max(0.0, time.monotonic() - o.processor.statistics.last_alive),
    ),
    Family(
        "tidings_processor_stage_seconds",
        "histogram",
        "Time that a batch spends in each stage of the commit.",
        lambda o: [((stage,), spent) for stage, spent in o.processor.statistics.stages.items()],
        ("stage",),
    ),
    Family(
        "tidings_event_to_change_seconds",
        "histogram",
        "From an event's append to the announcement of its change.",
        lambda o: o.processor.statistics.to_change,
    ),
)

# ---- stores that take their time ----

PROJECTION: tuple[Family[Projecting], ...] = (
    Family(
        "tidings_store_writes_buffered",
        "gauge",
        "Writes that are announced, and that the store (Cloudflare KV) has not taken yet.",
        lambda store: store.buffered,
    ),
)

# ---- traces ----

TRACES: tuple[Family[OpenTracing], ...] = (
    Family(
        "tidings_spans_total",
        "counter",
        "Spans by what became of them: sent to the collector, or lost because it did not take them.",
        lambda traces: [(("sent",), traces.sent), (("lost",), traces.lost)],
        ("result",),
    ),
)

# ---- the archiver ----

ARCHIVER: tuple[Family[Archiver], ...] = (
    Family(
        "tidings_archived_files_total", "counter", "Outputs kept.", lambda one: one.transfer.files
    ),
    Family(
        "tidings_archived_bytes_total", "counter", "Their bytes.", lambda one: one.transfer.bytes
    ),
    Family(
        "tidings_archive_failures_total",
        "counter",
        "Outputs that could not be had for good.",
        lambda one: one.transfer.failures,
    ),
    Family(
        "tidings_archive_retries_total",
        "counter",
        "Downloads tried again.",
        lambda one: one.retried,
    ),
    Family(
        "tidings_archive_waiting",
        "gauge",
        "Predictions whose files are on their way.",
        lambda one: one.waiting,
    ),
)

# ---- the notifier ----

NOTIFIER: tuple[Family[Notifier], ...] = (
    Family(
        "tidings_notifications_total",
        "counter",
        "Webhooks to other servers by what became of them: taken; failed, to be tried again or not; "
        "given up as dead letters.",
        lambda one: [
            (("delivered",), one.dispatcher.delivered),
            (("failed",), one.dispatcher.failed),
            (("given_up",), one.dispatcher.given_up),
        ],
        ("result",),
    ),
    Family(
        "tidings_notifications_waiting",
        "gauge",
        "Webhooks to other servers that are not taken yet.",
        lambda one: one.dispatcher.waiting,
    ),
    Family(
        "tidings_notification_addresses_off",
        "gauge",
        "Addresses that are switched off, because they failed for good.",
        lambda one: len(one.dispatcher.switched_off),
    ),
)

# ---- work with providers ----


def _throttles(sources: ProviderSources, name: str) -> list[Sample]:
    return [
        ((provider,), getattr(throttle, name))
        for provider, throttle in sorted(sources.throttles.items())
    ]


_STREAMS: tuple[tuple[str, Kind, str, str], ...] = (
    ("s", "gauge", "open", "Answers that are read at their providers at the moment."),
    ("_pieces_total", "counter", "appended", "Pieces of such answers appended."),
    ("_bytes_total", "counter", "appended_bytes", "Their bytes."),
    ("_waiting_bytes", "gauge", "waiting", "Bytes read there and not in the log yet."),
)


def _streams(sources: ProviderSources, name: str) -> float:
    return 0 if (one := sources.texts()) is None else float(getattr(one, name))


PROVIDERS: tuple[Family[ProviderSources], ...] = (
    *(
        Family(
            f"tidings_provider_{name}_total",
            "counter",
            meaning,
            partial(_throttles, name=attribute),
            ("provider",),
        )
        for name, attribute, meaning in (
            ("calls", "calls", "Calls of providers."),
            ("errors", "failed", "Calls of providers that failed."),
            ("throttled", "throttled", "Calls that a provider answered with 429."),
        )
    ),
    Family(
        "tidings_submissions_total",
        "counter",
        "Predictions handed to their provider, by result.",
        lambda sources: (
            []
            if (one := sources.submissions()) is None
            else [
                (("submitted",), one.submitted),
                (("refused",), one.refused),
                (("unknown",), one.unknown),
            ]
        ),
        ("result",),
    ),
    Family(
        "tidings_reconciled_total",
        "counter",
        "Predictions that the reconciler took care of, by need.",
        lambda sources: [] if (one := sources.reconciler()) is None else by_name(one.done),
        ("need",),
    ),
    Family(
        "tidings_reconciler_watched",
        "gauge",
        "Unfinished predictions that the reconciler keeps an eye on.",
        lambda sources: 0 if (one := sources.reconciler()) is None else len(one),
    ),
    Family(
        "tidings_deadlines_waiting",
        "gauge",
        "Unfinished predictions with a deadline.",
        lambda sources: 0 if (one := sources.deadlines()) is None else len(one),
    ),
    Family(
        "tidings_deadlines_told_total",
        "counter",
        "Events appended for deadlines that passed, repeats included.",
        lambda sources: 0 if (one := sources.deadlines()) is None else one.told,
    ),
    Family(
        "tidings_retries_total",
        "counter",
        "Attempts created for predictions that are tried again.",
        lambda sources: 0 if (one := sources.retries()) is None else one.created,
    ),
    Family(
        "tidings_groups_unfinished",
        "gauge",
        "Groups of which a member has not ended.",
        lambda sources: 0 if (one := sources.groups()) is None else len(one),
    ),
    *(
        Family(f"tidings_provider_stream{name}", kind, meaning, partial(_streams, name=attribute))
        for name, kind, attribute, meaning in _STREAMS
    ),
)
