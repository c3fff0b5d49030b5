"""The stream of a provider that writes an answer, as pure data: where it is read, and what its events say."""

from typing import Protocol, runtime_checkable

from msgspec import Raw, Struct

from tidings.streams.providers.job_api import Call
from tidings.streams.support.event_stream import ServerEvent


class StreamedPiece(Struct, frozen=True):
    """What one event says."""

    text: str = ""
    number: int | None = None
    """The event's own, after which the stream can be resumed; None: it is read from its beginning."""
    over: bool = False
    """Nothing follows."""


NOTHING = StreamedPiece()


@runtime_checkable
class StreamingApi(Protocol):
    """A provider whose answers can be read while they are written."""

    def stream(self, provider_id: str, urls: Raw, after: int | None) -> Call | None:
        """Read the answer of a job; None: it has no stream, or none at the provider.

        Args:
            provider_id: Of the job.
            urls: What the provider said of its addresses.
            after: The number of the last event that is known; None: from the beginning.
        """

    def piece(self, event: ServerEvent) -> StreamedPiece:
        """What an event says. Raises ValueError for one that cannot be read."""
