"""The garbage collector, set for a process that holds much and leaks little."""

import gc

THRESHOLDS = 50_000, 20, 20
"""Allocations before a collection of the youngest generation, and collections before one of the
next. By the defaults (700, 10, 10) a batch of 2,000 events is looked through a dozen times, for
nothing: almost all of it is freed by its reference counts."""


def freeze_startup_objects() -> None:
    """Leave what there is by now out of all collections, and collect less often.

    Called once, after the start.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
