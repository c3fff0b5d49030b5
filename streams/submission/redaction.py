"""What a provider says about a call that it did not take, as it may be shown.

Bounded, and without secrets. Pure.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from tidings.storage.redaction import redact
from tidings.streams.providers.job_api import Call, JobApi
from tidings.streams.submission.http import Answer

MAX_REASON = 500
SECRET_LENGTH = 6
"""Characters: less is no secret, and would be found in any word."""

_problem: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_UNDECODABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""ValueError: members are kept undecoded, so that what is no UTF-8 is found late, and as Python's
own error."""


def secrets_of(api: JobApi, call: Call, webhook: str) -> list[str]:
    """What a provider must not be quoted with, should it repeat the call: the longest first.

    Args:
        api: Of the provider; its `token` and `secret`, if it has them, may stand anywhere in the
            call.
        call: What went out.
        webhook: Where the provider reports, its token at the end.
    """
    carried = call.headers.get("Authorization", "")
    held = [
        held for name in ("token", "secret") if isinstance(held := getattr(api, name, None), str)
    ]
    # After the scheme's name, which is no secret; if there is no scheme, the whole is.
    found = {webhook, webhook.rpartition("=")[2], carried, *carried.split()[1:], *held}
    return sorted((one for one in found if len(one) >= SECRET_LENGTH), key=len, reverse=True)


def reason_of(answer: Answer, hidden: Sequence[str]) -> str:
    """The status and what the provider says about it, bounded, without what must not be shown.

    Args:
        answer: That is no success.
        hidden: Secrets, the longest first; see `secrets_of`.
    """
    said = ""
    try:
        fields = _problem.decode(answer.body)
    except _UNDECODABLE:
        fields = {}
    for name in ("detail", "error", "message", "title"):
        value = fields.get(name)
        if value is not None and (text := _text(value)):
            said = text
            break
    said = " ".join(said.split())
    for secret in hidden:
        said = said.replace(secret, "...")
    said = redact(said)  # what it quotes of others: a gateway in between has credentials of its own
    return f"{answer.status}: {said[:MAX_REASON]}" if said else str(answer.status)


def _text(value: Raw) -> str:
    try:
        decoded = msgspec.json.decode(value)
    except _UNDECODABLE:
        return bytes(value).decode("utf-8", "replace")
    if isinstance(decoded, dict) and isinstance(decoded.get("message"), str):
        decoded = decoded["message"]
    return (
        decoded
        if isinstance(decoded, str)
        else bytes(value).decode("utf-8", "replace")
        if decoded
        else ""
    )
