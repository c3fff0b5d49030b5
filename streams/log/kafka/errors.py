"""Calling the Kafka client: each call is bounded, and whatever it raises becomes an error of the log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from tidings.streams.log.protocol import LogMisconfigured, LogUnavailable

_FORBIDDEN = (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
)
STOP_SECONDS = 5.0


@contextlib.asynccontextmanager
async def bounded(seconds: float | None, failed: str) -> AsyncIterator[None]:
    """A context for calls of the client.

    Args:
        seconds: how long they may take together.
        failed: what to say where they fail; the cause is appended.

    Raises:
        LogMisconfigured: A right is missing.
        LogUnavailable: Anything else. That includes a cancellation which nobody asked for: when a connection breaks,
            the client cancels the futures of its own callers.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        async with asyncio.timeout(seconds):
            yield
    except _FORBIDDEN as error:
        raise LogMisconfigured(
            f"{failed}: {_cause(error)}; grant the right, or check the credentials"
        ) from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(f"{failed}: {_cause(error)}") from error
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        raise LogUnavailable(f"{failed}: the connection broke") from error


async def stop(client: Any) -> None:
    """Stop a consumer in bounded time, whatever state it is in."""
    with contextlib.suppress(LogUnavailable, LogMisconfigured):
        async with bounded(STOP_SECONDS, "stopping"):
            await client.stop()


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
