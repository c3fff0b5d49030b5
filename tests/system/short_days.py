"""`tidings serve` in a small world: its day is short, and it remembers few predictions.

Rows are purged a day after the retention of their events, both files are looked through once a minute, and a hub
remembers the newest versions of 100,000 predictions. The variables `SHORT_DAY`, `SHORT_MINUTE` (seconds) and
`SMALL_HUB` say what these are here, so that a test reaches them; all else is as it always is.
"""

import os

from tidings.cli.main import main
from tidings.gateway.push import hub
from tidings.runtime import upkeep
from tidings.streams.log.sqlite import log as sqlite_log
from tidings.streams.log.sqlite import retention
from tidings.streams.rules import reducer

if __name__ == "__main__":
    day, minute = float(os.environ.pop("SHORT_DAY")), float(os.environ.pop("SHORT_MINUTE"))
    reducer.DAY = retention._DELETIONS_MS = int(day * 1000)
    sqlite_log._TRIM_SECONDS = upkeep.SWEEP_EVERY = minute
    _, *others = hub.Hub.__init__.__defaults__ or ()
    hub.Hub.__init__.__defaults__ = (int(os.environ.pop("SMALL_HUB")), *others)
    main()
