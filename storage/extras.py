"""The extras of the distribution: what is not installed with it, and by which name it can be. Pure."""

EXTRAS = {
    "aiohttp": "server",
    "aiokafka": "kafka",
    "asyncpg": "postgres",
    "cryptography": "server",
    "jwt": "server",
    "nacl": "server",
    "obstore": "archive",
    "opentelemetry": "otel",
    "prometheus_client": "server",
    "redis": "redis",
    "rich": "server",
    "uvloop": "server",
}
"""Per module of another distribution the extra that installs it."""


class MissingExtra(ImportError):
    """A part of Tidings is used whose extra is not installed."""


def missing(what: str, error: ImportError, extra: str | None = None) -> str | None:
    """The line that says what to install; None: the error is another one.

    Args:
        what: Needs it.
        error: As Python raised it.
        extra: Which one, if a module is in several.
    """
    module = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(module) and (extra or EXTRAS[module])
    if extra is None:
        return None
    return (
        f"{what} needs {module}, which is not installed: install Tidings with its extra {extra}, "
        f"as tidings[{extra}]"
    )
