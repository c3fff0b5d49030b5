"""`tidings token`: a JWT for trying."""

import json
import time
from typing import Annotated

import typer

from tidings.commands import running


def token(
    sub: Annotated[str | None, typer.Option(help="The owner that the token speaks for.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="Space-separated: watch:all, read:all, write, admin.", metavar="SCOPES")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(help="Comma list of predictions that it may watch and read.", metavar="IDS")
    ] = None,
    ttl: Annotated[int, typer.Option(help="Seconds until it expires.", min=1)] = 3600,
    config: running.Config = None,
    as_json: running.AsJson = False,
) -> None:
    """Print a token signed with TIDINGS_JWT_SECRET.

    Example: tidings token --sub alice --scope "write" --ttl 600
    """
    settings = running.settings(config)
    if settings.jwt_secret is None:
        raise running.Failure("TIDINGS_JWT_SECRET: is missing; a token is signed with it", running.WRONG_USE)
    known = {"watch:all", "read:all", "write", "admin"}
    if unknown := [word for word in (scope or "").split() if word not in known]:
        raise running.Failure(f"--scope: {unknown[0]!r} is none of {', '.join(sorted(known))}", running.WRONG_USE)
    import jwt

    now = int(time.time())
    claims: dict[str, object] = {"iat": now, "exp": now + ttl}
    if sub is not None:
        claims["sub"] = sub
    if scope is not None:
        claims["scope"] = scope
    if predictions is not None:
        claims["predictions"] = [name for part in predictions.split(",") if (name := part.strip())]
    if settings.jwt_audience is not None:
        claims["aud"] = settings.jwt_audience
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    text = jwt.encode(claims, settings.jwt_secret, algorithm="HS256")
    running.say(json.dumps({"token": text, "claims": claims}) if as_json else text)
