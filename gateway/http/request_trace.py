"""The spans of one sampled request that appends an event: the request, and its append."""

from collections.abc import Mapping

from tidings.streams.log.protocol import EVENTS
from tidings.streams.support.tracing import PREDICTION, Tracing, valid


class RequestTrace:
    """Begun once the caller is known or the webhook is proven: strangers make no spans.

    Args:
        tracing: Where spans go.
        name: Method and route, such as `PATCH /api/predictions/{id}`.
        prediction_id: What it is about, if that is known.
        incoming: The `traceparent` that it came with.
        received: When it had come, in seconds since the epoch.
        about: Further attributes of the request's span.
    """

    __slots__ = ("_append", "_request")

    def __init__(
        self,
        tracing: Tracing,
        name: str,
        prediction_id: str | None,
        incoming: str | None,
        received: float,
        about: Mapping[str, str],
    ) -> None:
        attributes: dict[str, str | int] = {"http.request.method": name.partition(" ")[0], **about}
        if prediction_id is not None:
            attributes[PREDICTION] = prediction_id
        self._request = tracing.begin(
            name,
            "server",
            parent=incoming.encode() if incoming is not None else None,
            at=int(received * 1e9),
            attributes=attributes,
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
    tracing: Tracing | None,
    name: str,
    prediction_id: str | None,
    incoming: str | None,
    received: float,
    **about: str,
) -> tuple[RequestTrace | None, bytes | None]:
    """The spans of a request if it is sampled, and the `traceparent` that its event carries on.

    What is not sampled carries on what it came with, if that is one.
    """
    if incoming is not None and not valid(incoming):
        incoming = None
    if tracing is None or not tracing.chosen(incoming):
        return None, incoming.encode() if incoming is not None else None
    about = {f"tidings.{key}": value for key, value in about.items()}
    trace = RequestTrace(tracing, name, prediction_id, incoming, received, about)
    return trace, trace.traceparent
