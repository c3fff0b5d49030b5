"""What a run of faults has shown, as a table and as JSON."""

from collections import Counter

import msgspec
from msgspec import Struct

from tests.chaos.cluster.ledger import Ledger, Problem
from tests.chaos.cluster.schedule import Fault


class Outcome(Struct, rename="camel"):
    """What one fault did. Times are in seconds."""

    number: int
    fault: str
    seconds: float
    limit: float
    calm: float
    """What `flow` was just before the fault: what the machine itself costs."""
    flow: float | None
    """From the end of the fault to news, acknowledged after it, at a client that comes new and at those that stayed
    connected; None: never."""
    everyone: float | None
    """The same at every client, those included that still waited before they came back."""
    silence: float
    """The longest time for which a client that watches everything was told nothing."""
    not_ready: dict[str, list[str]]
    """Which processes said during the fault that they are not ready, and of which part."""

    @property
    def in_time(self) -> bool:
        """Whether news flowed again within the limit, over what it takes without any fault."""
        return self.flow is not None and self.flow - self.calm <= self.limit


class Report(Struct, rename="camel"):
    """The whole run."""

    seed: int
    rate: float
    minutes: float
    clients: int
    outcomes: list[Outcome]
    acknowledged: int = 0
    applied: int = 0
    delivered: int = 0
    sent_again: int = 0
    predictions: int = 0
    made: int = 0
    poison: int = 0
    dead_letters: int = 0
    reasons: dict[str, int] = {}
    """Of the dead letters, by code."""
    groups: int = 0
    deadlines: int = 0
    """Predictions that their deadlines have failed."""
    retries: int = 0
    answers: int = 0
    webhooks: int = 0
    """Ends that another server was told of."""
    connections: int = 0
    problems: dict[str, int] = {}
    notes: list[str] = []
    untested: list[str] = []
    verified: dict[str, object] = {}
    """What `tidings replay --verify` counted."""

    def close(self, ledger: Ledger) -> None:
        """Take over what the ledger counted."""
        self.acknowledged, self.delivered, self.poison = (
            ledger.acknowledged,
            ledger.delivered,
            ledger.poison,
        )
        self.predictions, self.made = len(ledger.lines), len(ledger.made)
        self.problems = {kind.value: ledger.problems[kind] for kind in Problem}
        self.notes = ledger.notes

    @property
    def good(self) -> bool:
        """Whether everything holds."""
        return not any(self.problems.values())


def progress(fault: Fault, outcome: Outcome) -> str:
    """A line for a fault that is over."""
    return f"{fault.number:3}  {_row(outcome)}"


def table(report: Report) -> str:
    """The report for a terminal."""
    lines = [
        "",
        f"seed {report.seed}, {report.rate:g} events/s, {report.clients} clients, {report.minutes:.1f} minutes",
    ]
    lines += [
        f"{'fault':22} {'lasted':>7} {'calm':>6} {'flow':>7} {'limit':>6} {'everyone':>9} {'silence':>8}  not ready meanwhile"
    ]
    for names in _worst(report.outcomes):
        lines.append(_row(names))
    lines.append("(the slowest of each fault; seconds)")
    calm = [outcome.calm for outcome in report.outcomes]
    counts = Counter(outcome.fault for outcome in report.outcomes)
    lines.append(f"{sum(counts.values())} faults of {len(counts)} kinds")
    figures = {
        "acknowledged": report.acknowledged,
        "applied": report.applied,
        "delivered": report.delivered,
        "lost": report.problems["lost"],
        "applied twice": report.problems["twice"],
        "wrong content": report.problems["wrong"],
        "repeated to a client": report.problems["repeated"],
        "clients without the newest": report.problems["behind"],
        "too slow to flow again": report.problems["slow"],
        "parts that failed": report.problems["part"],
        "sent again by the load": report.sent_again,
        "predictions": report.predictions,
        "made by the provider": report.made,
        "poison / dead letters": f"{report.poison} / {report.dead_letters}",
        **{f"  {code}": count for code, count in sorted(report.reasons.items())},
        "groups / deadlines": f"{report.groups} / {report.deadlines}",
        "retries / answers": f"{report.retries} / {report.answers}",
        "ends told by webhook": report.webhooks,
        "connections of clients": report.connections,
        "flow when all is well": f"{_middle(calm):.2f} s, at most {max(calm, default=0.0):.2f} s",
        "longest silence": f"{max((one.silence for one in report.outcomes), default=0.0):.1f} s",
        "replay --verify": f"{report.verified.get('faults', 'not run')} faults in {report.verified.get('compared', 0)}",
    }
    lines += [
        f"  {name:28} {value:,}" if isinstance(value, int) else f"  {name:28} {value}"
        for name, value in figures.items()
    ]
    lines += [f"not tested: {line}" for line in report.untested]
    lines += report.notes
    lines.append(
        "Everything holds."
        if report.good
        else "This does not hold; the same faults again: --seed " + str(report.seed)
    )
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """The report for programs."""
    return msgspec.json.format(msgspec.json.encode(report)).decode()


def _middle(figures: list[float]) -> float:
    return sorted(figures)[len(figures) // 2] if figures else 0.0


def _row(one: Outcome) -> str:
    flow = "never" if one.flow is None else f"{one.flow:.2f}"
    everyone = "never" if one.everyone is None else f"{one.everyone:.1f}"
    parts = "; ".join(f"{who}: {', '.join(what)}" for who, what in one.not_ready.items())
    mark = " " if one.in_time else "!"
    return f"{one.fault:22} {one.seconds:7.1f} {one.calm:6.2f} {flow:>7}{mark}{one.limit:>6.0f} {everyone:>9} {one.silence:8.1f}  {parts}"


def _worst(outcomes: list[Outcome]) -> list[Outcome]:
    """Of each fault the one after which it took longest."""
    found: dict[str, Outcome] = {}
    for one in outcomes:
        before = found.get(one.fault)
        if before is None or (one.flow is None, one.flow or 0.0) > (
            before.flow is None,
            before.flow or 0.0,
        ):
            found[one.fault] = one
    return [found[name] for name in sorted(found)]
