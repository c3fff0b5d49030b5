"""Calling the Kafka client: each call is bounded, and whatever it raises becomes an error of the log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from tidings.streams.log.protocol import LogMisconfigured, LogUnavailable

_LOGIN = (
    AuthenticationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
_RIGHTS: dict[type[KafkaError], tuple[str, str]] = {
    ClusterAuthorizationFailedError: ("a right on the cluster", "--cluster"),
    GroupAuthorizationFailedError: ("Read on the group", "--operation Read --group GROUP"),
    TopicAuthorizationFailedError: (
        "Describe, Read and Write on the topic",
        "--operation Describe --operation Read --operation Write --topic TOPIC",
    ),
}
"""What each refusal lacks, and how it is granted."""
STOP_SECONDS = 5.0


@contextlib.asynccontextmanager
async def bounded(seconds: float | None, failed: str) -> AsyncIterator[None]:
    """A context for calls of the client.

    Args:
        seconds: how long they may take together.
        failed: what to say if they fail; the cause is appended.

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
    except _LOGIN as error:
        raise LogMisconfigured(f"{failed}: {login_refused(error)}") from error
    except tuple(_RIGHTS) as error:
        raise LogMisconfigured(f"{failed}: {_cause(error)}; {right_missing(error)}") from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(f"{failed}: {_cause(error)}") from error
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        raise LogUnavailable(f"{failed}: the connection broke") from error


def login_refused(error: KafkaError) -> str:
    """What to say of a login that the broker did not take; never with a password."""
    return (
        f"the broker refused the login ({_cause(error)}); check sasl_mechanism, sasl_plain_username and "
        "sasl_plain_password in the URL"
    )


def right_missing(error: KafkaError) -> str:
    """The right that a refusal lacks, and the command that grants it."""
    right, how = _RIGHTS[type(error)]
    return f"{right} is missing; grant it: kafka-acls.sh --bootstrap-server HOST --add --allow-principal User:NAME {how}"


async def refused_login(arguments: dict[str, Any]) -> str | None:
    """Whether a broker answers and refuses the login, which the client's own start-up hides; None: it does not say so."""
    for address in arguments["bootstrap_servers"]:
        host, _, port = address.rpartition(":")
        login = {name: value for name, value in arguments.items() if name != "bootstrap_servers"}
        try:
            async with asyncio.timeout(STOP_SECONDS):
                connection = await create_conn(host.strip("[]"), int(port), **login)
        except _LOGIN as error:
            return login_refused(error)
        except (KafkaError, OSError, TimeoutError):
            continue
        connection.close()
    return None


async def stop(client: Any) -> None:
    """Stop a consumer in bounded time, whatever state it is in."""
    with contextlib.suppress(LogUnavailable, LogMisconfigured):
        async with bounded(STOP_SECONDS, "stopping"):
            await client.stop()


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
