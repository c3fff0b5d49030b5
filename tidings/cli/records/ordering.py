"""`tidings create` and `tidings retry`: order predictions from a running service, and try again what failed."""

import json
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidings.cli.support import command, output, service_access
from tidings.storage.prediction import Prediction, encode

if TYPE_CHECKING:
    from tidings.client.client import Client

CREATE = """Order a prediction, or a group of them, from its provider.

With --orders each line of a file is the order of one member, as JSON, such as {"prompt": "a cat"};
the flags hold for all of them. Prints the id of the prediction, or of the group."""

RETRY = """Try again what failed or was canceled, under a new id, which it prints.

One that was tried again before gives the attempt that there is."""


def register(commands: command.Commands) -> None:
    """Add both commands."""
    example = 'tidings create --provider replicate --model acme/draw --prompt "a red kite"'
    parser = command.parser(commands, "create", create, CREATE, example)
    parser.add_argument("--provider", help="who makes it, such as replicate")
    parser.add_argument("--model", help="the provider's name of the model")
    parser.add_argument("--prompt", help="what to make")
    parser.add_argument("--payload", metavar="JSON", help="the provider's input")
    parser.add_argument("--owner", help="whose it is; else the token's")
    parser.add_argument("--tag", metavar="TAG", action="append", help="one more tag")
    parser.add_argument("--retries", type=int, metavar="N", help="how often it is tried again")
    parser.add_argument("--id", dest="prediction", metavar="ID", help="its id; else one is chosen")
    parser.add_argument(
        "--orders", metavar="FILE", help="a line for each member; -: standard input"
    )
    _flags(parser)
    parser = command.parser(commands, "retry", retry, RETRY, "tidings retry p1 --provider fal")
    parser.add_argument("predictions", metavar="ID", nargs="+", help="what failed")
    parser.add_argument("--provider", help="who is to try; else the same one")
    parser.add_argument("--model", help="with which model; else the same one")
    _flags(parser)


def _flags(parser: command.Parser) -> None:
    service_access.add_flags(parser)
    command.add_config(parser)
    command.add_json(parser)


def create(arguments: Namespace) -> None:
    """Order, and print the first record or its id."""
    given = {
        "provider": arguments.provider,
        "model": arguments.model,
        "prompt": arguments.prompt,
        "payload": _json("--payload", arguments.payload),
        "owner": arguments.owner,
        "tags": tuple(arguments.tag or ()),
        "retries": arguments.retries,
    }
    given = {name: value for name, value in given.items() if value is not None}
    members = _members(arguments.orders)
    if members is None and (arguments.provider is None or arguments.model is None):
        missing = "--provider" if arguments.provider is None else "--model"
        raise command.Failure(f"{missing}: is missing; who is to make it?", command.WRONG_USE)

    async def order(client: "Client") -> list[Prediction]:
        if members is not None:
            return [await client.create_group(members, group=arguments.prediction, **given)]
        return [await client.create(prediction_id=arguments.prediction, **given)]

    _print(arguments, _asked(arguments, order))


def retry(arguments: Namespace) -> None:
    """Try again, and print each new attempt or its id."""

    async def again(client: "Client") -> list[Prediction]:
        where = {"provider": arguments.provider, "model": arguments.model}
        return [await client.retry(one, **where) for one in arguments.predictions]

    _print(arguments, _asked(arguments, again))


def _asked(
    arguments: Namespace, ask: "Callable[[Client], Awaitable[list[Prediction]]]"
) -> list[Prediction]:
    async def main() -> list[Prediction]:
        from tidings.client.client import Client
        from tidings.client.errors import ClientError

        settings = command.settings(arguments)
        url = arguments.url or service_access.url_of(settings)
        await service_access.check_reachable(url)
        try:
            client = Client(url, service_access.chosen_token(arguments, settings))
        except ValueError as error:
            raise command.Failure(f"--url: {error}", command.WRONG_USE) from None
        try:
            async with client:
                return await ask(client)
        except ClientError as error:
            raise command.Failure(str(error)) from None

    return command.run_loop(main())


def _print(arguments: Namespace, records: list[Prediction]) -> None:
    for record in records:
        output.print_line(encode(record).decode() if arguments.as_json else record.prediction_id)


def _members(file: str | None) -> list[dict[str, Any]] | None:
    if file is None:
        return None
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise command.Failure(
            f"--orders: {file!r} cannot be read as text: {error}", command.WRONG_USE
        ) from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            order = _json(f"--orders, line {number}", line)
            if not isinstance(order, dict):
                raise command.Failure(
                    f'--orders, line {number}: is no object, such as {{"prompt": "a cat"}}',
                    command.WRONG_USE,
                )
            found.append(order)
    if not found:
        raise command.Failure("--orders: has no order in it", command.WRONG_USE)
    return found


def _json(flag: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise command.Failure(f"{flag}: is no JSON ({error})", command.WRONG_USE) from None
