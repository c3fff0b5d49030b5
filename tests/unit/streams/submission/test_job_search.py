"""A provider's list tells what became of a submission only if it was read far enough back."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.support.providers.bodies import SECRET
from tests.support.storage.samples import prediction
from tidings.streams.log.memory import MemoryLog
from tidings.streams.providers.catalog.replicate import ReplicateApi
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import Call, Unreadable
from tidings.streams.providers.registry import open_providers
from tidings.streams.submission.event_publisher import EventPublisher
from tidings.streams.submission.http import Answer, NoAnswer
from tidings.streams.submission.job_search import TRIES, find
from tidings.streams.submission.status_client import PAGES, SearchResult, StatusClient
from tidings.streams.submission.throttle import ProviderThrottle

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CALLED = int(NOW.timestamp() * 1000)
API = ReplicateApi("r8_secret")


class ListedJob:
    """A list of these predictions, two on a page: (webhook, minutes before the call)."""

    def __init__(self, *shown: tuple[str, float], endless: bool = False) -> None:
        self.shown, self.endless, self.read = shown, endless, 0
        self.failures: Iterator[int | Exception] = iter(())

    async def send(self, call: Call) -> Answer:
        failure = next(self.failures, 200)
        if isinstance(failure, Exception):
            raise failure
        if failure != 200:
            return Answer(failure, {"retry-after": "0"}, b"{}")
        start = int(call.url.partition("cursor=")[2] or 0)
        self.read += 1
        page: Sequence[dict[str, Any]] = [
            {
                "id": f"id-{url}",
                "webhook": f"http://t/{url}",
                "created_at": (NOW - timedelta(minutes=age)).isoformat(),
            }
            for url, age in self.shown[start : start + 2]
        ]
        more = self.endless or start + 2 < len(self.shown)
        following = f"{API.url}/v1/predictions?cursor={start + 2}" if more else None
        return Answer(200, {}, msgspec.json.encode({"results": page, "next": following}))

    @property
    def throttle(self) -> ProviderThrottle:
        return ProviderThrottle("replicate", self.send)


OTHERS = tuple((f"other{number}", number - 10.0) for number in range(30))
"""From ten minutes after the call to twenty before."""


@pytest.mark.parametrize(
    ("listed", "pages", "ids", "complete", "read"),
    [
        (ListedJob(), 9, {}, True, 1),
        (
            ListedJob(("other", -1), ("wanted", 0), ("older", 1)),
            9,
            {"http://t/wanted": "id-wanted"},
            True,
            1,
        ),
        (ListedJob(*OTHERS), 4, {}, False, 4),
        (
            ListedJob(*OTHERS),
            99,
            {},
            True,
            9,
        ),  # as soon as a page ends over five minutes before the call
        (ListedJob(*OTHERS[:15]), 99, {}, True, 8),
        (ListedJob(endless=True), 7, {}, False, 7),
    ],
)
async def test_a_list_is_read_back_to_the_call(
    listed: ListedJob, pages: int, ids: dict[str, str], complete: bool, read: int
) -> None:
    """A search is complete where it found all, met the end, or reached back beyond the call."""
    found = await find(API, listed.throttle, {"http://t/wanted"}, CALLED, pages)
    assert (found.ids, found.complete, listed.read) == (ids, complete, read)


async def test_a_list_is_read_on_where_a_page_failed() -> None:
    """A page that cannot be had is asked for again, and what was found before it counts.

    A refusal is not repeated.
    """
    listed = ListedJob(("other", -1), ("first", 0), ("second", 0))
    listed.failures = iter([500, NoAnswer("cut"), 200, 429, 503, 200])
    found = await find(API, listed.throttle, {"http://t/first", "http://t/second"}, CALLED, 9)
    assert (set(found.ids.values()), found.complete) == ({"id-first", "id-second"}, True)

    listed.failures = iter([200] + [500] * TRIES)
    found = await find(API, listed.throttle, {"http://t/first", "http://t/second"}, CALLED, 9)
    assert (found.ids, found.complete) == ({"http://t/first": "id-first"}, False)

    listed.failures = iter([401])
    with pytest.raises(Unreadable, match="401"):
        await find(API, listed.throttle, {"http://t/first"}, CALLED, 9)
    assert next(listed.failures, None) is None


async def test_nothing_is_given_up_by_a_list_that_was_not_read_far_enough() -> None:
    """What is not on the newest pages of a longer list is not lost; in a list that ends, it is."""
    providers = open_providers({"replicate": Configuration(secret=(SECRET,), token="r8_secret")})
    lost = prediction("lost", provider_id=None, attempt="a", created_at=CALLED)
    for listed, sought, read in (
        (ListedJob(endless=True), SearchResult(untold=1), PAGES),
        (ListedJob(*OTHERS[:3]), SearchResult([lost]), 2),
    ):
        throttles = {"replicate": listed.throttle}
        status_client = StatusClient(
            providers, throttles, EventPublisher(MemoryLog()), lambda _, name: f"http://t/{name}"
        )
        assert await status_client.find("replicate", [lost], [lost]) == sought
        assert listed.read == read


async def test_nothing_is_given_up_by_a_list_that_was_not_read() -> None:
    """Without a public address, or with a list that fails, nothing is taken for lost."""
    providers = open_providers({"replicate": Configuration(secret=(SECRET,), token="r8_secret")})
    lost = prediction("lost", provider_id=None, attempt="a", created_at=CALLED)

    async def fails(call: Call) -> Answer:
        return Answer(500, {}, b"")

    listed = ListedJob()
    closed = listed.throttle
    closed.close_for(60)
    for throttle, url in (
        (listed.throttle, None),
        (ProviderThrottle("replicate", fails), lambda _, name: f"http://t/{name}"),
        (closed, lambda _, name: f"http://t/{name}"),
    ):
        status_client = StatusClient(
            providers, {"replicate": throttle}, EventPublisher(MemoryLog()), url
        )
        assert await status_client.find("replicate", [lost], [lost]) == SearchResult(untold=1)
    assert listed.read == 0
