"""Finding submissions in a provider's list.

What became of a create call whose answer is missing or is not believed.
"""

import asyncio
from collections.abc import Collection

from msgspec import Struct

from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff, Failures
from tidings.streams.providers.job_api import JobListing, Unreadable
from tidings.streams.submission.http import Answer, CallFailed
from tidings.streams.submission.throttle import ProviderThrottle

SKEW = 300_000
"""Milliseconds by which the provider's clock may be behind ours."""
TRIES = 6
"""Of one page. A long list would never be read to its end otherwise if a part of all calls
fails."""
BACKOFF = Backoff.doubling(0.1, 10.0)
"""Between two of them; a provider that is to be left alone for longer is asked another time."""

logger = get_logger(__name__)


class Found(Struct, frozen=True):
    """What the list shows of the predictions that were looked for."""

    ids: dict[str, str]
    """The provider's ids by the address they report to."""
    complete: bool
    """Whether what is not among `ids` is not at the provider: the list was read far enough back to
    tell."""


async def find(
    api: JobListing, throttle: ProviderThrottle, webhooks: Collection[str], since: int, pages: int
) -> Found:
    """Look for predictions in the provider's list by the address they report to.

    Args:
        api: Whose list shows it.
        throttle: Of the provider.
        webhooks: The addresses.
        since: When the first of them can have been created, ms since the epoch by our clock.
        pages: How many pages are read at most, newest first.

    Raises:
        CallFailed, Unreadable: Not even its first page can be read.
    """
    # The service may have had another public address when it submitted; path and token say enough.
    wanted = {_behind_host(url): url for url in webhooks}
    found: dict[str, str] = {}
    following: str | None = None
    for page in range(pages):
        try:
            shown, following = api.listed((await _page(api, throttle, following)).body)
        except (CallFailed, Unreadable) as error:
            if not page:
                raise
            logger.info(
                "list.broken_off",
                provider=throttle.name,
                pages=page,
                found=len(found),
                error=str(error),
            )
            return Found(found, complete=False)
        for one in shown:
            url = wanted.get(_behind_host(one.webhook)) if one.webhook is not None else None
            if url is not None:
                found.setdefault(url, one.provider_id)
        oldest = shown[-1].created_at if shown else None
        if (
            following is None
            or len(found) == len(webhooks)
            or (oldest is not None and oldest < since - SKEW)
        ):
            return Found(found, complete=True)
    return Found(found, complete=False)


async def _page(api: JobListing, throttle: ProviderThrottle, following: str | None) -> Answer:
    failures = Failures(BACKOFF)
    for left in reversed(range(TRIES)):
        try:
            answer = await throttle.call(api.list(following))
        except CallFailed:
            if not left or throttle.closed_for > BACKOFF.longest:
                raise
        else:
            if answer.good:
                return answer
            if (
                not left
                or throttle.closed_for > BACKOFF.longest
                or not (answer.status == 429 or answer.status >= 500)
            ):
                raise Unreadable(f"the list was answered with {answer.status}")
        await asyncio.sleep(max(failures.next_wait(), throttle.closed_for))
    raise AssertionError("the last try ends it")


def _behind_host(url: str) -> str:
    return url.partition("://")[2].partition("/")[2]
