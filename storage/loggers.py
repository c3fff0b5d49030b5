"""Where log lines go: as the process has set structlog up, or else to the standard library's loggers.

structlog that nobody has set up prints to the standard output, which is a host's where the service
or the library is part of its program.
"""

import logging
from typing import Any

import structlog
from structlog.typing import EventDict

from tidings.storage.redaction import redact


def get_logger(name: str) -> Any:
    """The logger of a module; it takes lines as structlog's do: `logger.info("event", field=1)`."""
    return _Logger(name)


class _Logger:
    """Decides with each line: a host may set structlog up after it has imported us."""

    __slots__ = ("_plain", "_structured")

    def __init__(self, name: str) -> None:
        self._structured = structlog.get_logger(name)
        self._plain = structlog.wrap_logger(
            logging.getLogger(name),
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                _as_line,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def __getattr__(self, method: str) -> Any:
        return getattr(self._structured if structlog.is_configured() else self._plain, method)


def _as_line(
    logger: Any,  # noqa: ARG001 - structlog's signature
    method: str,  # noqa: ARG001 - likewise
    event: EventDict,
) -> tuple[tuple[str], dict[str, Any]]:
    """The fields behind the event; handlers add time, level and traceback."""
    failure = event.pop("exc_info", None)
    said = [str(event.pop("event", ""))]
    said += [f"{name}={value!r}" for name, value in sorted(event.items())]
    return (redact(" ".join(said)),), {"exc_info": failure} if failure else {}
