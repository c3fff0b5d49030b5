"""The spans of one sampled webhook: its request, and within it the append to the log."""

from streams.log import EVENTS
from streams.tracing import PREDICTION, Tracing, valid


class WebhookTrace:
    """Begun once the webhook is proven: strangers make no spans.

    Args:
        tracing: Where spans go.
        provider: Whose webhook it is.
        prediction_id: What it is about, where that is known.
        incoming: The `traceparent` that it came with.
        received: When it had come, in seconds since the epoch.
    """

    __slots__ = ("_append", "_request")

    def __init__(
        self, tracing: Tracing, provider: str, prediction_id: str | None, incoming: str | None, received: float
    ) -> None:
        about: dict[str, str | int] = {"http.request.method": "POST", "tidings.provider": provider}
        if prediction_id is not None:
            about[PREDICTION] = prediction_id
        self._request = tracing.begin(
            "POST /api/webhooks/{provider}",
            "server",
            parent=incoming.encode() if incoming is not None else None,
            at=int(received * 1e9),
            attributes=about,
        )
        self._append = tracing.begin(
            "send predictions.events",
            "producer",
            parent=self._request.traceparent,
            attributes={"messaging.destination.name": EVENTS},
        )

    @property
    def traceparent(self) -> bytes:
        """What the event carries on."""
        return self._append.traceparent

    def end(self, failure: str | None = None) -> None:
        """It is durable, or was not taken for this reason."""
        self._append.end(failure=failure)
        self._request.end(failure=failure)


def begun(
    tracing: Tracing | None, provider: str, prediction_id: str | None, incoming: str | None, received: float
) -> tuple[WebhookTrace | None, bytes | None]:
    """The spans of a webhook where it is sampled, and the `traceparent` that its event carries on.

    What is not sampled carries on what it came with, if that is one.
    """
    if incoming is not None and not valid(incoming):
        incoming = None
    if tracing is None or not tracing.chosen(incoming):
        return None, incoming.encode() if incoming is not None else None
    trace = WebhookTrace(tracing, provider, prediction_id, incoming, received)
    return trace, trace.traceparent
