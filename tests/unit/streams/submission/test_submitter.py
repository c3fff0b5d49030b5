"""Several submitters and one provider: the record decides who calls, and it is called once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from tests.support.conditions import eventually
from tests.support.providers.bodies import SECRET
from tests.support.streams.pipeline import Pipeline, pipeline
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, decode
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change
from tidings.streams.changes.feed import ChangeListener
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, NewRecord
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import Call
from tidings.streams.providers.registry import open_providers
from tidings.streams.submission import create_call
from tidings.streams.submission import submitter as submission
from tidings.streams.submission.create_call import PAGES
from tidings.streams.submission.event_publisher import EventPublisher
from tidings.streams.submission.http import Answer, NoAnswer, NotSent
from tidings.streams.submission.reconcile_policy import Timeouts
from tidings.streams.submission.submitter import ChangeWaiter, Load, Submitter, Whole
from tidings.streams.submission.throttle import Limits, ProviderThrottle

PROVIDERS = open_providers({"replicate": Configuration(secret=(SECRET,), token="r8_secret")})


class Upstream:
    """Counts what it is asked to create, by webhook.

    Answers as `replies` say, then as it should.
    """

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
                shown: list[dict[str, Any]] = [
                    {"id": f"x{page}", "webhook": None, "created_at": created.isoformat()}
                ]
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


class Outage:
    """A store that is away for the submitters, and not for the processor."""

    def __init__(self) -> None:
        self.left = 0
        """How often it is still asked in vain."""
        self.ended = 0

    def before(self, load: Load) -> Load:
        """The store, as the submitters see it."""

        async def asked(ids: Sequence[str]) -> dict[str, Stored]:
            if self.left:
                self.left -= 1
                self.ended += not self.left
                raise StoreUnavailable("away")
            return await load(ids)

        return asked


class Blind:
    """Sees no change in time."""

    async def wait_for_version(
        self, prediction_id: str, beyond: int, timeout: float
    ) -> Change | None:
        await asyncio.sleep(timeout)
        return None


@asynccontextmanager
async def submitters(
    upstream: Upstream,
    count: int,
    timeouts: Timeouts | None = None,
    *,
    limits: Limits | None = None,
    store: Outage | None = None,
    waiter: ChangeWaiter | None = None,
    whole: Whole | None = None,
    reached: Callable[[int, str], None] | None = None,
) -> AsyncIterator[tuple[Pipeline, list[Submitter]]]:
    """So many processes' worth of them, on one log with a processor."""
    log = MemoryLog()
    async with (
        pipeline(log, MemoryStore(), providers=PROVIDERS) as running,
        AsyncExitStack() as stack,
    ):
        found = []
        for _ in range(count):
            watch = ChangeListener(log, lambda _changes: None)
            await watch.start()
            following = asyncio.create_task(watch.run())
            stack.callback(following.cancel)
            throttles = {"replicate": ProviderThrottle("replicate", upstream.send, limits)}
            one = Submitter(
                PROVIDERS,
                throttles,
                EventPublisher(log),
                running.store.load if store is None else store.before(running.store.load),
                waiter or watch,
                lambda _, name: f"http://t/{name}",
                timeouts=timeouts,
                whole=whole,
                reached=reached,
            )
            stack.push_async_callback(one.close)
            found.append(one)
        yield running, found


async def ordered(running: Pipeline, *names: str) -> None:
    create = {"type": "create", "id": "c", "provider": "replicate", "model": "a/b"}
    await running.log.append(
        EVENTS, [NewRecord(name.encode(), msgspec.json.encode(create)) for name in names]
    )
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
            assert all(one.enqueue(name, "replicate") for one in several)
        for name in names:
            await reaches(running, name, Status.PROCESSING)
        for one in several:
            await one.idle()
    assert set(upstream.created.values()) == {1}
    assert len(upstream.created) == 40


async def test_a_500_that_hid_a_success_is_not_repeated() -> None:
    """The provider begins it and answers 500.

    Its list is read before the next call, and there is none.
    """
    upstream = Upstream(500)
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
        assert (await running.prediction("p1")).provider_id == "r-http://t/p1"
    assert (upstream.created, upstream.listed) == (Counter({"http://t/p1": 1}), 1)


async def test_a_500_is_repeated_only_if_the_list_tells_that_it_hid_nothing() -> None:
    """Others' newer predictions fill the list.

    It is read back to the time of the call, or nothing is called again.
    """
    upstream = Upstream(503)
    upstream.newer, upstream.age = (
        PAGES + 5,
        3_600,
    )  # the first page alone is older than the call by over five minutes
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
    assert upstream.created == Counter({"http://t/p1": 1})
    assert upstream.listed < PAGES

    upstream = Upstream(500)
    upstream.newer, upstream.age = PAGES + 5, 60
    async with submitters(upstream, 1, Timeouts(attempt=1_000)) as (running, (one,)):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await one.idle()
        record = await running.prediction("p1")
    assert (record.status, record.provider_id, one.unknown) == (Status.STARTING, None, 1)
    assert upstream.created == Counter({"http://t/p1": 1})
    assert upstream.listed >= PAGES


async def test_a_cancel_after_a_500_that_hid_a_success_says_no_end() -> None:
    """It was begun all the same.

    It is found in the list, and canceled at the provider by the reconciler.
    """
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
        one.enqueue("p1", "replicate")
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
            one.enqueue("p1", "replicate")
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
        one.enqueue("p1", "replicate")
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
            one.enqueue(name, "replicate")
        await one.idle()
        assert not await running.letters()
    assert not upstream.created


async def test_errors_show_no_secret() -> None:
    """A provider's refusal is kept without the webhook's address and its token."""
    upstream = Upstream()

    async def refuse(call: Call) -> Answer:
        return Answer(
            422,
            {},
            msgspec.json.encode(
                {"detail": f"bad webhook {msgspec.json.decode(call.body)['webhook']} r8_secret"}
            ),
        )

    upstream.send = refuse  # type: ignore[method-assign]
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await reaches(running, "p1", Status.FAILED)
        stored = (await running.store.load(["p1"]))["p1"]
    assert decode(stored.encoded).error == "AI service submission failed: 422: bad webhook ... ..."


async def test_an_outage_of_the_store_after_the_attempt_is_waited_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attempt is in the log, no change comes and the store is away.

    When it is back, the provider is called.
    """
    monkeypatch.setattr(submission, "LOOK_AGAIN", 0.05)
    monkeypatch.setattr(submission, "STORE_PAUSE", 0.01)
    upstream, outage = Upstream(), Outage()

    def reached(step: int, _name: str) -> None:
        outage.left = 3 if step == 2 else 0

    async with submitters(upstream, 1, store=outage, waiter=Blind(), reached=reached) as (
        running,
        (one,),
    ):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
        assert one.interrupted == 0
    assert (upstream.created, outage.ended) == (Counter({"http://t/p1": 1}), 1)


async def test_after_too_long_an_outage_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that may be given up before its calls would end is left to the reconciler."""
    monkeypatch.setattr(submission, "LOOK_AGAIN", 0.05)
    monkeypatch.setattr(submission, "STORE_PAUSE", 0.01)
    upstream, outage = Upstream(), Outage()

    def reached(step: int, _name: str) -> None:
        outage.left = 1_000_000

    timeouts = Timeouts(attempt=1_000, unknown=1_100)
    async with submitters(upstream, 1, timeouts, store=outage, waiter=Blind(), reached=reached) as (
        running,
        (one,),
    ):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await one.idle()
        assert (one.interrupted, one.waiting) == (1, 0)
    assert not upstream.created


async def test_an_outage_of_the_store_between_two_calls_is_waited_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The provider asked to come back, and the record cannot be read then.

    It is read again, and the call repeated.
    """
    monkeypatch.setattr(create_call, "BACKOFF", Backoff.doubling(0.02, 30.0))
    upstream, outage = Upstream(429), Outage()
    answer = upstream.send

    async def away_after(call: Call) -> Answer:
        outage.left = 2 if upstream.replies else 0
        return await answer(call)

    upstream.send = away_after  # type: ignore[method-assign]
    async with submitters(upstream, 1, store=outage) as (running, (one,)):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
    assert (upstream.created, outage.ended) == (Counter({"http://t/p1": 1}), 1)


async def test_what_is_submitted_was_read_before_the_attempt() -> None:
    """The contents of large fields are read once, before the attempt.

    An outage of theirs after it does no harm.
    """
    upstream, asked, bodies = Upstream(), list[str](), list[Any]()
    answer = upstream.send

    async def whole(record: Prediction) -> Prediction:
        asked.append(record.prediction_id)
        if len(asked) > 1:
            raise StoreUnavailable("away")
        return replace(record, payload=Raw(b'{"large":true}'), prompt="long")

    async def noted(call: Call) -> Answer:
        bodies.append(msgspec.json.decode(call.body))
        return await answer(call)

    upstream.send = noted  # type: ignore[method-assign]
    async with submitters(upstream, 1, whole=whole) as (running, (one,)):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await reaches(running, "p1", Status.PROCESSING)
    assert (asked, [body["input"] for body in bodies]) == (
        ["p1"],
        [{"large": True, "prompt": "long"}],
    )


async def test_nothing_is_called_after_the_time_for_an_attempt() -> None:
    """A wait that ends after it is not followed by a call.

    The prediction fails with what the provider said last.
    """
    upstream = Upstream(429)  # the wait after it is a second
    async with submitters(upstream, 1, Timeouts(attempt=500)) as (running, (one,)):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await reaches(running, "p1", Status.FAILED)
        assert (await running.prediction("p1")).error == "AI service submission failed: 429"
    assert not upstream.created


async def test_what_is_taken_as_the_last_worker_ends_is_submitted() -> None:
    """A prediction that is taken just after the only worker has returned gets a new one."""
    upstream = Upstream()
    taken = list[bool]()

    def reached(step: int, name: str) -> None:
        if (step, name) == (5, "p1"):
            # Scheduled in the worker's last step: it comes before whatever the worker's end
            # schedules.
            asyncio.get_running_loop().call_soon(
                lambda: taken.append(several[0].enqueue("p2", "replicate"))
            )

    async with submitters(upstream, 1, limits=Limits(concurrency=1), reached=reached) as (
        running,
        several,
    ):
        await ordered(running, "p1", "p2")
        several[0].enqueue("p1", "replicate")
        await reaches(running, "p2", Status.PROCESSING)
    assert (taken, upstream.created) == ([True], Counter({"http://t/p1": 1, "http://t/p2": 1}))


@pytest.mark.parametrize(
    "body",
    [b'{"detail":"caf\xe9"}', b'{"detail":1e999}', b'{"caf\xe9":1}', b'{"detail":"\\ud800"}'],
)
async def test_a_refusal_that_cannot_be_read_is_one(body: bytes) -> None:
    """A refusal that is no UTF-8, or has an endless number, fails the prediction at once."""
    upstream = Upstream()

    async def refuse(call: Call) -> Answer:
        return Answer(422, {}, body)

    upstream.send = refuse  # type: ignore[method-assign]
    async with submitters(upstream, 1) as (running, (one,)):
        await ordered(running, "p1")
        one.enqueue("p1", "replicate")
        await reaches(running, "p1", Status.FAILED)
        error = (await running.prediction("p1")).error
        assert isinstance(error, str)
        assert error.startswith("AI service submission failed: 422")
        assert (one.refused, one.interrupted) == (1, 0)


async def test_who_has_a_stream_and_who_has_none() -> None:
    """Replicate's answers are read while they are written; of others the remedy is told, with who has one."""
    async with submitters(Upstream(), 1) as (_, [submitter]):
        assert submitter.stream_refusal("replicate") is None
        told = submitter.stream_refusal("fal")
        assert told is not None
        assert "'fal' has no stream" in told
        assert "or order from replicate." in told
