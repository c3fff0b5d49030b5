"""Several submitters and one provider: the record decides who calls, and it is called once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from storage.memory import MemoryStore
from storage.prediction import Status, decode
from streams.changes_watch import ChangesWatch
from streams.due import Patience
from streams.lane import Lane
from streams.log import EVENTS, NewRecord
from streams.memory_log import MemoryLog
from streams.provider_calls import Answer, NoAnswer, NotSent
from streams.providers.configuration import Configuration
from streams.providers.registry import open_providers
from streams.providers.submission import Call
from streams.reports import Reports
from streams.submission import PAGES, Submissions
from tests.conditions import eventually
from tests.streams.pipeline import Pipeline, pipeline
from tests.streams.providers.bodies import SECRET

PROVIDERS = open_providers({"replicate": Configuration(secret=(SECRET,), token="r8_secret")})


class Upstream:
    """Counts what it is asked to create, by webhook; answers as `replies` say, then as it should."""

    def __init__(self, *replies: int | Exception) -> None:
        self.created: Counter[str] = Counter()
        self.replies = list(replies)
        self.listed = 0
        self.newer = 0
        """Pages of others' predictions that the list shows first."""
        self.age = 0
        """Seconds since those on the last of them were created."""

    async def send(self, call: Call) -> Answer:
        await asyncio.sleep(0)
        if call.method == "GET":
            self.listed += 1
            page = int(call.url.partition("page=")[2] or 0)
            if page < self.newer:
                created = datetime.now(UTC) - timedelta(seconds=self.age * (page + 1) / self.newer)
                shown: list[dict[str, Any]] = [{"id": f"x{page}", "webhook": None, "created_at": created.isoformat()}]
                following = f"{call.url.partition('?')[0]}?page={page + 1}"
                return Answer(200, {}, msgspec.json.encode({"results": shown, "next": following}))
            shown = [{"id": f"r-{url}", "webhook": url} for url in self.created]
            return Answer(200, {}, msgspec.json.encode({"results": shown, "next": None}))
        url = msgspec.json.decode(call.body)["webhook"]
        reply = self.replies.pop(0) if self.replies else 201
        if isinstance(reply, Exception):
            raise reply
        if reply >= 500 and reply != 503:
            self.created[url] += 1  # it began, and then fell over
        if reply != 201:
            return Answer(reply, {"retry-after": "0"}, b"{}")
        self.created[url] += 1
        return Answer(201, {}, msgspec.json.encode({"id": f"r-{url}"}))


@asynccontextmanager
async def submitters(
    upstream: Upstream, count: int, patience: Patience | None = None
) -> AsyncIterator[tuple[Pipeline, list[Submissions]]]:
    """So many processes' worth of them, on one log with a processor."""
    log = MemoryLog()
    async with pipeline(log, MemoryStore(), providers=PROVIDERS) as running, AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            watch = ChangesWatch(log, lambda _changes: None)
            await watch.start()
            following = asyncio.create_task(watch.run())
            stack.callback(following.cancel)
            lanes = {"replicate": Lane("replicate", upstream.send)}
            one = Submissions(
                PROVIDERS,
                lanes,
                Reports(log),
                running.store.load,
                watch,
                lambda _, name: f"http://t/{name}",
                patience=patience,
            )
            stack.push_async_callback(one.close)
            found.append(one)
        yield running, found


async def ordered(running: Pipeline, *names: str) -> None:
    create = {"type": "create", "id": "c", "provider": "replicate", "model": "a/b"}
    await running.log.append(EVENTS, [NewRecord(name.encode(), msgspec.json.encode(create)) for name in names])
    await running.settled()


async def reaches(running: Pipeline, name: str, status: Status) -> None:
    async def there() -> bool:
        return (await running.prediction(name)).status is status

    await eventually(there, 20)


async def test_three_submitters_call_once() -> None:
    """Three processes take charge of the same forty predictions at once: each is created once."""
    upstream = Upstream()
    names = [f"p{number}" for number in range(40)]
    async with submitters(upstream, 3) as (running, several):
        await ordered(running, *names)
        for name in names:
            assert all(one.take(name, "replicate") for one in several)
        for name in names:
            await reaches(running, name, Status.PROCESSING)
        for one in several:
            await one.idle()
    assert set(upstream.created.values()) == {1}
    assert len(upstream.created) == 40


async def test_a_500_that_hid_a_success_is_not_repeated() -> None:
    """The provider begins it and answers 500: its list is read before the next call, and there is none."""
    upstream = Upstream(500)
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.take("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
        assert (await running.prediction("p1")).provider_id == "r-http://t/p1"
    assert (upstream.created, upstream.listed) == (Counter({"http://t/p1": 1}), 1)


async def test_a_500_is_repeated_only_if_the_list_tells_that_it_hid_nothing() -> None:
    """Others' newer predictions fill the list: it is read back to the time of the call, or nothing is called again."""
    upstream = Upstream(503)
    upstream.newer, upstream.age = PAGES + 5, 3_600  # the first page alone is older than the call by over five minutes
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.take("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
    assert upstream.created == Counter({"http://t/p1": 1})
    assert upstream.listed < PAGES

    upstream = Upstream(500)
    upstream.newer, upstream.age = PAGES + 5, 60
    async with submitters(upstream, 1, Patience(attempt=1_000)) as (running, (one,)):
        await ordered(running, "p1")
        one.take("p1", "replicate")
        await one.idle()
        record = await running.prediction("p1")
    assert (record.status, record.provider_id, one.unknown) == (Status.STARTING, None, 1)
    assert upstream.created == Counter({"http://t/p1": 1})
    assert upstream.listed >= PAGES


async def test_a_cancel_after_a_500_that_hid_a_success_says_no_end() -> None:
    """It was begun all the same: it is found in the list, and canceled at the provider by the reconciler."""
    upstream = Upstream(500)
    answer = upstream.send

    async def canceled_meanwhile(call: Call) -> Answer:
        result = await answer(call)
        if call.method == "POST":
            await running.send({"type": "cancel"}, key="p1")
        return result

    upstream.send = canceled_meanwhile  # type: ignore[method-assign]
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.take("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
        record = await running.prediction("p1")
    assert record.provider_id == "r-http://t/p1"
    assert record.cancel_requested_at is not None


async def test_no_answer_is_never_repeated() -> None:
    """Without an answer, or with one of a proxy's, nothing is called again and nothing is said."""
    for reply in (NoAnswer("cut"), 502, 504):
        upstream = Upstream(reply)
        async with submitters(upstream, 1) as (running, (one,)):
            await ordered(running, "p1")
            one.take("p1", "replicate")
            await one.idle()
            record = await running.prediction("p1")
        assert (record.status, record.provider_id, one.unknown) == (Status.STARTING, None, 1)
        assert record.attempt is not None
        assert sum(upstream.created.values()) <= 1


async def test_what_never_went_out_is_repeated() -> None:
    """A call that could not reach the provider is made again."""
    upstream = Upstream(NotSent("refused"), 429, 503)
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.take("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
    assert upstream.created == Counter({"http://t/p1": 1})


async def test_what_is_over_is_not_submitted() -> None:
    """A prediction that is canceled, deleted or reported by then is left alone."""
    upstream = Upstream()
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "canceled", "deleted", "reported")
        await running.send({"type": "cancel"}, key="canceled")
        await running.send({"type": "delete"}, key="deleted")
        await running.send({"providerId": "x"}, key="reported")
        await running.settled()
        for name in ("canceled", "deleted", "reported", "unheard-of"):
            one.take(name, "replicate")
        await one.idle()
        assert not await running.letters()
    assert not upstream.created


async def test_errors_show_no_secret() -> None:
    """What the provider says about a refusal is kept without the webhook's address and its token."""
    upstream = Upstream()

    async def refuse(call: Call) -> Answer:
        return Answer(
            422,
            {},
            msgspec.json.encode({"detail": f"bad webhook {msgspec.json.decode(call.body)['webhook']} r8_secret"}),
        )

    upstream.send = refuse  # type: ignore[method-assign]
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.take("p1", "replicate")
        await reaches(running, "p1", Status.FAILED)
        stored = (await running.store.load(["p1"]))["p1"]
    assert decode(stored.encoded).error == "AI service submission failed: 422: bad webhook ... ..."
