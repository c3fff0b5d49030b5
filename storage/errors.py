"""What can go wrong with a store.

```
StorageError
├── StoreUnavailable      a retry helps: locked, full, unreachable
├── IndexBehind           a retry helps later: what it finds and sums by is not up to date yet
├── StoreMisconfigured    fix the settings: a bad URL, a missing driver, missing rights
├── StoreOwned            the store belongs to another log, or to one at all
├── AlreadyExists         the library's door: `initialize` on a standing id
├── NotFound              the library's door: no such prediction
└── InvalidTransition     the library's door: the rules forbid it
```

What repeats the text of a driver passes the redactor: drivers put URLs, settings and headers into
their exceptions.
"""

from tidings.storage.redaction import redact


class StorageError(Exception):
    """The store could not do what was asked."""

    #: Whether the same call may succeed later without anybody fixing anything.
    retryable = False


class StoreUnavailable(StorageError):
    """The store cannot answer right now; the same call may succeed later."""

    retryable = True

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class IndexBehind(StorageError):
    """What the store finds and sums by lacks records; all else is answered.

    No `StoreUnavailable`: nothing is out, and no copy knows more.
    """

    retryable = True

    def __init__(self, left: int) -> None:
        super().__init__(f"{left} records are not in the store's index yet; ask again in a while")
        self.left = left


class StoreMisconfigured(StorageError):
    """The store's URL, driver, schema or rights are wrong; the settings need fixing."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class StoreOwned(StorageError):
    """The store belongs to another log, or to a log although none was expected."""


class AlreadyExists(StorageError):
    """A prediction with this id exists already."""

    def __init__(self, prediction_id: str) -> None:
        super().__init__(
            f"prediction {prediction_id!r} exists already; choose another id or update it"
        )
        self.prediction_id = prediction_id


class NotFound(StorageError):
    """No prediction has this id."""

    def __init__(self, prediction_id: str) -> None:
        super().__init__(f"prediction {prediction_id!r} not found; initialize it first")
        self.prediction_id = prediction_id


class InvalidTransition(StorageError):
    """The rules do not let the prediction go from its status to the one asked for."""

    def __init__(self, current: str, wanted: str) -> None:
        super().__init__(f"Invalid transition from {current} to {wanted}")
        self.current = current
        self.wanted = wanted
