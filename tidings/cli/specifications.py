"""`tidings openapi` and `tidings asyncapi`.

What the service speaks, as documents for other tools.
"""

import json
from argparse import Namespace
from importlib.metadata import version

from tidings.cli.support import command, output


def register(commands: command.Commands) -> None:
    """Add both commands."""
    about = "Print the HTTP side as an OpenAPI 3.1 document."
    command.add_json(
        command.parser(commands, "openapi", run_openapi, about, "tidings openapi > openapi.json")
    )
    about = "Print the WebSocket as an AsyncAPI 3.0 document."
    command.add_json(
        command.parser(
            commands, "asyncapi", run_asyncapi, about, "tidings asyncapi > asyncapi.json"
        )
    )


def run_openapi(arguments: Namespace) -> None:
    """`openapi`."""
    from tidings.gateway.openapi import openapi

    _print(openapi(version("tidings")), arguments.as_json)


def run_asyncapi(arguments: Namespace) -> None:
    """`asyncapi`."""
    from tidings.gateway.openapi import asyncapi

    _print(asyncapi(version("tidings")), arguments.as_json)


def _print(document: dict[str, object], on_one_line: bool) -> None:
    output.print_text(json.dumps(document, indent=None if on_one_line else 2, ensure_ascii=False))
