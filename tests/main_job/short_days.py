"""`tidings serve` in a small world: its day is short, and it remembers few predictions.

Rows are purged a day after the retention of their events, both files are looked through once a minute, and a hub
remembers the newest versions of 100,000 predictions. The variables `SHORT_DAY`, `SHORT_MINUTE` (seconds) and
`SMALL_HUB` say what these are here, so that a test reaches them; all else is as it always is.
"""

import os

import gateway.hub
import streams.fold
import streams.sqlite_log
import streams.sqlite_retention
import tidings.service
from tidings.cli import main

if __name__ == "__main__":
    day, minute = float(os.environ.pop("SHORT_DAY")), float(os.environ.pop("SHORT_MINUTE"))
    streams.fold.DAY = streams.sqlite_retention._DELETIONS_MS = int(day * 1000)
    streams.sqlite_log._TRIM_SECONDS = tidings.service.SWEEP_EVERY = minute
    _, *others = gateway.hub.Hub.__init__.__defaults__ or ()
    gateway.hub.Hub.__init__.__defaults__ = (int(os.environ.pop("SMALL_HUB")), *others)
    main()
