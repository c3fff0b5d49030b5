"""Which store the original design's environment names ask for.

Pure: `TIDINGS_STORE` comes before all of this, and is read where the settings are.
"""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from storage.errors import StoreMisconfigured

NAMES = ("PREDICTION_STORAGE_PROVIDER", "REQUIRE_STRONG_CONSISTENCY", "OPTIMIZE_FOR_THROUGHPUT", "TIDINGS_ENV")
"""In their order of precedence."""


def selected_provider(environment: Mapping[str, str]) -> str | None:
    """`kv` or `do`; None where none of the names is set.

    The provider if it is named; else `development` means KV; else strong consistency means Durable Objects; else KV,
    for throughput and for any other value.

    Raises:
        StoreMisconfigured: The named provider is neither.
    """
    given = {name: environment[name].strip() for name in NAMES if environment.get(name, "").strip()}
    if not given:
        return None
    if named := given.get("PREDICTION_STORAGE_PROVIDER", "").lower():
        if named not in {"kv", "do"}:
            raise StoreMisconfigured(f"PREDICTION_STORAGE_PROVIDER is {named!r}; it is kv or do, or set TIDINGS_STORE")
        return named
    if given.get("TIDINGS_ENV", "").lower() == "development":
        return "kv"
    return "do" if _true(given.get("REQUIRE_STRONG_CONSISTENCY", "")) else "kv"


def selected_url(environment: Mapping[str, str]) -> str | None:
    """The URL of the selected store; None where nothing is selected.

    Raises:
        StoreMisconfigured: What the selected store needs beside (`TIDINGS_CLOUDFLARE_ACCOUNT` and
            `TIDINGS_CLOUDFLARE_NAMESPACE`, or `TIDINGS_WORKER_URL`) is missing.
    """
    provider = selected_provider(environment)
    if provider is None:
        return None
    if provider == "do":
        worker = urlsplit(_needed(environment, "TIDINGS_WORKER_URL", "Durable Objects"))
        if worker.scheme not in {"http", "https"} or not worker.netloc:
            raise StoreMisconfigured(
                "TIDINGS_WORKER_URL is the address of the Worker: https://name.account.workers.dev"
            )
        variant = "+http" if worker.scheme == "http" else ""
        return f"durable-objects{variant}://{worker.netloc}{worker.path.rstrip('/')}"
    account = _needed(environment, "TIDINGS_CLOUDFLARE_ACCOUNT", "Cloudflare KV")
    namespace = _needed(environment, "TIDINGS_CLOUDFLARE_NAMESPACE", "Cloudflare KV")
    return f"cloudflare-kv://{quote(account, safe='')}/{quote(namespace, safe='')}"


def _needed(environment: Mapping[str, str], name: str, store: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise StoreMisconfigured(
            f"{name} is missing: {store} was selected by {_selector(environment)}; or set TIDINGS_STORE"
        )
    return value


def _selector(environment: Mapping[str, str]) -> str:
    return next(name for name in NAMES if environment.get(name, "").strip())


def _true(text: str) -> bool:
    return text.lower() in {"1", "true", "yes", "on"}
