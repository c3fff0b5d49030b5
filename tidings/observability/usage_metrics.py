"""The metrics of what predictions have used, and of the index that sums are made from."""

from typing import TYPE_CHECKING

from tidings.observability.metrics import Family

if TYPE_CHECKING:
    from tidings.observability.health import HealthMonitor

USAGE: tuple[Family["HealthMonitor"], ...] = (
    Family(
        "tidings_usage_total",
        "counter",
        "What predictions have used: input_tokens, output_tokens, seconds, images. Of 200 names the "
        "rest counts as `other`.",
        lambda o: sorted(o.processor.statistics.usage.used.items()),
        ("provider", "model", "unit"),
    ),
    Family(
        "tidings_usage_cost_total",
        "counter",
        "What predictions have cost, by currency; `/api/usage` has the exact sums.",
        lambda o: sorted(o.processor.statistics.usage.costs.items()),
        ("provider", "model", "currency"),
    ),
    Family(
        "tidings_storage_unindexed_records",
        "gauge",
        "Records that the store's index of providers, errors, prompts and usage lags behind.",
        lambda o: o.unindexed,
    ),
)
