"""How a command reaches the running service: its address, and a token made from its settings."""

import time
from argparse import Namespace
from collections.abc import Callable

from tidings.cli.support import command
from tidings.config.issuers import NOT_READ
from tidings.config.settings import Settings

REACHABLE_WITHIN = 5.0
"""Seconds in which the service must answer at first."""
TOKEN_TTL = 600
"""Seconds for which a token of the command's own is good; one is made whenever one is needed."""


def add_flags(parser: command.Parser) -> None:
    """Add `--url` and `--token`, which say which service to talk to."""
    parser.add_argument("--url", help="the service; else where TIDINGS_HOST and TIDINGS_PORT say")
    parser.add_argument(
        "--token", help="JWT or API key; else one made from the settings of the service"
    )


def url_of(settings: Settings) -> str:
    """The address at which the service of these settings is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - replaced
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def chosen_token(arguments: Namespace, settings: Settings) -> str | Callable[[], str] | None:
    """The token from `--token`; of a service on this machine one that its settings allow to make.

    A token of ours is never sent to an address from `--url`, which may be another's service.

    Raises:
        Failure: `--token` cannot be sent.
    """
    if arguments.token is None:
        return operator_token(settings) if arguments.url is None else None
    token = str(arguments.token).strip()
    if not (token and token.isascii() and token.isprintable()):
        raise command.Failure(
            "--token: is empty or holds characters that no header can carry", command.WRONG_USE
        )
    return token


def operator_token(settings: Settings) -> str | Callable[[], str] | None:
    """What an operator shows a service with these settings; None: it asks for nothing."""
    if settings.jwt_secret is not None:
        return lambda: sign(settings, {"scope": "admin", "sub": "tidings-cli"}, ttl=TOKEN_TTL)
    return settings.api_keys[0] if settings.api_keys else None


def sign(settings: Settings, claims: dict[str, object], *, ttl: int) -> str:
    """A JWT with these claims and the times, audience and issuer that the service asks for.

    Args:
        settings: With a JWT secret.
        claims: Completed in place.
        ttl: Seconds until it expires.
    """
    import jwt

    now = int(time.time())
    _rename(claims, "sub", settings.owner_claim)
    _rename(claims, "predictions", settings.predictions_claim)
    _rename(claims, "scope", settings.scope_claims[0])
    claims |= {"iat": now, "exp": now + ttl}
    if settings.jwt_audience is not None:
        _place(claims, settings.audience_claim, settings.jwt_audience)
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    return jwt.encode(claims, settings.jwt_secret or "", algorithm="HS256")


def _rename(claims: dict[str, object], usual: str, name: str) -> None:
    """Put a claim where the service looks for it; nowhere, if it looks for none."""
    if usual in claims and name not in {usual, NOT_READ}:
        _place(claims, name, claims.pop(usual))


def _place(claims: dict[str, object], name: str, value: object) -> None:
    way = [name] if "://" in name else name.split(".")
    for part in way[:-1]:
        inner = claims.setdefault(part, {})
        claims = inner if isinstance(inner, dict) else claims
    claims[way[-1]] = value


async def check_reachable(url: str) -> None:
    """Raise `Failure` if no service answers."""
    import httpx

    from tidings.storage.proxies import by_way_of, calls_this_machine

    try:
        async with httpx.AsyncClient(
            timeout=REACHABLE_WITHIN, trust_env=not calls_this_machine(url)
        ) as http:
            await http.get(f"{url.rstrip('/')}/healthz")
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise command.Failure(
            f"--url: {url!r} is no address of a service ({error})", command.WRONG_USE
        ) from None
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise command.Failure(
            f"{url} cannot be reached{by_way_of(url)} ({reason}); is tidings serve running there?"
        ) from None
