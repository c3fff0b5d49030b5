"""What the settings say about one provider, and how a bad setting is named."""

from typing import Annotated, Any

from msgspec import Meta, Struct

MIN_TOLERANCE = 1.0
MAX_TOLERANCE = 86_400.0


class BadConfiguration(ValueError):
    """A provider's setting cannot be used.

    The message names the setting and never repeats its value.
    """


class Configuration(Struct, frozen=True, kw_only=True):
    """One provider's settings. Its `repr` shows no secret."""

    secret: tuple[str, ...] = ()
    """For webhooks; several while they rotate."""
    token: str | None = None
    """For the provider's own API."""
    url: str | None = None
    """Base URL of the provider's API, if not its public one."""
    jwks_url: str | None = None
    """Where the public keys of its webhooks are (fal, Gemini)."""
    tolerance: float | None = None
    """Seconds that a signed timestamp may lie in the past or the future; None: the provider's
    own."""
    concurrency: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """Calls to the provider at once; None: 16."""
    rate: Annotated[int, Meta(ge=1)] | None = None
    """Predictions submitted per minute at most; None: what the provider is known to allow."""
    kind: str | None = None
    """Which provider this entry is one of, if its name is not the provider's (`generic`)."""
    options: dict[str, Any] = {}
    """Settings that only this provider knows, as they stand in `tidings.toml`."""

    def __repr__(self) -> str:
        """Name what is set, without its value."""
        names = [name for name in self.__struct_fields__ if getattr(self, name)]
        return f"Configuration(set: {', '.join(names) or 'nothing'})"

    def url_or(self, default: str) -> str:
        """The base URL in force, without a slash at its end."""
        return (self.url or default).rstrip("/")

    def tolerance_or(self, default: float, provider: str) -> float:
        """The tolerance in force, in seconds.

        Raises:
            BadConfiguration: It is no number of seconds from 1 to 86,400.
        """
        if self.tolerance is None:
            return default
        if not MIN_TOLERANCE <= self.tolerance <= MAX_TOLERANCE:
            raise BadConfiguration(
                f"{setting_name(provider, 'TOLERANCE')} is {self.tolerance}: give seconds from 1 to 86400, such as 300"
            )
        return float(self.tolerance)


def setting_name(provider: str, what: str) -> str:
    """The setting's name as it stands in the environment: `TIDINGS_REPLICATE_SECRET`."""
    return f"TIDINGS_{provider.upper().replace('-', '_')}_{what}"
