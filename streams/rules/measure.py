"""How much there is in a JSON text, found from its bytes: no value of it is built. Pure.

What decides over events must not depend on a process's memory or speed, and a body of many small values would cost
fifty times its bytes as objects. The time of each function grows with the number of bytes alone.
"""

from collections.abc import Iterator
from itertools import accumulate, compress
from typing import NamedTuple

from tidings.streams.support.json_text import outside_strings

MAX_VALUES = 200_000
"""Values in a request: more are no order for a picture. Of events none are refused for their number."""

_KEPT = b"[]{},"
_dropped = bytes(set(range(256)) - set(_KEPT))
_as_steps = bytes.maketrans(_KEPT, b"\x01\xff\x01\xff\x00")
_comma = bytes(1 if byte == 0 else 0 for byte in range(256))
"""By step: whether it is a comma."""


class Measure(NamedTuple):
    """How much there is in a text that is JSON; of any other one it says little."""

    values: int
    """Numbers, strings, words, lists and objects, at most; members' names do not count."""
    depth: int
    """Levels of lists and objects."""


def measure(text: bytes) -> Measure:
    """Count the values of a JSON text, and how deep they lie."""
    values, depth, deepest = 1, 0, 0
    for steps in _steps(text):
        opened = steps.count(b"\x01")
        values += opened + steps.count(b"\x00")
        if opened or steps.count(b"\xff"):
            depths = list(accumulate(memoryview(steps).cast("b"), initial=depth))
            deepest = max(deepest, max(depths))
            depth = depths[-1]
    return Measure(values, deepest)


def members(text: bytes) -> int:
    """How many items a list, or members an object has, whatever lies in them.

    Args:
        text: JSON that begins with its bracket.
    """
    commas = depth = 0
    for steps in _steps(text):
        if not steps.count(b"\x01") and not steps.count(b"\xff"):
            commas += len(steps) if depth == 1 else 0
            continue
        depths = list(accumulate(memoryview(steps).cast("b"), initial=depth))
        commas += list(compress(depths, steps.translate(_comma))).count(1)
        depth = depths[-1]
    return commas + 1 if commas or text[1:-1].strip(b" \t\r\n") else 0


def _steps(text: bytes) -> Iterator[bytes]:
    """Portions of the text as bytes: 1 opens a list or an object, -1 closes one, 0 is a comma."""
    for part in outside_strings(text):
        steps = part.translate(_as_steps, _dropped)
        if steps:
            yield steps
