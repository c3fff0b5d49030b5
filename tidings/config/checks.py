"""What settings say together: contradictions, what is missing, what others must not reach."""

from urllib.parse import urlsplit

from tidings.config.issuers import SHARED_KEYS
from tidings.config.settings import ROLES, WEBHOOK_SECRET, Settings, SettingsError, sqlite_path
from tidings.storage.proxies import is_loopback


def check(settings: Settings) -> None:
    """Check what settings say together.

    Raises:
        SettingsError: Two of them contradict each other, or one that another needs is missing.
    """
    if "all" in settings.role and len(settings.role) > 1:
        raise SettingsError("TIDINGS_ROLE: all is every role; name it alone, or leave it out")
    if not settings.role:
        raise SettingsError(
            f"TIDINGS_ROLE: names no role; use all, or some of {', '.join(sorted(ROLES))}"
        )
    if settings.log.startswith("memory://") and not settings.everything:
        raise SettingsError(
            "TIDINGS_LOG: memory:// is seen by one process alone; with --role use sqlite:// or kafka://"
        )
    if settings.assets.startswith("memory://") and not settings.everything:
        raise SettingsError(
            "TIDINGS_ASSETS: memory:// is seen by one process alone; with --role use file://, s3://, gs:// or az://"
        )
    if settings.workers > 1 and not settings.log.startswith("kafka://"):
        raise SettingsError(
            "--workers: more than one process of a role takes TIDINGS_LOG=kafka://..."
        )
    if settings.workers > 1 and settings.health_port is not None:
        raise SettingsError(
            "--health-port: with --workers every process has a port for its health already (PORT+1 and so on); "
            "leave it out"
        )
    both_files = settings.log.startswith("sqlite://") and settings.store.startswith("sqlite://")
    if both_files and sqlite_path(settings.log) == sqlite_path(settings.store):
        raise SettingsError(
            f"TIDINGS_STORE: {settings.store} is the log's file; give the store its own"
        )
    if (
        settings.store.startswith(("cloudflare-kv://", "cloudflare-kv+http://"))
        and not settings.cloudflare_token
    ):
        raise SettingsError(
            "TIDINGS_CLOUDFLARE_TOKEN: is missing; the store cloudflare-kv:// needs an API token"
        )
    _check_tokens(settings)


def _check_tokens(settings: Settings) -> None:
    shared = settings.jwks_url and urlsplit(settings.jwks_url).hostname in SHARED_KEYS
    if shared and not (settings.jwt_issuer or settings.jwt_audience):
        raise SettingsError(
            "TIDINGS_JWKS_URL: these keys sign the tokens of everybody's applications; set "
            "TIDINGS_JWT_ISSUER or TIDINGS_JWT_AUDIENCE, so that only yours are taken"
        )
    named = [settings.jwt_issuer] if settings.jwks_url else []
    if any(issuer.issuer in named for issuer in settings.issuers):
        raise SettingsError(
            f"TIDINGS_ISSUERS: {settings.jwt_issuer} is TIDINGS_JWT_ISSUER too; name it once"
        )


def check_serving(settings: Settings) -> None:
    """Check what serving needs beyond `check`.

    Raises:
        SettingsError: Everybody could reach the service without saying who they are, or by a secret
            that can be found by trying; or the key of the webhook URLs, which several processes
            must share, is not set.
    """
    open_to_all = (
        "gateway" in settings.roles and not settings.authenticates and not settings.anonymous
    )
    if open_to_all and not is_loopback(settings.host):
        raise SettingsError(
            f"TIDINGS_HOST: {settings.host} can be reached from other machines and nobody has to say who they are; "
            "set TIDINGS_JWT_SECRET, TIDINGS_JWKS_URL or TIDINGS_API_KEYS, or TIDINGS_ANONYMOUS=1 to allow it"
        )
    if (short := short_secrets(settings)) and not is_loopback(settings.host):
        raise SettingsError(
            f"{short[0]}: has a secret of fewer than {WEBHOOK_SECRET} bytes, and what guards something "
            f"that other machines reach needs {WEBHOOK_SECRET} or more: openssl rand -hex 32"
        )
    if "null" in settings.allowed_origins and not settings.authenticates:
        raise SettingsError(
            "TIDINGS_ALLOWED_ORIGINS: any page can make itself the origin null, in a sandboxed "
            "frame; turn authentication on, or leave it out"
        )
    if settings.notify and not settings.notify_secret:
        raise SettingsError(
            "TIDINGS_NOTIFY_SECRET: is missing; webhooks to TIDINGS_NOTIFY are signed with it: "
            'echo "whsec_$(openssl rand -base64 32)"'
        )
    if settings.roles == {"notifier"} and not settings.notify_secret:
        raise SettingsError(
            "TIDINGS_NOTIFY_SECRET: is missing; the role notifier signs with it: "
            'echo "whsec_$(openssl rand -base64 32)"'
        )
    if not settings.everything and not settings.webhook_key:
        raise SettingsError(
            "TIDINGS_WEBHOOK_KEY: is missing; with --role every process needs the same one: openssl rand -hex 32"
        )


def short_secrets(settings: Settings) -> list[str]:
    """The settings whose secrets can be found by trying.

    Those whose least length a standard says are refused when they are read (`TIDINGS_JWT_SECRET`,
    `TIDINGS_WEBHOOK_KEY`, Standard Webhooks). For the rest it is decided when it is served: on
    loopback, where the whole thing is tried out, a short one is told, elsewhere refused.
    """
    given = {"api_keys": settings.api_keys} | {
        f"{name}_secret": one.secret for name, one in settings.providers.items()
    }
    return [
        settings.origins.get(name.replace("-", "_"), f"TIDINGS_{name.upper().replace('-', '_')}")
        for name, secrets in given.items()
        if any(len(secret.encode()) < WEBHOOK_SECRET for secret in secrets)
    ]
