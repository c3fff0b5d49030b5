"""Keeps proofs and credentials out of what is shown.

Pure; on the lowest floor, so that every floor can use it.

Two secrets travel in texts that nobody here wrote. A provider repeats the address that it reports
to, and the token in it proves a webhook. A client library puts the call that failed, its headers
and its URL, into the text of an exception.

| function | takes out | use it for |
|---|---|---|
| `without_proofs` | the token in the address of a webhook | records: all else stays as it is |
| `redact` | that, and whatever looks like a credential | log, dead letters, exports, traces |
| `error_text` | the same, on one bounded line | exceptions of other libraries |
| `Redactor` | the same, and given secrets by value | if the settings are at hand |

A link to an output may carry a signature of its own, which its reader needs. `without_proofs`
leaves it alone; `redact` does not, so nothing that it returns is good for fetching.

Every expression here runs in linear time: repetitions are bounded, or end at a character that
cannot begin another one.
"""

import re
from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import quote

MASK = "********"
LEAST_SECRET = 6
"""Characters: a shorter configured secret would be found in ordinary words."""
LONGEST_ERROR = 500
"""Characters of an exception's text that are kept."""

# The address of a webhook: plain, with JSON's escapes (`\/`, `\u003d`), or in the query of another
# address (`%3F`, `%253F`).
_MARK = r"(?:[?&]|%(?:25){0,3}(?:3[Ff]|26)|\\u003[Ff]|\\u0026)"
_EQUALS = r"(?:=|%(?:25){0,3}3[Dd]|\\u003[Dd])"
# No stretch holds the beginning of another one: each character is looked at once, however often the
# word is repeated.
_STRETCH = r"(?:(?!webhooks)[^\s\"'<>]){0,1500}?"
_PROOF = rf"(webhooks{_STRETCH}{_MARK}token{_EQUALS})[^\s\"'<>&#\\]+"
_proof = re.compile(_PROOF)
_proof_in_bytes = re.compile(_PROOF.encode())

_NAMES = (
    r"[\w.-]{0,40}(?:token|secret|passw(?:or)?d|passwd|pwd|api[-_]?key"
    r"|credential|signature|sig|authorization)"
    r"|webhook_key|key|sealed"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # scheme://user:password@host
    (re.compile(r"(://[^\s/?#\"'<>@:]{0,256}:)[^\s/\"'<>]{1,512}@"), rf"\1{MASK}@"),
    # name=value in a query, a DSN or a list of settings
    (re.compile(rf"(?i)((?<![\w.-])(?:{_NAMES})=)[^\s&#;,\"'<>)]+"), rf"\1{MASK}"),
    # "name": "value", as JSON and Python write it
    (
        re.compile(rf"(?i)([\"'](?:{_NAMES})[\"']\s{{0,8}}:\s{{0,8}}b?[\"'])[^\"'\n]{{1,4000}}"),
        rf"\1{MASK}",
    ),
    # a header, named
    (
        re.compile(
            r"(?i)\b((?:(?:proxy-)?authorization|(?:set-)?cookie"
            r"|[a-z-]{0,40}-(?:key|token|secret|signature))"
            r"\s{0,8}:\s{0,8})[^\s\"'][^\"'\n]{0,4000}"
        ),
        rf"\1{MASK}",
    ),
    # a header's value that a client refused to send: httpx, h11, http.client
    (
        re.compile(r"(?i)((?:illegal|invalid) header (?:name|value) b?([\"']))[^\n]{0,8000}"),
        rf"\1{MASK}\2",
    ),
    (re.compile(r"\b((?:Bearer|Basic)\s{1,8})[^\s\"',;]{6,}"), rf"\1{MASK}"),
    (re.compile(r"([\"'](?:Key|Token)\s{1,8})[^\s\"',;]{6,}"), rf"\1{MASK}"),
    # well-known forms: signing secrets, tokens of Replicate and OpenAI, keys of AWS, JSON Web
    # Tokens
    (re.compile(r"\b(whsec_)[A-Za-z0-9+/=_-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"\b(r8_|sk-)[A-Za-z0-9_-]{12,}"), rf"\1{MASK}"),
    (re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"), rf"\1{MASK}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"), MASK),
)

Text = TypeVar("Text", str, bytes)


def without_proofs(text: Text) -> Text:
    """The text or JSON without the tokens in addresses of webhooks.

    Anything else stays byte for byte.
    """
    if isinstance(text, bytes):
        if b"webhooks" not in text or b"token" not in text:
            return text
        return _proof_in_bytes.sub(rb"\1" + MASK.encode(), text)
    if "webhooks" not in text or "token" not in text:
        return text
    return _proof.sub(rf"\1{MASK}", text)


def redact(text: str) -> str:
    """The text without anything that proves a webhook or looks like a credential."""
    text = without_proofs(text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def error_text(error: BaseException, limit: int = LONGEST_ERROR) -> str:
    """What an exception says, redacted and on one line; its type's name if it says nothing.

    Args:
        error: As caught.
        limit: Characters at most.
    """
    return redact(" ".join(str(error).split()))[:limit] or type(error).__name__


class Redactor:
    """Takes out the given secrets by their value, and then whatever `redact` finds.

    Args:
        secrets: In force. Those of less than `LEAST_SECRET` characters are left to the patterns.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spellings: set[str] = set()
        for secret in secrets:
            for one in (secret, secret.strip()):
                if len(one) >= LEAST_SECRET:
                    spellings |= {one, quote(one, safe=""), quote(one), repr(one)[1:-1]}
        self._spellings = sorted(spellings, key=len, reverse=True)

    def __repr__(self) -> str:
        """Count the secrets and show none."""
        return f"Redactor({len(self._spellings)} spellings)"

    def text(self, text: str) -> str:
        """The text as it may be shown."""
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, MASK)
        return redact(text)
