"""Characters that act instead of being read, shown as escapes.

What comes in with a report must not steer a terminal. Pure.
"""

import re

_ACTING = re.compile(
    "["
    "\x00-\x08\x0a-\x1f\x7f-\x9f"  # C0 but the tab, DEL, C1 (ECMA-48): ESC and its one-byte forms
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the order of writing (Unicode TR 36, 2.5)
    "\u00ad\u180e\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # not to be seen
    "\U000e0000-\U000e007f"  # tags, which spell text that nobody sees
    "\ud800-\udfff"  # lone surrogates, which no encoding writes
    "]"
)


def escape_controls(text: str) -> str:
    r"""The text with such characters as JSON writes them (`\u001b`), line ends included.

    It is one line afterwards. JSON stays the same JSON, as such characters stand in its strings
    alone.
    """
    return _ACTING.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
