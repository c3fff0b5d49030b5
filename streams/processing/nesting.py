"""How deep JSON is nested, found without parsing it. Pure."""

import re
from itertools import accumulate

# Possessive, and a string that does not end is one too: whatever the bytes, each is looked at once.
_strings = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_not_brackets = bytes(set(range(256)) - set(b"[]{}"))
_as_square = bytes.maketrans(b"{}", b"[]")
_as_steps = bytes.maketrans(b"[]", b"\x01\xff")
_ROUNDS = 4
"""Ordinary JSON is no deeper; what is left then is walked through."""


def nested_over(value: bytes, limit: int) -> bool:
    """Whether the JSON in these bytes is nested over `limit` levels; brackets in strings do not count.

    Where brackets do not match, which no parser accepts, the answer may be either. The time it takes grows with the
    number of bytes alone.
    """
    if value.count(b"[") + value.count(b"{") <= limit:
        return False
    brackets = _strings.sub(b"", value).translate(_as_square, _not_brackets)
    # Each round takes the innermost pairs away, and so one level.
    for _ in range(min(limit, _ROUNDS)):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            return False
        brackets = shorter
    steps = memoryview(brackets.translate(_as_steps)).cast("b")
    return max(accumulate(steps), default=0) > limit - min(limit, _ROUNDS)
