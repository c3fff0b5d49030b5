"""A span for each sampled change that somebody watches, until the last session has got it."""

from collections.abc import Iterator, Sequence

from tidings.gateway.push.hub import Hub
from tidings.streams.changes.codec import Change
from tidings.streams.support.tracing import PREDICTION, Span, Tracing, sampled


def traced(
    tracing: Tracing, hub: Hub, changes: Sequence[Change], fan_out: Iterator[None]
) -> Iterator[None]:
    """The fan-out of these changes, with spans for the sampled ones among them.

    Args:
        tracing: Where spans go.
        hub: Whose fan-out it is; it has not begun.
        changes: Of one batch.
        fan_out: Given on as it is where nothing is sampled.
    """
    spans = [_begin(tracing, hub, change) for change in changes if change.traceparent is not None]
    under_way = [span for span in spans if span is not None]
    return _ended(under_way, fan_out) if under_way else fan_out


def _begin(tracing: Tracing, hub: Hub, change: Change) -> Span | None:
    parent = (change.traceparent or "").encode()
    if not sampled(parent) or change.version <= hub.version(change.prediction_id):
        return None
    watchers = hub.watchers(change)
    if not watchers:
        return None
    about: dict[str, str | int] = {
        PREDICTION: change.prediction_id,
        "tidings.version": change.version,
    }
    return tracing.begin(
        "push", "consumer", parent=parent, attributes={**about, "tidings.watchers": watchers}
    )


def _ended(spans: Sequence[Span], fan_out: Iterator[None]) -> Iterator[None]:
    try:
        yield from fan_out
    finally:
        for span in spans:
            span.end()
