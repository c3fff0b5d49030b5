"""How long a prediction may take if nobody says it: by provider and model. Pure."""

from collections.abc import Iterable, Mapping

ANY = "*"
"""Stands for every provider."""


class DefaultTimeouts:
    """The timeouts of the settings.

    Args:
        entries: Seconds by `provider:model`, `provider` or `*`; the closest one counts.
    """

    def __init__(self, entries: Mapping[str, float]) -> None:
        self._milliseconds = {name: round(seconds * 1000) for name, seconds in entries.items()}

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "DefaultTimeouts":
        """From entries such as `replicate=600`, `fal:fal-ai/flux=120` and `*=3600`; raises ValueError."""
        return cls(dict(timeout_entry(text) for text in texts))

    def __bool__(self) -> bool:
        return bool(self._milliseconds)

    def of(self, provider: str | None, model: str | None) -> int | None:
        """In ms; None: it may take forever."""
        for name in (f"{provider}:{model}", provider, ANY):
            if name is not None and (found := self._milliseconds.get(name)) is not None:
                return found
        return None


def timeout_entry(text: str) -> tuple[str, float]:
    """The name and the seconds in an entry; raises ValueError with the end of a sentence."""
    name, equals, given = text.rpartition("=")
    try:
        seconds = float(given) if equals else -1.0
    except ValueError:
        seconds = -1.0
    if not name.strip() or not 0 < seconds <= 10**9:
        raise ValueError(
            f"{text!r} is no timeout; say PROVIDER=SECONDS, PROVIDER:MODEL=SECONDS or *=SECONDS"
        )
    return name.strip(), seconds
