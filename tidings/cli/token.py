"""`tidings token`: a JWT for trying."""

import json
from argparse import Namespace

from tidings.cli.support import command, output, service_access

SCOPES = ("watch:all", "read:all", "write", "admin")


def register(commands: command.Commands) -> None:
    """Add the command."""
    example = 'tidings token --sub alice --scope "write" --ttl 600'
    parser = command.parser(
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
    command.add_config(parser)
    command.add_json(parser)


def run(arguments: Namespace) -> None:
    """Print the token."""
    settings = command.settings(arguments)
    if settings.jwt_secret is None:
        raise command.Failure(
            "TIDINGS_JWT_SECRET: is missing; a token is signed with it", command.WRONG_USE
        )
    if unknown := [word for word in arguments.scope.split() if word not in SCOPES]:
        raise command.Failure(
            f"--scope: {unknown[0]!r} is none of {', '.join(SCOPES)}", command.WRONG_USE
        )
    if arguments.ttl < 1:
        raise command.Failure(
            f"--ttl: {arguments.ttl} is no time to live; give seconds, 1 or more", command.WRONG_USE
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
    text = service_access.sign(settings, claims, ttl=arguments.ttl)
    output.print_line(json.dumps({"token": text, "claims": claims}) if arguments.as_json else text)
