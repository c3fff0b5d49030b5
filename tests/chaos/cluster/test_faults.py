"""The suite of faults in its short form, and that its checker sees what is wrong."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.chaos.cluster import faults
from tests.chaos.cluster.fault_report import Outcome, Report, as_json, table
from tests.chaos.cluster.ledger import Ledger, Line, Problem, Way
from tests.chaos.cluster.schedule import (
    NAMES,
    SHORT,
    SHORT_LASTING,
    SHORT_PAUSE,
    Kind,
    UnknownFault,
    schedule,
)
from tests.chaos.cluster.watchers import Watcher
from tests.support import system
from tidings.client.progress import Selection, parse
from tidings.storage.prediction import Status

SEED = 7
MINUTES = 30.0


def sent(ledger: Ledger, steps: int, last: int = 9) -> Line:
    """A prediction of which some steps were acknowledged."""
    line = ledger.open(Line("p1", Way.WEBHOOK, None, last, tried=steps))
    ledger.acknowledge(line, steps)
    return line


def show(
    watcher: Watcher, version: int, status: str = "processing", logs: int | None = None
) -> None:
    record = f'{{"predictionId":"p1","version":{version},"status":"{status}","logsLength":{logs or version}}}'
    watcher.take(parse(f'{{"type":"change","prediction":{record}}}'))


@pytest.fixture
def ledger() -> Ledger:
    """An empty one."""
    return Ledger()


@pytest.fixture
def watcher(ledger: Ledger) -> Watcher:
    """A client that watches everything, connected."""
    one = Watcher("one", Selection(all=True), ledger)
    one.begin({})
    return one


def test_what_is_right_is_no_problem(ledger: Ledger, watcher: Watcher) -> None:
    """Versions that rise, jumps included, with the content of their step; a new connection may start where it knows."""
    sent(ledger, 9)
    show(watcher, 1)
    show(watcher, 4)
    watcher.begin({"p1": 4})
    show(watcher, 9, "succeeded")
    watcher.begin({})
    show(watcher, 9, "succeeded")
    ledger.settled("p1", 9, ("starting", "processing", "succeeded"))
    assert not ledger.problems
    assert ledger.delivered == 4


def test_a_version_sent_twice_is_seen(ledger: Ledger, watcher: Watcher) -> None:
    """On one connection neither a version twice nor an older one, nor one that the client said it knows."""
    sent(ledger, 5)
    show(watcher, 3)
    show(watcher, 3)
    show(watcher, 2)
    watcher.begin({"p1": 4})
    show(watcher, 4)
    assert ledger.problems == {Problem.REPEATED: 3}


def test_a_lost_event_is_seen(ledger: Ledger) -> None:
    """A record that ends below what was acknowledged has lost the difference."""
    sent(ledger, 5)
    ledger.settled("p1", 3, ("starting", "processing"))
    assert ledger.problems == {Problem.LOST: 2}


def test_an_event_applied_twice_is_seen(ledger: Ledger, watcher: Watcher) -> None:
    """A version beyond what was sent shows at once, and in the end."""
    sent(ledger, 5)
    show(watcher, 6)
    ledger.settled("p1", 7, ("starting", "processing"))
    assert ledger.problems == {Problem.TWICE: 3}


def test_other_content_is_seen(ledger: Ledger, watcher: Watcher) -> None:
    """A version holds its own step: another status or another log was built from other events."""
    line = sent(ledger, 5)
    show(watcher, 3, logs=2)
    show(watcher, 4, "succeeded")
    ledger.settled("p1", 5, ("starting", "processing", "processing"))
    assert ledger.problems == {Problem.WRONG: 3}
    assert line.status(9) is Status.SUCCEEDED


def test_the_same_seed_gives_the_same_faults() -> None:
    """A schedule is replayed by its seed; each fault of the catalog comes before any comes again."""
    one, two, other = schedule(SEED), schedule(SEED), schedule(SEED + 1)
    first = [next(one) for _ in range(2 * len(NAMES))]
    assert first == [next(two) for _ in first]
    assert first != [next(other) for _ in first]
    for half in (first[: len(NAMES)], first[len(NAMES) :]):
        assert sorted(fault.name for fault in half) == sorted(NAMES)


def test_faults_are_chosen_by_name() -> None:
    """Those named come in their order, once; an unknown one is named."""
    chosen = list(schedule(SEED, ("proxy.kill", "broker.full")))
    assert [(fault.part, fault.kind) for fault in chosen] == [
        ("proxy", Kind.KILL),
        ("broker", Kind.FULL),
    ]
    with pytest.raises(UnknownFault, match=r"broker\.tickle"):
        next(schedule(SEED, ("broker.tickle",)))


def test_a_report_says_whether_everything_holds(ledger: Ledger) -> None:
    """What is wrong makes the report bad, and stands in it with the seed."""
    outcome = Outcome(1, "proxy.kill", 3.0, 2.0, 0.1, 0.4, 1.2, 3.5, {"gateway-1": ["log"]})
    report = Report(SEED, 50, 1.0, 24, [outcome], verified={"faults": 0, "compared": 3})
    sent(ledger, 5)
    report.close(ledger)
    assert report.good
    assert outcome.in_time
    assert not replace(outcome, flow=2.2).in_time
    assert not replace(outcome, flow=None).in_time
    assert "Everything holds." in table(report)
    ledger.settled("p1", 3, ("starting", "processing"))
    report.close(ledger)
    assert not report.good
    assert f"--seed {SEED}" in table(report)
    assert "lost: p1 ended at v3; 5 steps were acknowledged" in as_json(report)


@pytest.mark.kafka
async def test_the_main_faults(tmp_path: Path) -> None:
    """Under the main faults nothing acknowledged is lost or applied twice, and every client ends with the newest."""
    system.require(*system.broker_parts(), system.HAPROXY)
    plan = faults.Plan(
        schedule(SEED, SHORT, SHORT_LASTING, SHORT_PAUSE), 0.0, SEED, rate=30, clients=12, slack=5.0
    )
    report = await asyncio.wait_for(faults.run(tmp_path, plan, print), 600)
    print(table(report))  # noqa: T201
    assert report.good, report.notes
    assert report.acknowledged == report.applied > 300
    assert len(report.outcomes) == len(SHORT)


@pytest.mark.long
@pytest.mark.kafka
async def test_every_fault_for_half_an_hour(tmp_path: Path) -> None:
    """The same holds under a random schedule of all faults."""
    system.require(*system.broker_parts(), system.HAPROXY, system.FAKETIME)
    plan = faults.Plan(schedule(SEED), MINUTES * 60, SEED, rate=50, clients=24, slack=2.0)
    report = await faults.run(tmp_path, plan, print)
    print(table(report))  # noqa: T201
    assert report.good, report.notes
