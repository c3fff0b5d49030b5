"""Every metric that there is, and the page about them: `python -m tests.support.reference.metric_names` writes it."""

import sys
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry

from tests.support.root import ROOT
from tidings.observability.gateway_metrics import GATEWAY
from tidings.observability.metric_tables import (
    ARCHIVER,
    CACHE,
    LOG,
    NOTIFIER,
    PROCESSOR,
    PROJECTION,
    PROVIDERS,
    SERVICE,
    TRACES,
)
from tidings.observability.metrics import Family
from tidings.observability.usage_metrics import USAGE
from tidings.storage.memory import MemoryStore
from tidings.storage.wrappers.instrumented import ObservedStore

PAGE = ROOT / "docs" / "reference" / "metrics.md"

PARTS: tuple[tuple[str, tuple[Family[Any], ...]], ...] = (
    ("Every role", SERVICE),
    ("The log", LOG),
    ("The cache", CACHE),
    ("The processor", PROCESSOR),
    ("Usage and the store's index", USAGE),
    ("The gateway", GATEWAY),
    ("The archiver", ARCHIVER),
    ("The notifier", NOTIFIER),
    ("Work with providers", PROVIDERS),
    ("A store that takes its time", PROJECTION),
    ("Traces", TRACES),
)

ELSEWHERE = {"up": (), "process_cpu_seconds_total": (), "process_resident_memory_bytes": ()}
"""Prometheus' own, and those of every Python process."""


def of_stores() -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Name, kind, meaning and labels of the stores' metrics."""
    registry = CollectorRegistry()
    ObservedStore(MemoryStore(), registry=registry)
    suffix = {"counter": "_total"}
    labels = ("store", "operation", "arm")
    return [
        (m.name + suffix.get(m.type, ""), m.type, m.documentation, labels)
        for m in registry.collect()
    ]


def series() -> dict[str, frozenset[str]]:
    """Per name of a series (a histogram has three) its labels, without those that Prometheus adds."""
    found: dict[str, frozenset[str]] = {}
    families = [(f.name, f.kind, f.labels) for _, families in PARTS for f in families]
    for name, kind, labels in [*families, *((n, k, labels) for n, k, _, labels in of_stores())]:
        if kind == "histogram":
            found |= {f"{name}_bucket": frozenset({*labels, "le"})}
            found |= {f"{name}_{end}": frozenset(labels) for end in ("count", "sum")}
        else:
            found[name] = frozenset(labels)
    return found | {name: frozenset(labels) for name, labels in ELSEWHERE.items()}


def lines() -> Iterator[str]:
    """The page."""
    yield "# Metrics"
    yield ""
    yield (
        "Served at `/metrics` on every role's port, to this machine and to `admin` tokens, beside what every Python "
        "process tells of itself (`process_*`, `python_*`). What each alert means is in [alerts](alerts.md)."
    )
    for title, families in PARTS:
        yield from _table(title, [(f.name, f.kind, f.text, f.labels) for f in families])
    yield from _table("Stores", of_stores())


def _table(title: str, rows: list[tuple[str, str, str, tuple[str, ...]]]) -> Iterator[str]:
    yield from ("", f"## {title}", "", "| name | kind | labels | |", "|---|---|---|---|")
    for name, kind, text, labels in rows:
        yield f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |"


def page() -> str:
    """The page's text."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
