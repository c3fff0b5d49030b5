"""What the errors of a Redis or Valkey server, and of its driver, mean."""

from redis import exceptions

from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable

_CLUSTER = (
    exceptions.ClusterDownError
    | exceptions.ClusterError
    | exceptions.MovedError
    | exceptions.RedisClusterException
    | exceptions.SlotNotCoveredError
)
"""A cluster that is not whole, or changes faster than it can be asked."""


def meaning(error: Exception, shown: str, *, clustered: bool) -> StorageError:
    """What an error of the driver means to whoever uses the store.

    Args:
        error: The driver's.
        shown: The store, without its password.
        clustered: Whether commands are spread over the nodes of a cluster.
    """
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return StoreUnavailable(
            f"{shown} did not answer in time; look at its load and at the network"
        )
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return StoreMisconfigured(f"{shown} refuses the user or password: {error}")
    if isinstance(error, exceptions.NoPermissionError):
        return StoreMisconfigured(f"{shown}: {error}; give the user the right")
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM command" in str(error):
        return StoreUnavailable(
            f"{shown} has reached its maxmemory; raise it or shorten the retention"
        )
    if isinstance(error, exceptions.MovedError) and not clustered:
        return StoreMisconfigured(
            f"{shown} has become one node of a cluster of several; start again"
        )
    if isinstance(error, exceptions.AskError) and not isinstance(error, exceptions.MovedError):
        return StoreUnavailable(
            f"{shown} moves a slot to another node just now ({error}); wait until it has"
        )
    if isinstance(
        error, OSError | exceptions.ConnectionError | exceptions.ReadOnlyError | _CLUSTER
    ):
        return StoreUnavailable(f"{shown} cannot be used now: {error}")
    text = str(error)
    if text.startswith(
        ("MISCONF", "LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED")
    ):
        return StoreUnavailable(f"{shown}: {text}")
    if text.startswith(("NOAUTH", "WRONGPASS")):
        return StoreMisconfigured(f"{shown} refuses the user or password: {text}")
    if "WRONGTYPE" in text or "DB index" in text or "unknown command" in text:
        return StoreMisconfigured(
            f"{shown}: {text}; choose another ?prefix=, database or a newer server"
        )
    return StorageError(f"{shown}: {text}")
