"""`tidings watch` and `tidings answer`: changes in the terminal, and the answer to what one asks."""

import sys
import time
from argparse import Namespace
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from tidings.cli.support import command, output, service_access
from tidings.config.settings import Settings
from tidings.observability.control_characters import escape_controls

if TYPE_CHECKING:
    from rich.table import Table

    from tidings.client.attempts import AttemptsWatch
    from tidings.client.client import Client, Update
    from tidings.client.subscription import Watch
    from tidings.storage.prediction import Prediction

ROWS = 30
"""Predictions in the live table: those that changed last."""

COLORS = {
    "starting": "cyan",
    "processing": "yellow",
    "succeeded": "green",
    "failed": "red",
    "canceled": "magenta",
}


def register(commands: command.Commands) -> None:
    """Add the command."""
    about = "Show predictions as they change, until Ctrl-C."
    parser = command.parser(
        commands, "watch", run, about, "tidings watch p1 p2 --url http://127.0.0.1:8080"
    )
    parser.add_argument("predictions", metavar="ID", nargs="*", help="predictions to watch")
    parser.add_argument("--owner", help="watch all of an owner")
    parser.add_argument("--tag", help="watch all with a tag")
    parser.add_argument("--model", help="watch all of a model")
    parser.add_argument("--all", action="store_true", help="watch everything")
    parser.add_argument(
        "--latest",
        action="store_true",
        help="go on with the next attempt of one that is tried again",
    )
    parser.add_argument(
        "--finished",
        action="store_true",
        help="end once each of the predictions named has finished",
    )
    service_access.add_flags(parser)
    command.add_config(parser)
    command.add_json(parser)
    _register_answer(commands)


def _register_answer(commands: command.Commands) -> None:
    about = (
        "Answer the question that a prediction waits with; without an answer, show the question."
    )
    parser = command.parser(commands, "answer", answer, about, "tidings answer p1 blue")
    parser.add_argument("prediction", metavar="ID", help="the prediction that waits")
    parser.add_argument("answer", metavar="ANSWER", nargs="?", help="a text, or JSON with --parse")
    parser.add_argument("--parse", action="store_true", help="the answer is JSON")
    parser.add_argument(
        "--question", metavar="N", type=int, help="the number of the question that it is for"
    )
    service_access.add_flags(parser)
    command.add_config(parser)
    command.add_json(parser)


def answer(arguments: Namespace) -> int:
    """Answer, or show what is asked."""
    import msgspec

    said = arguments.answer
    if arguments.parse:
        try:
            said = msgspec.json.decode(said or "")
        except msgspec.DecodeError as error:
            raise command.Failure(f"--parse: {error}", command.WRONG_USE) from None
    return command.run_loop(_answer(arguments, said, command.settings(arguments)))


async def _answer(arguments: Namespace, said: Any, settings: Settings) -> int:
    from tidings.client.errors import ClientError

    async with await _client(arguments, settings) as client:
        try:
            if said is None:
                record = await client.get(arguments.prediction)
            else:
                record = await client.answer(
                    arguments.prediction, said, question_number=arguments.question
                )
        except ClientError as error:
            raise command.Failure(str(error)) from None
    if said is None and not record.waiting:
        raise command.Failure(f"{arguments.prediction} does not wait for an answer")
    output.print_line(as_json(record) if arguments.as_json else as_line(record))
    return command.DONE


def run(arguments: Namespace) -> int:
    """Watch until told to stop."""
    chosen = [arguments.predictions, arguments.owner, arguments.tag, arguments.model, arguments.all]
    if sum(bool(one) for one in chosen) != 1:
        raise command.Failure(
            "name predictions, or one of --owner, --tag, --model, --all", command.WRONG_USE
        )
    if arguments.latest and len(arguments.predictions) != 1:
        raise command.Failure("--latest: needs one prediction by name", command.WRONG_USE)
    if arguments.finished and not arguments.predictions:
        raise command.Failure("--finished: needs predictions by name", command.WRONG_USE)
    from tidings.storage.prediction import valid_id

    for prediction_id in arguments.predictions:
        if not valid_id(prediction_id):
            raise command.Failure(
                f"{prediction_id!r} is no prediction's id: 1 to 256 bytes without spaces, commas "
                "and control characters",
                command.WRONG_USE,
            )
    settings = command.settings(arguments)
    try:
        return command.run_loop(_watch(arguments, settings))
    except KeyboardInterrupt:
        return command.DONE


async def _client(arguments: Namespace, settings: Settings) -> "Client":
    from tidings.client.client import Client

    url = arguments.url or service_access.url_of(settings)
    await service_access.check_reachable(url)
    try:
        return Client(url, service_access.chosen_token(arguments, settings))
    except ValueError as error:
        raise command.Failure(f"--url: {error}", command.WRONG_USE) from None


async def _watch(arguments: Namespace, settings: Settings) -> int:
    from tidings.client.errors import ClientError

    client = await _client(arguments, settings)
    try:
        async with client:
            return await _show(arguments, client)
    except ClientError as error:
        raise command.Failure(str(error)) from None


async def _show(arguments: Namespace, client: "Client") -> int:
    watch: Watch | AttemptsWatch
    if arguments.latest:
        watch = client.attempts(arguments.predictions[0])
    else:
        watch = client.watch(
            *arguments.predictions,
            owner=arguments.owner,
            tag=arguments.tag,
            model=arguments.model,
            all=arguments.all,
        )
    from tidings.client.attempts import is_last

    open_ones = set(arguments.predictions)
    screen = Screen() if not arguments.as_json and sys.stdout.isatty() else None
    try:
        async for update in watch:
            if screen is not None:
                screen.show(update)
            else:
                output.print_line(as_json(update) if arguments.as_json else as_line(update))
            if arguments.latest:
                open_ones = open_ones if not is_last(update) else set()
            elif ended(update):
                open_ones.discard(update.prediction_id)
            if arguments.finished and not open_ones:
                break
    finally:
        if screen is not None:
            screen.close()
        await watch.aclose()
    return command.DONE


def ended(update: "Update") -> bool:
    """Whether nothing more is to be expected of this prediction."""
    status = getattr(update, "status", None)
    return status is None or bool(status.terminal)


def as_json(update: "Update") -> str:
    """The record as on the wire; of a deletion id, version and `deleted`."""
    import msgspec

    from tidings.storage.prediction import Prediction, encode

    if isinstance(update, Prediction):
        return encode(update).decode()
    gone = {"predictionId": update.prediction_id, "version": update.version, "deleted": True}
    return msgspec.json.encode(gone).decode()


def as_line(update: "Update") -> str:
    """One plain line."""
    from tidings.storage.prediction import Prediction

    if not isinstance(update, Prediction):
        return f"{time.strftime('%H:%M:%S')} {update.prediction_id} v{update.version} deleted"
    parts = [
        _clock(update.updated_at),
        update.prediction_id,
        f"v{update.version}",
        update.status.value,
    ]
    return " ".join([*parts, *(part for part in (_progress(update), _result(update)) if part)])


def _clock(milliseconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(milliseconds / 1000))


def _progress(record: "Prediction") -> str:
    return "" if record.progress is None or record.status.terminal else f"{record.progress:.0%}"


def _result(record: "Prediction") -> str:
    if record.waiting:
        return f"waits: {_question(record)}"
    told = record.error or record.image_url or record.image_path or ""
    return told.partition("\n")[0] if isinstance(told, str) else f"an error of {told.bytes} bytes"


def _question(record: "Prediction") -> str:
    """The question in one line, with its number and its choices."""
    from tidings.streams.rules.large_fields import reference
    from tidings.streams.rules.questions import question_of

    if (blob := reference(record.question)) is not None:
        return f"a question of {blob.bytes} bytes (number {record.question_number})"
    asked = question_of(record.question)
    choices = [bytes(one).decode() for one in asked.choices or ()]
    of = f" [{', '.join(choices)}]" if choices else ""
    text = asked.text.partition("\n")[0]
    return f"{text}{of} (number {record.question_number})"


class Screen:
    """A live table of what changed last."""

    def __init__(self) -> None:
        from rich.live import Live

        self._rows: OrderedDict[str, Update] = OrderedDict()
        self._live = Live(self._table(), auto_refresh=False)
        self._live.start()

    def show(self, update: "Update") -> None:
        """Put it on top."""
        self._rows[update.prediction_id] = update
        self._rows.move_to_end(update.prediction_id, last=False)
        while len(self._rows) > ROWS:
            self._rows.popitem()
        self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._live.stop()

    def _table(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        from tidings.storage.prediction import Prediction

        table = Table("prediction", "status", "version", "at", "model", "", expand=True)
        for update in self._rows.values():
            if not isinstance(update, Prediction):
                table.add_row(
                    Text(escape_controls(update.prediction_id)),
                    Text("deleted", "dim"),
                    str(update.version),
                    "",
                    "",
                    "",
                )
                continue
            status = Text(update.status.value, COLORS[update.status.value])
            if progress := _progress(update):
                status.append(f" {progress}", "dim")
            at = _clock(update.updated_at)
            result = Text(escape_controls(_result(update)), no_wrap=True, overflow="ellipsis")
            name = Text(escape_controls(update.prediction_id), overflow="ellipsis")
            table.add_row(
                name,
                status,
                str(update.version),
                at,
                Text(escape_controls(update.model or "")),
                result,
            )
        return table
