"""Which store the original design's environment names ask for: the one place that decides it.

Pure: `TIDINGS_STORE` comes before all of this, and is read where the settings are.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from tidings.storage.errors import StoreMisconfigured

NAMES = (
    "PREDICTION_STORAGE_PROVIDER",
    "REQUIRE_STRONG_CONSISTENCY",
    "OPTIMIZE_FOR_THROUGHPUT",
    "TIDINGS_ENV",
)
"""Those that select; an empty value counts as not set."""
PLACES = ("TIDINGS_CLOUDFLARE_ACCOUNT", "TIDINGS_CLOUDFLARE_NAMESPACE", "TIDINGS_WORKER_URL")
"""Where the selected store is."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def truth(text: str) -> bool:
    """The boolean that a word stands for.

    Raises:
        ValueError: None; the message is the end of a sentence that begins with the setting's name.
    """
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither on nor off; say 1 or 0")


def selected_provider(environment: Mapping[str, str]) -> str | None:
    """`kv` or `do`; None if none of the names is set.

    The provider if it is named; else `development` means KV; else strong consistency means Durable
    Objects; else KV, for throughput and for any other value.

    Raises:
        StoreMisconfigured: The named provider is neither, or what is on or off is neither; also
            if another name decides.
    """
    given = {name: environment[name].strip() for name in NAMES if environment.get(name)}
    if not given:
        return None
    strong = _truth(given, "REQUIRE_STRONG_CONSISTENCY")
    _truth(given, "OPTIMIZE_FOR_THROUGHPUT")
    if (named := given.get("PREDICTION_STORAGE_PROVIDER")) is not None:
        if named.lower() not in {"kv", "do"}:
            raise StoreMisconfigured(
                f"PREDICTION_STORAGE_PROVIDER: {named!r} does not fit; it is one of kv, do"
            )
        return named.lower()
    if given.get("TIDINGS_ENV", "").lower() == "development":
        return "kv"
    return "do" if strong else "kv"


def selected_url(
    environment: Mapping[str, str], origins: Mapping[str, str] | None = None
) -> str | None:
    """The URL of the selected store; None if nothing is selected.

    KV is reached by Cloudflare's REST API if account and namespace are set, else by the Worker.

    Args:
        environment: By name.
        origins: Per name where it was set, for messages, if that is not the environment.

    Raises:
        StoreMisconfigured: As `selected_provider`, or what the selected store needs beside
            (`TIDINGS_WORKER_URL`, or `TIDINGS_CLOUDFLARE_ACCOUNT` and
            `TIDINGS_CLOUDFLARE_NAMESPACE`) is missing.
    """
    provider = selected_provider(environment)
    if provider is None:
        return None
    selector = next(name for name in NAMES if environment.get(name))
    asked = (origins or {}).get(selector, selector)
    account, namespace, worker = (environment.get(name, "").strip() for name in PLACES)
    if provider == "do":
        if not worker:
            raise StoreMisconfigured(
                f"TIDINGS_WORKER_URL: is missing; {asked} chooses Durable Objects, which need it"
            )
        return _at_worker("durable-objects", worker)
    if account and namespace:
        return f"cloudflare-kv://{account}/{namespace}"
    if worker:
        return _at_worker("cloudflare-kv+worker", worker)
    raise StoreMisconfigured(
        f"{PLACES[1] if account else PLACES[0]}: is missing; {asked} chooses Cloudflare KV, which needs account and "
        "namespace (or TIDINGS_WORKER_URL)"
    )


def _at_worker(scheme: str, address: str) -> str:
    worker = urlsplit(address)
    if worker.scheme not in {"http", "https"} or not worker.netloc:
        raise StoreMisconfigured(
            "TIDINGS_WORKER_URL: is no address of a Worker; say https://name.account.workers.dev"
        )
    return f"{scheme}{'+http' if worker.scheme == 'http' else ''}://{address.rstrip('/').partition('://')[2]}"


def _truth(given: Mapping[str, str], name: str) -> bool:
    try:
        return name in given and truth(given[name])
    except ValueError as error:
        raise StoreMisconfigured(f"{name}: {error}") from None
