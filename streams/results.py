"""The envelope of the original interface, for programs that port from it: `as_result`."""

from collections.abc import Awaitable
from typing import Any

from tidings.storage.errors import AlreadyExists, InvalidTransition, NotFound, StorageError
from tidings.storage.prediction import Prediction

_CODES: tuple[tuple[type[Exception], str], ...] = (
    (NotFound, "NOT_FOUND"),
    (AlreadyExists, "ALREADY_EXISTS"),
    (InvalidTransition, "INVALID_TRANSITION"),
    (StorageError, "STORAGE_ERROR"),
    (ValueError, "INVALID"),
)
"""The first that fits, in this order."""


async def as_result(call: Awaitable[Any]) -> dict[str, Any]:
    """What a call gave as `{"success": True, "data": ...}`; what it raised as the failure that it is.

    ```python
    answer = await tidings.as_result(manager.mark_as_processing("p1"))
    if not answer["success"]:
        print(answer["errorCode"], answer["message"])
    ```

    A prediction is given as plain dictionaries. Errors of the program itself are raised.
    """
    try:
        value = await call
    except (StorageError, ValueError) as error:
        code = next(code for kind, code in _CODES if isinstance(error, kind))
        return {"success": False, "errorCode": code, "message": str(error)}
    return {"success": True, "data": value.to_dict() if isinstance(value, Prediction) else value}
