"""Whether the data that a command works on is there: a command never makes it."""

from tidings.cli.support import command
from tidings.config.settings import Settings, sqlite_path

_ELSEWHERE = (
    "are you in the folder of the service? --{flag}, TIDINGS_{name} or --config name another place"
)


def require_log(settings: Settings) -> None:
    """Raise `Failure` if the log is a file that is not there."""
    _require(settings.log, "log")


def require_store(settings: Settings) -> None:
    """Raise `Failure` if the store is a file that is not there."""
    _require(settings.store, "store")


def _require(url: str, what: str) -> None:
    if url.startswith("sqlite://") and not (path := sqlite_path(url)).exists():
        raise command.Failure(
            f"no {what} at {path}; {_ELSEWHERE.format(flag=what, name=what.upper())}"
        )
