"""Word to other servers, on a log in memory and to a receiver over real HTTP."""

import asyncio
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from tests.support.conditions import eventually
from tests.support.receiver import OLD_SECRET, SECRET, Receiver
from tidings.storage.prediction import ABSENT, Prediction, Status, Transition, encode
from tidings.storage.resilience.backoff import Backoff
from tidings.streams.changes.codec import announcement
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    DELIVERIES,
    Log,
    NewRecord,
    Position,
    StoredRecord,
)
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.notifications.address import AddressBook, BadAddress, Sealed
from tidings.streams.notifications.delivery import ENDS, Delivery, parse_key
from tidings.streams.notifications.delivery_index import DeliveryIndex
from tidings.streams.notifications.dispatcher import Dispatcher
from tidings.streams.notifications.notifier import Notifier, Target
from tidings.streams.notifications.pace import PAUSED_AFTER
from tidings.streams.notifications.records import read
from tidings.streams.notifications.sender import Sent, WebhookSender, retry_after
from tidings.streams.processing.dead_letters import parse_dead_letter, redriven

KEY = b"a webhook key of thirty-two bytes"
QUICK = Backoff((0.05,), jitter=0)
PATH = (Status.STARTING, Status.PROCESSING, Status.SUCCEEDED)


def record(
    prediction_id: str,
    count: int,
    address: Sealed | None = None,
    events: Sequence[str] = (),
    created_at: int = 1_764_000_000_000,
) -> Prediction:
    """A prediction that has gone so many steps, each by an event at the next offset."""
    steps = [None, *PATH]
    transitions = tuple(
        Transition(steps[n], steps[n + 1] or Status.STARTING, created_at + n, position=f"0:{n}")
        for n in range(count)
    )
    return Prediction(
        prediction_id=prediction_id,
        status=PATH[count - 1],
        version=count,
        created_at=created_at,
        updated_at=created_at + count,
        transitions=transitions,
        webhook=Raw(msgspec.json.encode(address)) if address else ABSENT,
        webhook_events=Raw(msgspec.json.encode(events)) if events else ABSENT,
    )


def change(one: Prediction, quiet: int = 0) -> NewRecord:
    """Its announcement."""
    return announcement(one, encode(one), position=Position(0, one.version), quiet=quiet)


class World:
    """A log, a notifier and how it is set up."""

    def __init__(self, log: Log, book: AddressBook, notifier: Notifier) -> None:
        self.log, self.book, self.notifier = log, book, notifier

    async def announce(self, *records: Prediction, quiet: int = 0) -> None:
        """Put changes into the topic."""
        await self.log.append(CHANGES, [change(one, quiet) for one in records])

    async def dead_letters(self) -> list[Any]:
        """Those in the topic."""
        ends = await self.log.bounds(DEAD_LETTERS)
        found = []
        for partition, (_, end) in ends.items():
            for offset in range(end):
                one = (await self.log.read_at(DEAD_LETTERS, {partition: offset}))[partition]
                found.append(parse_dead_letter(one))
        return found


async def standing(log: Log) -> dict[bytes, bytes]:
    """What the topic of deliveries says once it is compacted; empty values are removals."""
    found: dict[bytes, bytes] = {}
    async for batch in read_until_end(log, DELIVERIES):
        found.update((record.key or b"", record.value or b"") for record in batch)
    return found


@asynccontextmanager
async def notifying(
    receiver: Receiver | None,
    log: Log | None = None,
    *,
    allow: Sequence[str] = (),
    targets: Sequence[tuple[str, frozenset[Status]]] = (),
    secrets: Sequence[str] = (SECRET,),
    **options: Any,
) -> AsyncIterator[World]:
    """A notifier at work."""
    log = log or MemoryLog(partitions=1)
    allowed = [*allow, *([receiver.allowed] if receiver else [])]
    book = AddressBook(KEY, allowed)
    keys = [b64decode(one.removeprefix("whsec_")) for one in secrets]
    sender = WebhookSender(keys, allowed, timeout=1)
    send = options.pop("send", sender.send)
    dispatcher = Dispatcher(log, send, book, **{"schedule": QUICK, **options})
    notifier = Notifier(
        log, dispatcher, book, [Target(book.seal(url), statuses) for url, statuses in targets]
    )
    task = asyncio.create_task(notifier.run())
    try:
        await eventually(lambda: notifier._assigned or task.done(), 5)
        yield World(log, book, notifier)
        assert not task.done() or task.exception() is None
    finally:
        task.cancel()  # which commits, as `stop` does, and waits for no fetch
        await asyncio.wait([task], timeout=5)
        await sender.close()


async def test_a_step_is_told_once_signed_and_without_the_address() -> None:
    """The address that a prediction names hears of its end, by the official library's rules, and reads no secret."""
    async with Receiver().serving() as receiver, notifying(receiver) as world:
        address = world.book.seal(receiver.url)
        assert address.host == receiver.allowed
        assert "top-secret" not in str(msgspec.json.encode(address))
        for count in (1, 2, 3):
            await world.announce(record("p.1", count, address))
        await world.announce(record("p.1", 3, address))  # again, as after a crash
        await world.announce(record("p2", 3, address))
        await receiver.reaches("p2", "prediction.succeeded")
        await receiver.reaches("p.1", "prediction.succeeded")
        message_id, body = receiver.taken[0]
        assert message_id == "p%2E1:1764000000000:2"
        assert body["timestamp"] == "2025-11-24T16:00:00.002+00:00"
        assert body["data"]["status"] == "succeeded"
        assert "webhook" not in body["data"]


async def test_the_statuses_that_were_asked_for_come_in_order() -> None:
    """Steps that were folded into one change are told one by one, in order."""
    async with Receiver().serving() as receiver, notifying(receiver) as world:
        address = world.book.seal(receiver.url)
        wanted = ["starting", "processing", "succeeded"]
        receiver.answers = [500, 503, 500]
        await world.announce(record("p1", 3, address, wanted))
        await receiver.reaches("p1", *(f"prediction.{one}" for one in wanted))
        assert len({message_id for message_id, _ in receiver.taken}) == 3


async def test_a_text_is_told_by_its_steps_alone() -> None:
    """However often a text grows, each step is told once, with the text as it is by then."""
    async with Receiver().serving() as receiver, notifying(receiver) as world:
        address = world.book.seal(receiver.url)
        wanted = ["processing", "succeeded"]
        for version, text in enumerate(("", "two", "two grey", "two grey birds"), 2):
            one = replace(record("p1", 2, address, wanted), version=version, text=text)
            await world.announce(one)
        await receiver.reaches("p1", "prediction.processing")
        done = replace(record("p1", 3, address, wanted), version=6, text="two grey birds")
        await world.announce(done)
        await receiver.reaches("p1", "prediction.processing", "prediction.succeeded")
        assert receiver.taken[-1][1]["data"]["text"] == "two grey birds"
        assert receiver.seen == 2


async def test_a_question_is_told_once_between_the_steps() -> None:
    """Who asked for `waiting` is told of each question, after the step before it, and of the end."""
    log = MemoryLog(partitions=1)
    async with Receiver().serving() as receiver, notifying(receiver, log) as world:
        address = world.book.seal(receiver.url)
        wanted = ["processing", "succeeded", "waiting"]
        asked = replace(
            record("p1", 2, address, wanted),
            waiting=True,
            question=Raw(b'"Which cat?"'),
            question_number=1,
        )
        receiver.answers = [500]
        other = replace(asked, prediction_id="p2", webhook_events=ABSENT)
        await world.announce(asked, other, asked)
        types = ["prediction.processing", "prediction.waiting"]
        await receiver.reaches("p1", *types)
        again = replace(asked, version=5, question=Raw(b'"Which dog?"'), question_number=2)
        done = replace(record("p1", 3, address, wanted), version=6, question_number=2)
        await world.announce(again, again, done)
        await receiver.reaches("p1", *types, "prediction.waiting", "prediction.succeeded")
        ids = [message_id.rpartition(":")[2] for message_id, _ in receiver.taken]
        assert ids == ["1", "q1", "q2", "2"]
        assert receiver.taken[1][1]["data"]["question"] == "Which cat?"
        assert receiver.of("p2") == []


async def test_questions_keep_their_place_over_a_restart() -> None:
    """What waits of a prediction is sent in the order of its life by the next notifier, too."""
    log = MemoryLog(partitions=1)
    receiver = Receiver()
    async with receiver.serving():
        pass
    wanted = ["processing", "succeeded", "waiting"]
    async with notifying(receiver, log, schedule=Backoff((0.2,), jitter=0)) as world:
        address = world.book.seal(receiver.url)
        asked = replace(record("p1", 2, address, wanted), waiting=True, question_number=1)
        await world.announce(asked, replace(record("p1", 3, address, wanted), version=4))
        await eventually(lambda: world.notifier.dispatcher.failed, 5)
    async with receiver.serving(), notifying(receiver, log):
        names = ("processing", "waiting", "succeeded")
        await receiver.reaches("p1", *(f"prediction.{name}" for name in names))


async def test_the_first_start_is_at_the_end_of_the_changes() -> None:
    """What was announced before the first start is told to nobody; what comes while it is away is."""
    log = MemoryLog(partitions=1)
    async with Receiver().serving() as receiver:
        everything = [(receiver.url, ENDS)]
        await log.append(CHANGES, [change(record("old", 3))])
        async with notifying(receiver, log, targets=everything) as world:
            await world.announce(record("new", 3))
            await receiver.reaches("new", "prediction.succeeded")
        await log.append(CHANGES, [change(record("meanwhile", 3))])
        async with notifying(receiver, log, targets=everything) as world:
            await receiver.reaches("meanwhile", "prediction.succeeded")
        assert receiver.of("old") == []


async def test_what_was_told_is_not_told_again_after_a_restart() -> None:
    """A step that comes after a restart is told alone."""
    log = MemoryLog(partitions=1)
    async with Receiver().serving() as receiver:
        everything = [(receiver.url, frozenset(Status))]
        async with notifying(receiver, log, targets=everything) as world:
            await world.announce(record("p1", 2))
            await receiver.reaches("p1", "prediction.starting", "prediction.processing")
        async with notifying(receiver, log, targets=everything) as world:
            await world.announce(record("p1", 2), record("p1", 3))
            await eventually(lambda: len(receiver.of("p1")) == 3, 5)
        assert receiver.of("p1")[-1] == "prediction.succeeded"
        assert receiver.seen == 3


async def test_what_waits_survives_a_restart() -> None:
    """A delivery that failed is sent by the next notifier, with the same id and the count of its tries."""
    log = MemoryLog(partitions=1)
    receiver = Receiver()
    async with receiver.serving():
        pass  # its port is known now, and nobody listens there
    async with notifying(receiver, log, schedule=Backoff((0.3,), jitter=0)) as world:
        await world.announce(record("p1", 3, world.book.seal(receiver.url)))
        await eventually(lambda: world.notifier.dispatcher.failed, 5)
    async with receiver.serving(), notifying(receiver, log) as world:
        await receiver.reaches("p1", "prediction.succeeded")
        await eventually(lambda: world.notifier.dispatcher.waiting == 0, 5)


async def test_a_repair_tells_nobody_unless_asked() -> None:
    """Steps that a repair brought are not told, and what comes after it is."""
    async with Receiver().serving() as receiver, notifying(receiver) as world:
        address = world.book.seal(receiver.url)
        await world.announce(record("p1", 3, address), quiet=3)
        await world.announce(record("p2", 2, address, ["processing", "succeeded"]), quiet=2)
        await world.announce(record("p2", 3, address, ["processing", "succeeded"]))
        await world.announce(record("p3", 3, address))  # asked for: nothing is marked
        await receiver.reaches("p3", "prediction.succeeded")
        await receiver.reaches("p2", "prediction.succeeded")
        assert receiver.of("p1") == []


async def test_a_deleted_prediction_is_told_no_more() -> None:
    """What waits of a prediction is forgotten with it, here and in the topic."""
    log = MemoryLog(partitions=1)
    receiver = Receiver()
    async with receiver.serving():
        pass
    async with notifying(receiver, log, schedule=Backoff((30,), jitter=0)) as world:
        await world.announce(record("p1", 3, world.book.seal(receiver.url)))
        await eventually(lambda: world.notifier.dispatcher.failed, 5)
        await log.append(CHANGES, [NewRecord(b"p1", b"", [("v", b"4"), ("u", b"5")], 0)])
        await eventually(lambda: world.notifier.dispatcher.waiting == 0, 5)
    async with receiver.serving(), notifying(receiver, log) as world:
        await world.announce(record("p2", 3, world.book.seal(receiver.url)))
        await receiver.reaches("p2", "prediction.succeeded")
        assert receiver.of("p1") == []


async def test_a_deletion_leaves_nothing_in_the_topic() -> None:
    """Nothing of a deleted prediction stays, also if a try was under way and fails afterwards."""
    log = MemoryLog(partitions=1)
    async with Receiver().serving() as receiver, notifying(receiver, log) as world:
        receiver.hold, receiver.answers = asyncio.Event(), [500]
        await world.announce(record("told", 3, world.book.seal(receiver.url)))
        await eventually(lambda: receiver.seen, 5)
        await log.append(CHANGES, [NewRecord(b"told", b"", [("v", b"4"), ("u", b"5")], 0)])
        await eventually(lambda: world.notifier.dispatcher.waiting == 0, 5)
        receiver.hold.set()
        await eventually(lambda: world.notifier.dispatcher.failed, 5)
        receiver.hold = None
        await world.announce(record("next", 3, world.book.seal(receiver.url)))
        await receiver.reaches("next", "prediction.succeeded")
        left = [key for key, value in (await standing(log)).items() if value]
        assert not [key for key in left if key.endswith(b" told")]
        assert receiver.of("told") == []


async def test_how_far_was_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the predictions told long ago nothing stays, in memory or in the topic."""
    monkeypatch.setattr("tidings.streams.notifications.notifier.MOST_TOLD", 5)
    log = MemoryLog(partitions=1)
    async with Receiver().serving() as receiver, notifying(receiver, log) as world:
        address = world.book.seal(receiver.url)
        await world.announce(*(record(f"p{n}", 3, address) for n in range(20)))
        await eventually(lambda: len(receiver.taken) == 20, 5)
        await world.announce(record("last", 3, address))
        await receiver.reaches("last", "prediction.succeeded")
        assert len(world.notifier._told) == 5
        told = [key for key, value in (await standing(log)).items() if value and key[:1] == b"t"]
        assert len(told) <= 6


async def test_an_address_that_hangs_holds_nobody_up() -> None:
    """While one address answers nothing, hundreds of deliveries reach another at once."""
    async with Receiver().serving() as slow, Receiver().serving() as quick:
        slow.hold = asyncio.Event()
        async with notifying(quick, allow=[slow.allowed]) as world:
            hanging, well = world.book.seal(slow.url), world.book.seal(quick.url)
            await world.announce(*(record(f"s{n}", 3, hanging) for n in range(300)))
            await eventually(lambda: slow.seen, 5)
            started = time.monotonic()
            await world.announce(*(record(f"q{n}", 3, well) for n in range(300)))
            await eventually(lambda: len(quick.taken) == 300, 10)
            assert time.monotonic() - started < 5  # each hanging request takes 1 s
            assert slow.seen < 30
            slow.hold.set()


async def test_dead_addresses_leave_places_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses hang, one that is known to take what it is sent is not held up."""
    monkeypatch.setattr("tidings.streams.notifications.dispatcher.MOST_AT_ONCE", 8)
    monkeypatch.setattr("tidings.streams.notifications.dispatcher.MOST_DOUBTFUL", 4)
    taken: list[str] = []
    hanging: list[str] = []

    async def send(url: str, message_id: str, _: bytes) -> Sent:
        if "dead" in url:
            hanging.append(url)
            await asyncio.Event().wait()
        taken.append(message_id)
        return Sent(200)

    async with notifying(None, send=send) as world:
        well = world.book.seal("https://well.example.com/")
        await world.announce(record("first", 3, well))
        await eventually(lambda: taken, 5)
        dead = [world.book.seal(f"https://dead{n}.example.com/") for n in range(40)]
        await world.announce(*(record(f"d{n}", 3, one) for n, one in enumerate(dead)))
        await eventually(lambda: len(hanging) == 4, 5)
        await world.announce(*(record(f"w{n}", 3, well) for n in range(100)))
        await eventually(lambda: len(taken) == 101, 5)
        assert len(hanging) == 4


async def test_an_address_that_fails_is_left_alone_for_a_while() -> None:
    """Hundreds of deliveries for a server that is down make a few requests, not hundreds."""
    async with Receiver().serving() as receiver, notifying(receiver) as world:
        receiver.answers = [500] * 1000
        address = world.book.seal(receiver.url)
        await world.announce(*(record(f"p{n}", 3, address) for n in range(300)))
        dispatcher = world.notifier.dispatcher
        await eventually(lambda: dispatcher.failed >= PAUSED_AFTER, 5)
        (pace,) = dispatcher._addresses.values()
        await eventually(lambda: pace.not_before > time.time(), 5)
        assert receiver.seen < PAUSED_AFTER + 5
        receiver.answers = []
        await eventually(lambda: len(receiver.taken) == 300, 10)  # the pause is over after 1 s


async def test_gone_is_switched_off_and_redriven_when_asked() -> None:
    """An address that answers 410 is sent nothing more; a redrive of its dead letters switches it on again."""
    log = MemoryLog(partitions=1)
    async with Receiver().serving() as receiver, notifying(receiver, log) as world:
        address = world.book.seal(receiver.url)
        receiver.answers = [410]
        await world.announce(record("p1", 3, address))
        await eventually(lambda: world.notifier.dispatcher.switched_off, 5)
        await world.announce(record("p2", 3, address))
        await eventually(lambda: world.notifier.dispatcher.given_up == 2, 5)
        letters = await world.dead_letters()
        assert [(one.code, one.prediction_id, one.topic) for one in letters] == [
            ("webhook-undelivered", "p1", DELIVERIES),
            ("webhook-off", "p2", DELIVERIES),
        ]
        assert "top-secret" not in str(letters)
        assert receiver.seen == 1
        await log.append(DELIVERIES, [redriven(one) for one in letters])
        await receiver.reaches("p1", "prediction.succeeded")
        await receiver.reaches("p2", "prediction.succeeded")
        assert not world.notifier.dispatcher.switched_off
        await world.announce(record("p3", 3, address))
        await receiver.reaches("p3", "prediction.succeeded")


async def test_operators_read_what_waits() -> None:
    """The index names host, tries and reason of what waits, forgets what was taken, and reads on."""
    log = MemoryLog(partitions=3)
    receiver = Receiver()
    async with receiver.serving():
        pass
    index = DeliveryIndex(log)
    async with notifying(receiver, log, schedule=Backoff((0.5,), jitter=0)) as world:
        address = world.book.seal(receiver.url)
        await world.announce(record("p.1", 3, address), record("p2", 3, address))
        await eventually(lambda: world.notifier.dispatcher.failed, 5)
        await index.refresh()
        assert index.waiting == {receiver.allowed: 2}
        (one,) = index.newest(10, "p.1")
        assert (one.id, one.type) == ("p%2E1:1764000000000:2", "prediction.succeeded")
        assert one.host == receiver.allowed
        tried = [one for one in index.newest(10) if one.attempts]
        assert "cannot be reached" in (tried[0].error or "")
        assert index.newest(1) == index.newest(10)[:1]
        async with receiver.serving():
            await eventually(lambda: world.notifier.dispatcher.waiting == 0, 5)
            receiver.answers = [410]
            await world.announce(record("p3", 3, address))
            await eventually(lambda: world.notifier.dispatcher.switched_off, 5)
        await index.refresh()
    assert [off.host for off in index.switched_off] == [receiver.allowed]
    assert index.newest(10) == []


async def test_an_address_in_use_again_stays_so() -> None:
    """What is said of an address has one order, whatever partitions its predictions lie in."""
    log = MemoryLog(partitions=3)
    async with Receiver().serving() as receiver:
        async with notifying(receiver, log) as world:
            address = world.book.seal(receiver.url)
            receiver.answers = [410]
            off, on = record("p1", 3, address), record("p2", 3, address)
            await log.append(CHANGES, [announcement(off, encode(off), position=Position(2, 3))])
            await eventually(lambda: world.notifier.dispatcher.switched_off, 5)
            await log.append(CHANGES, [announcement(on, encode(on), position=Position(1, 3))])
            await eventually(lambda: world.notifier.dispatcher.given_up == 2, 5)
            letters = [one for one in await world.dead_letters() if one.prediction_id == "p2"]
            await log.append(DELIVERIES, [redriven(one) for one in letters])
            await receiver.reaches("p2", "prediction.succeeded")
        async with notifying(receiver, log) as world:
            assert not world.notifier.dispatcher.switched_off


async def test_after_a_day_of_failures_it_is_given_up() -> None:
    """A delivery that fails for the whole period becomes a dead letter, and its address is switched off."""
    async with Receiver().serving() as receiver, notifying(receiver, period=0.2) as world:
        receiver.answers = [500] * 1000
        await world.announce(record("p1", 3, world.book.seal(receiver.url)))
        await eventually(lambda: world.notifier.dispatcher.given_up, 5)
        (letter,) = await world.dead_letters()
        assert letter.code == "webhook-undelivered"
        assert "it answers 500" in letter.message
        assert world.notifier.dispatcher.switched_off


async def test_retry_after_is_heeded() -> None:
    """An address that asks for quiet gets it."""
    async with Receiver().serving() as receiver, notifying(receiver) as world:
        receiver.answers, receiver.headers = [429], {"Retry-After": "1"}
        started = time.monotonic()
        await world.announce(record("p1", 3, world.book.seal(receiver.url)))
        await receiver.reaches("p1", "prediction.succeeded")
        assert time.monotonic() - started >= 0.9


async def test_quiet_that_is_asked_for_holds_for_all() -> None:
    """`Retry-After` holds back all that waits for the address, not the one delivery that met it."""
    async with Receiver().serving() as receiver, notifying(receiver) as world:
        receiver.answers, receiver.headers = [503], {"Retry-After": "1"}
        address = world.book.seal(receiver.url)
        started = time.monotonic()
        await world.announce(*(record(f"p{n}", 3, address) for n in range(20)))
        await eventually(lambda: receiver.taken, 5)
        assert time.monotonic() - started >= 0.9
        await eventually(lambda: len(receiver.taken) == 20, 5)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120), ("999999999", 86400), ("-1", None), ("soon", None), (None, None)],
)
def test_retry_after_is_read(header: str | None, seconds: float | None) -> None:
    """Seconds are bounded to a day; what is neither seconds nor a date says nothing."""
    assert retry_after(header) == seconds


async def test_a_redirect_is_a_failure() -> None:
    """A redirect to an address inside is not followed."""
    async with Receiver().serving() as inner, Receiver().serving() as receiver:
        receiver.answers = [302] * 3
        receiver.headers = {"Location": inner.url}
        async with notifying(receiver) as world:
            await world.announce(record("p1", 3, world.book.seal(receiver.url)))
            await receiver.reaches("p1", "prediction.succeeded")
        assert inner.seen == 0


async def test_two_secrets_sign_each_body() -> None:
    """While a secret is replaced, receivers with the old one and with the new one verify."""
    async with (
        Receiver(OLD_SECRET).serving() as old,
        Receiver(SECRET).serving() as new,
        notifying(old, allow=[new.allowed], secrets=[SECRET, OLD_SECRET]) as world,
    ):
        await world.announce(record("p1", 3, world.book.seal(old.url)))
        await world.announce(record("p2", 3, world.book.seal(new.url)))
        await old.reaches("p1", "prediction.succeeded")
        await new.reaches("p2", "prediction.succeeded")


def test_addresses_that_are_refused() -> None:
    """A private or unencrypted address, and one with credentials, is refused when the order comes."""
    book = AddressBook(KEY)
    for url in (
        "http://example.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest",
        "https://user:secret@example.com/",
        "ftp://example.com",
        "https://",
        "",
        "x" * 3000,
    ):
        with pytest.raises(BadAddress) as caught:
            book.seal(url)
        assert "secret" not in str(caught.value)


def test_sealing_is_the_same_each_time_and_needs_the_key() -> None:
    """The same address gives the same bytes, another key cannot read it, and a forged one is refused."""
    book, other = AddressBook(KEY), AddressBook(b"another key of thirty-two bytes..")
    sealed = book.seal("https://hooks.example.com/a?token=1")
    assert sealed == book.seal("https://hooks.example.com/a?token=1")
    assert book.open(sealed) == "https://hooks.example.com/a?token=1"
    for reader, address in ((other, sealed), (book, Sealed("hooks.example.com", "AAAA"))):
        with pytest.raises(BadAddress):
            reader.open(address)


def test_a_delivery_that_cannot_be_read_is_left() -> None:
    """A record of another shape in the topic is no delivery."""
    assert read(b"{}", Delivery) is None
    assert read(b"", Delivery) is None
    assert parse_key(b"\xff") is None
    assert parse_key(b"d target not-a-number 1 p1") is None
    assert StoredRecord(DELIVERIES, 0, 0, 0, None, None).key is None
    assert Delivery("a.b", 1, 2, Sealed("h", "s"), Raw(b"{}"), 3).message_id == "a%2Eb:1:2"
