"""How deep JSON is nested, found without parsing it. Pure."""

import re

_strings = re.compile(rb'"(?:[^"\\]+|\\.)*"', re.DOTALL)
_not_brackets = bytes(set(range(256)) - set(b"[]{}"))
_as_square = bytes.maketrans(b"{}", b"[]")


def nested_over(value: bytes, limit: int) -> bool:
    """Whether the JSON in these bytes is nested over `limit` levels; brackets in strings do not count.

    Where brackets do not match, which no parser accepts, the answer may be either.
    """
    if value.count(b"[") + value.count(b"{") <= limit:
        return False
    brackets = _strings.sub(b"", value).translate(_as_square, _not_brackets)
    # Each round takes the innermost pairs away, and so one level.
    for _ in range(limit):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            return False
        brackets = shorter
    return bool(brackets)
