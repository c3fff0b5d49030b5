"""Turning traces on: nothing of OpenTelemetry is imported if nobody wants them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from tidings.config.settings import Settings, SettingsError
from tidings.streams.support.tracing import Tracing


class OpenTracing(Tracing, Protocol):
    """Tracing that can be tried, and has to be closed."""

    @property
    def sent(self) -> int:
        """Spans that the collector has taken."""

    @property
    def lost(self) -> int:
        """Spans that it has not."""

    async def check(self) -> str | None:
        """Ask the collector; gives what is wrong, None if it takes spans."""

    async def close(self) -> None:
        """Send what waits, for a moment, and end."""


def tracing_of(settings: Settings) -> OpenTracing | None:
    """Where the spans go; None: traces are not turned on.

    Raises:
        SettingsError: They are, and what they need is not installed.
    """
    if settings.traces is None:
        return None
    try:
        # Imported when it is wanted: it is not installed everywhere, and takes a third of a second
        # and 15 MB.
        from tidings.observability.open_telemetry import Traces
    except ImportError as error:
        origin, lacking = (
            settings.origins.get("traces", "TIDINGS_TRACES"),
            (error.name or "it").partition(".")[0],
        )
        raise SettingsError(
            f"{origin}: traces need OpenTelemetry, and {lacking} is not installed; "
            "install tidings[otel], or leave the setting out"
        ) from None
    return Traces(settings.traces, settings.trace_sample)


@asynccontextmanager
async def tracing(settings: Settings) -> AsyncIterator[OpenTracing | None]:
    """As `tracing_of` gives it; what waits is sent when the block ends."""
    traces = tracing_of(settings)
    try:
        yield traces
    finally:
        if traces is not None:
            await traces.close()
