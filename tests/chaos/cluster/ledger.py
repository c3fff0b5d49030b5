"""What was sent, and so what every client must see: each step of a prediction is one version with known content. Pure.

A step reports one character of log more than the one before, so a repeat of it says nothing new, and version `n` holds
step `n` and nothing else. A record that shows another version, status or length was built from events that were lost or
applied twice.
"""

import re
from collections import Counter
from enum import StrEnum

from msgspec import Struct

from tidings.storage.prediction import Status

SUCCESSOR = re.compile(r"[0-9a-f]{32}")
"""The id of what tries another prediction again."""
MADE = "made-"
"""How the ids of those begin that a provider makes, and whatever else has no steps of the load's."""
MOST_NOTED = 200
"""Problems kept in words; all are counted."""


class Way(StrEnum):
    """How a prediction's events come in."""

    WEBHOOK = "webhook"
    """All by HTTP, as a provider sends them."""
    EVENT = "event"
    """All as records of other services."""
    BOTH = "both"
    """Made by a record, reported by HTTP."""


class Line(Struct):
    """One prediction of the load."""

    prediction_id: str
    way: Way
    owner: str | None
    last: int
    """The step that ends it."""
    tried: int = 0
    """The newest step that may have come in."""
    acknowledged: int = 0
    """The newest step that was acknowledged."""

    @property
    def ended(self) -> bool:
        """Whether its last step was acknowledged."""
        return self.acknowledged >= self.last

    @property
    def made_by_event(self) -> bool:
        """Whether its first step is a `create`."""
        return self.way is not Way.WEBHOOK

    def status(self, version: int) -> Status:
        """Of the record at a version."""
        if version >= self.last:
            return Status.SUCCEEDED
        return Status.STARTING if version == 1 and self.made_by_event else Status.PROCESSING

    def logs_length(self, version: int) -> int:
        """Of the record at a version."""
        return 0 if version == 1 and self.made_by_event else version


class Problem(StrEnum):
    """What must not be."""

    LOST = "lost"
    """Acknowledged, and not in the record."""
    TWICE = "twice"
    """In the record more often than it was sent."""
    WRONG = "wrong"
    """A version with other content than its events make."""
    REPEATED = "repeated"
    """A client saw a version again, or an older one, on one connection."""
    BEHIND = "behind"
    """A client ended without the newest."""
    SLOW = "slow"
    """Not flowing again in time."""
    PART = "part"
    """A part ended by itself, did not come back, or said something wrong about itself."""


class Ledger:
    """Holds what is right, and notes what is not."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.made: set[str] = set()
        """Predictions that a provider makes: their steps are its own."""
        self.acknowledged = 0
        self.delivered = 0
        self.poison = 0
        """Records that must end among the dead letters."""
        self.problems: Counter[Problem] = Counter()
        self.notes: list[str] = []

    def open(self, line: Line) -> Line:
        """Begin a prediction."""
        self.lines[line.prediction_id] = line
        return line

    def acknowledge(self, line: Line, step: int) -> None:
        """The events up to a step are in the log for good."""
        self.acknowledged += step - line.acknowledged
        line.acknowledged = step

    def problem(self, kind: Problem, text: str, count: int = 1) -> None:
        """Note that something is wrong."""
        self.problems[kind] += count
        if len(self.notes) < MOST_NOTED:
            self.notes.append(f"{kind}: {text}")

    def shown(
        self, who: str, prediction_id: str, version: int, status: str, logs_length: int
    ) -> None:
        """Check a record that somebody was shown."""
        line = self.lines.get(prediction_id)
        if line is None:
            if not prediction_id.startswith(MADE) and not SUCCESSOR.fullmatch(prediction_id):
                self.problem(Problem.WRONG, f"{who} was shown {prediction_id}, which nobody sent")
            return
        if version > line.tried:
            self.problem(
                Problem.TWICE,
                f"{who} was shown {prediction_id} v{version}; {line.tried} steps were sent",
            )
        elif status != line.status(version) or logs_length != line.logs_length(version):
            self.problem(
                Problem.WRONG,
                f"{who} was shown {prediction_id} v{version} {status} with {logs_length} of log; "
                f"right is {line.status(version)} with {line.logs_length(version)}",
            )

    def settled(self, prediction_id: str, version: int, transitions: tuple[str, ...]) -> None:
        """Check what the store has in the end."""
        line = self.lines[prediction_id]
        if version < line.acknowledged:
            self.problem(
                Problem.LOST,
                f"{prediction_id} ended at v{version}; {line.acknowledged} steps were acknowledged",
                line.acknowledged - version,
            )
        elif version > line.tried:
            self.problem(
                Problem.TWICE,
                f"{prediction_id} ended at v{version}; {line.tried} were sent",
                version - line.tried,
            )
        right = (
            ("starting", "processing", "succeeded") if line.ended else ("starting", "processing")
        )
        if transitions != right[: len(right) if version > 1 or not line.made_by_event else 1]:
            self.problem(Problem.WRONG, f"{prediction_id} went {' -> '.join(transitions)}")
