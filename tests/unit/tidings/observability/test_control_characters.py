"""Control characters are shown and never act."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.observability.control_characters import escape_controls

STEERING = {
    "\x1b[2J": r"\u001b[2J",
    "\x1b]52;c;ZXZpbA==\x07": r"\u001b]52;c;ZXZpbA==\u0007",
    "\x9b2J": r"\u009b2J",
    "\x90q\x9c": r"\u0090q\u009c",
    "a\r\nb": r"a\u000d\u000ab",
    "\u202egpj.exe": r"\u202egpj.exe",
    "\u2066a\u2069": r"\u2066a\u2069",
    "a\u2028b": r"a\u2028b",
    "\U000e0041": r"\udb40\udc41",
    "\ud83d": r"\ud83d",
}


@pytest.mark.parametrize(("text", "shown"), STEERING.items())
def test_what_steers_a_terminal_is_escaped(text: str, shown: str) -> None:
    """ESC, C1, OSC 52, line ends, the order of writing, what nobody sees: each as its escape."""
    assert escape_controls(text) == shown


@pytest.mark.parametrize("text", ["a cat", "tab\there", "Zoë 東京 नमस्ते", "👩‍🚀", "می‌خواهم"])
def test_what_is_read_stays(text: str) -> None:
    """Text in any script stays as it is, joined emoji and words included."""
    assert escape_controls(text) == text


@given(st.text())
def test_nothing_acting_is_left(text: str) -> None:
    """Whatever the text, no control character and no bidirectional one remains, and it can be encoded."""
    shown = escape_controls(text)
    shown.encode()
    for one in shown:
        assert one == "\t" or unicodedata.category(one) not in {"Cc", "Cs", "Zl", "Zp"}
        assert unicodedata.bidirectional(one) not in {
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        }


@given(st.recursive(st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_json_stays_the_same_json(value: object) -> None:
    """The escapes are JSON's own: what a program reads is what was written."""
    assert json.loads(escape_controls(json.dumps(value, ensure_ascii=False))) == value
