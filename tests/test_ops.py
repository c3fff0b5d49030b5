"""What operators are given: alerts and the dashboard speak of metrics that exist, and each alert is explained."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.reference import metric_names
from tests.support.root import ROOT

SERIES = metric_names.series()
FROM_PROMETHEUS = {"job", "instance"}
"""Labels that every series gets when it is read."""

WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def rules() -> list[dict[str, Any]]:
    content = YAML(typ="safe").load(ROOT / "deploy" / "alerts.yml")
    return [rule for group in content["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        (ROOT / "deploy" / "grafana-dashboard.json").read_text()
    )["panels"]
    return found


def expressions() -> list[tuple[str, str]]:
    found = [(rule["alert"], str(rule["expr"])) for rule in rules()]
    found += [
        (panel["title"], target["expr"])
        for panel in panels()
        for target in panel.get("targets", ())
    ]
    return found


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The series of an expression, with the labels that are asked of each or grouped by."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    grouped = {
        word
        for part in re.findall(r"\b(?:by|without) ?\(([^)]*)\)", bare)
        for word in WORD.findall(part)
    }
    bare = re.sub(r"\b(?:by|without) ?\([^)]*\)", "", bare)
    for name, selector in re.findall(r"\b((?:tidings|process)_\w+|up)\b(?:\{([^}]*)\})?", bare):
        yield name, set(WORD.findall(selector)) | grouped


def test_expressions_name_series_and_labels_that_exist() -> None:
    """Every series in an alert or a panel is one that the service has, with those labels."""
    unknown = []
    for title, expression in expressions():
        found = list(used(expression))
        assert found, title
        for name, labels in found:
            if name not in SERIES:
                unknown.append(f"{title}: {name}")
            elif more := labels - SERIES[name] - FROM_PROMETHEUS:
                unknown.append(f"{title}: {name} has no {', '.join(sorted(more))}")
    assert unknown == []


def test_counters_are_rated() -> None:
    """A counter is only ever looked at through its rate or increase."""
    for title, expression in expressions():
        for name in re.findall(
            r"(?<![\w(])(tidings_\w+_total)",
            re.sub(r"(rate|increase)\(tidings_\w+", "", expression),
        ):
            pytest.fail(f"{title}: {name}")


def test_every_alert_is_explained() -> None:
    """Each alert has a severity, a summary, and a part of its own on the page that says what it means and what to do."""
    page = (ROOT / "docs" / "reference" / "alerts.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (\w+)\n+(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    names = [rule["alert"] for rule in rules()]
    assert sorted(names) == sorted(parts)
    assert len(set(names)) == len(names)
    for rule in rules():
        name = rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/reference/alerts.md#{name.lower()}"
        assert "**Means:**" in parts[name]
        assert "**Do:**" in parts[name]


def test_alerts_look_at_what_matters() -> None:
    """What can go wrong on the way of a report to a client is looked at by an alert."""
    seen = {name for rule in rules() for name, _ in used(str(rule["expr"]))}
    assert {
        "up",
        "tidings_stuck",
        "tidings_lag_seconds",
        "tidings_dead_letters_total",
        "tidings_webhooks_total",
    } <= seen


def test_the_dashboard_shows_every_metric() -> None:
    """No metric of ours is missing from the dashboard, apart from a few that only say who is who."""
    shown = {
        name
        for panel in panels()
        for target in panel.get("targets", ())
        for name, _ in used(target["expr"])
    }
    ours = {
        re.sub(r"_(bucket|count|sum)$", "", name) for name in SERIES if name.startswith("tidings_")
    }
    missing = ours - {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    assert missing <= {
        "tidings_build_info",
        "tidings_cache_entries",
        "tidings_changes_caught_up",
        "tidings_processor_silent_seconds",
        "tidings_reconciler_watched",
    }


def test_the_dashboard_can_be_laid_out() -> None:
    """Panels have ids of their own and do not lie on each other."""
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_page_on_metrics_is_up_to_date() -> None:
    """The page lists every metric; `python -m tests.support.reference.metric_names` writes it anew."""
    assert metric_names.PAGE.read_text(encoding="utf-8") == metric_names.page()


def test_a_release_stops_before_publishing() -> None:
    """Distributions, npm packages and image are built, used and attested; what publishes them waits for a variable."""
    file = ROOT / ".github" / "workflows" / "release.yml"
    jobs = YAML(typ="safe").load(file.read_text(encoding="utf-8"))["jobs"]
    publishing = {name for name in jobs if name.startswith("publish")}
    assert publishing == {"publish", "publish-image", "publish-packages"}
    for name, job in jobs.items():
        steps = [str(step) for step in job["steps"]]
        publishes = any(
            word in step
            for step in steps
            for word in ("pypi-publish", "npm publish", "'push': True")
        )
        assert publishes == (name in publishing), name
        assert (job.get("if") == "vars.PUBLISH == 'true'") == publishes, name
    for name in ("build", "packages"):
        assert any("attest-build-provenance" in str(step) for step in jobs[name]["steps"])
