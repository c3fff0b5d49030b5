"""Measurements, each printing one table."""

import sys

from tests.support import tidings_process

# The program that watches its event loop for the tests takes its lock a hundred times a second.
tidings_process.WATCHED = (sys.executable, "-m", "tidings")
