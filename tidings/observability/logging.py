"""How the service writes its log: one event a line, named in dotted lower case, on standard error.

Readable lines in a terminal, JSON elsewhere. What standard `logging` brings from libraries comes
out the same way.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from tidings.observability.control_characters import escape_controls
from tidings.observability.kafka_client_lines import KafkaClientFilter, kafka_client_line
from tidings.storage.redaction import MASK, Redactor

_SECRET_WORDS = ("secret", "token", "password", "authorization", "api_key", "webhook_key")


def configure(
    *,
    json: bool | None = None,
    level: int = logging.INFO,
    redactor: Redactor | None = None,
    always: Mapping[str, Any] | None = None,
) -> None:
    """Set up the log of this process.

    Args:
        json: JSON lines; None: if standard error is no terminal.
        level: The least level written, of `logging`.
        redactor: What every text passes before it is written; None: one that knows no secret by its
            value.
        always: Fields of every line: which worker writes it.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_fields(always or {}),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        mask_secrets,
    ]
    redacted = _redacted_by(redactor or Redactor())
    last: list[Processor] = (
        [_tracebacks(), redacted, structlog.processors.JSONRenderer()]
        if as_json
        else [
            # As plain text: a renderer of tracebacks with colors shows local variables, and those
            # hold secrets.
            structlog.processors.format_exc_info,
            redacted,
            _escape_all_controls,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(KafkaClientFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, kafka_client_line, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def _with_fields(fields: Mapping[str, Any]) -> Processor:
    def add(logger: Any, method: str, event: EventDict) -> EventDict:  # noqa: ARG001 - structlog's signature
        for name, value in fields.items():
            event.setdefault(name, value)
        return event

    return add


def _tracebacks() -> Processor:
    """Tracebacks as data, without local variables: those hold secrets."""
    return structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )


def _redacted_by(redactor: Redactor) -> Processor:
    """Pass every text of an event through the redactor, those of tracebacks included."""

    def redacted(value: Any) -> Any:
        match value:
            case str():
                return redactor.text(value)
            case dict():
                return {name: redacted(item) for name, item in value.items()}
            case list() | tuple():
                return [redacted(item) for item in value]
            case None | bool() | int() | float():
                return value
        return redactor.text(str(value))

    def processor(logger: Any, method: str, event: EventDict) -> EventDict:  # noqa: ARG001 - structlog's signature
        return {
            name: value if name.startswith("_") else redacted(value)
            for name, value in event.items()
        }

    return processor


def _escape_all_controls(logger: Any, method: str, event: EventDict) -> EventDict:  # noqa: ARG001 - structlog's signature
    """Show control characters as escapes; of a traceback the ends of its lines stay."""
    for name, value in event.items():
        if name in ("exception", "stack"):
            event[name] = "\n".join(escape_controls(line) for line in str(value).split("\n"))
        elif not isinstance(value, bool | int | float | None) and not name.startswith("_"):
            event[name] = escape_controls(str(value))
    return event


def mask_secrets(logger: Any, method: str, event: EventDict) -> EventDict:  # noqa: ARG001 - structlog's signature
    """Strike out fields whose names say that they are secret, in case a caller passes one."""
    for name in event:
        if any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = MASK
    return event
