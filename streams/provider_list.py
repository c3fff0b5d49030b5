"""Finding submissions in a provider's list: what became of a create call whose answer is missing or is not believed."""

from collections.abc import Collection

from msgspec import Struct

from streams.lane import Lane
from streams.providers.submission import Listing, Unreadable

SKEW = 300_000
"""Milliseconds by which the provider's clock may be behind ours."""


class Found(Struct, frozen=True):
    """What the list shows of the predictions that were looked for."""

    ids: dict[str, str]
    """The provider's ids by the address they report to."""
    complete: bool
    """Whether what is not among `ids` is not at the provider: the list was read far enough back to tell."""


async def find(api: Listing, lane: Lane, webhooks: Collection[str], since: int, pages: int) -> Found:
    """Look for predictions in the provider's list by the address they report to.

    Args:
        api: Whose list shows it.
        lane: Of the provider.
        webhooks: The addresses.
        since: When the first of them can have been created, ms since the epoch by our clock.
        pages: How many pages are read at most, newest first.

    Raises:
        CallFailed, Unreadable: The list cannot be read.
    """
    # The service may have had another public address when it submitted; path and token say enough.
    wanted = {_behind_host(url): url for url in webhooks}
    found: dict[str, str] = {}
    following: str | None = None
    for _ in range(pages):
        answer = await lane.call(api.list(following))
        if not answer.good:
            raise Unreadable(f"the list was answered with {answer.status}")
        shown, following = api.listed(answer.body)
        for one in shown:
            url = wanted.get(_behind_host(one.webhook)) if one.webhook is not None else None
            if url is not None:
                found.setdefault(url, one.provider_id)
        oldest = shown[-1].created_at if shown else None
        if following is None or len(found) == len(webhooks) or (oldest is not None and oldest < since - SKEW):
            return Found(found, complete=True)
    return Found(found, complete=False)


def _behind_host(url: str) -> str:
    return url.partition("://")[2].partition("/")[2]
