"""`tidings token`: a JWT for trying."""

import json
import time
from argparse import Namespace

from tidings.cli import running
from tidings.config.settings import Settings

SCOPES = ("watch:all", "read:all", "write", "admin")


def register(commands: running.Commands) -> None:
    """Add the command."""
    example = 'tidings token --sub alice --scope "write" --ttl 600'
    parser = running.parser(
        commands, "token", run, "Print a token signed with TIDINGS_JWT_SECRET.", example
    )
    parser.add_argument("--sub", metavar="OWNER", help="the owner that it speaks for")
    parser.add_argument(
        "--scope", metavar="SCOPES", default="", help=f"space-separated: {', '.join(SCOPES)}"
    )
    parser.add_argument(
        "--predictions", metavar="IDS", help="comma list of predictions it may watch and read"
    )
    parser.add_argument(
        "--ttl", metavar="SECONDS", type=int, default=3600, help="until it expires; 3600"
    )
    running.add_config(parser)
    running.add_json(parser)


def run(arguments: Namespace) -> None:
    """Print the token."""
    settings = running.settings(arguments)
    if settings.jwt_secret is None:
        raise running.Failure(
            "TIDINGS_JWT_SECRET: is missing; a token is signed with it", running.WRONG_USE
        )
    if unknown := [word for word in arguments.scope.split() if word not in SCOPES]:
        raise running.Failure(
            f"--scope: {unknown[0]!r} is none of {', '.join(SCOPES)}", running.WRONG_USE
        )
    if arguments.ttl < 1:
        raise running.Failure(
            f"--ttl: {arguments.ttl} is no time to live; give seconds, 1 or more", running.WRONG_USE
        )
    claims: dict[str, object] = {}
    if arguments.sub is not None:
        claims["sub"] = arguments.sub
    if arguments.scope:
        claims["scope"] = arguments.scope
    if arguments.predictions is not None:
        claims["predictions"] = [
            name for part in arguments.predictions.split(",") if (name := part.strip())
        ]
    text = sign(settings, claims, ttl=arguments.ttl)
    running.say(json.dumps({"token": text, "claims": claims}) if arguments.as_json else text)


def sign(settings: Settings, claims: dict[str, object], *, ttl: int) -> str:
    """A token with these claims and the times, audience and issuer that the service asks for.

    Args:
        settings: With a JWT secret.
        claims: Completed in place.
        ttl: Seconds until it expires.
    """
    import jwt

    now = int(time.time())
    claims |= {"iat": now, "exp": now + ttl}
    if settings.jwt_audience is not None:
        claims["aud"] = settings.jwt_audience
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    return jwt.encode(claims, settings.jwt_secret or "", algorithm="HS256")
