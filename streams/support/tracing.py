"""What traces are made of, as the parts see it.

Spans that begin and end, and the header that carries them on. Pure.

The header is `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/): version,
trace, parent span and flags, of which the lowest bit says that the trace is sampled. Whoever
exports spans implements `Tracing`; if nothing does, no part makes anything.
"""

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Literal, Protocol

Kind = Literal["server", "producer", "consumer", "client"]
Attributes = Mapping[str, str | int]

PREDICTION = "tidings.prediction_id"
"""The attribute that names the prediction."""

_LENGTH = 55
_ODD = frozenset(b"13579bdf")
_traceparent = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


class Step(IntEnum):
    """The steps of the processor's commit, with the numbers of its docstring.

    What is called as each of them ends.
    """

    TAKEN = 1
    LOADED = 2
    REDUCED = 3
    WRITTEN = 4
    ANNOUNCED = 5
    COMMITTED = 6


class Span(Protocol):
    """A part of the way of an event, under way."""

    @property
    def traceparent(self) -> bytes:
        """What the next part continues."""

    def end(self, at: int | None = None, *, failure: str | None = None) -> None:
        """It is over.

        Args:
            at: When, in ns since the epoch; None: now.
            failure: Why it came to nothing.
        """


class Tracing(Protocol):
    """Where spans go."""

    def chosen(self, incoming: str | None) -> bool:
        """Whether an event is traced whose sender named this trace, as its flag says.

        None: as chance decides.
        """

    def begin(
        self,
        name: str,
        kind: Kind,
        *,
        parent: bytes | None = None,
        at: int | None = None,
        attributes: Attributes | None = None,
    ) -> Span:
        """Begin a span.

        Args:
            name: Of the part, with nothing in it that differs from event to event.
            kind: Which side of a call or a message it is.
            parent: The `traceparent` that it continues; None: it begins a trace.
            at: When it began, in ns since the epoch; None: now.
            attributes: What it is about.
        """


def valid(traceparent: str) -> bool:
    """Whether the text is a `traceparent` that can be continued."""
    return _traceparent.fullmatch(traceparent) is not None


def sampled(traceparent: bytes) -> bool:
    """Whether spans are wanted of what carries this header; a broken one is left alone."""
    if len(traceparent) != _LENGTH or traceparent[-1] not in _ODD:
        return False
    return _traceparent.fullmatch(traceparent.decode("ascii", "replace")) is not None


def trace_id(traceparent: bytes | str | None) -> str | None:
    """The trace in a header, 32 hexadecimal digits; None if there is none."""
    text = traceparent.decode("ascii", "replace") if isinstance(traceparent, bytes) else traceparent
    return text[3:35] if text is not None and valid(text) else None
