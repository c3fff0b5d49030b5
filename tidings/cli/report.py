"""`tidings report`: say how a prediction stands, as a service of one's own would."""

import json
import secrets
import time
from argparse import Namespace
from typing import Any

import msgspec

from tidings.cli.support import command, data, output
from tidings.config.settings import Settings

ABOUT = """Report about a prediction, by appending an event to the log.

The first report makes the prediction. The service may run, and shows it at once."""

_TEXTS = (
    ("prompt", "what was asked for"),
    ("model", "which model works on it"),
    ("owner", "whose it is"),
    ("error", "why it failed"),
    ("image-url", "address of its picture"),
    ("logs", "its whole log so far"),
)


def register(commands: command.Commands) -> None:
    """Add the command."""
    example = 'tidings report p1 --status succeeded --output "It works."'
    parser = command.parser(commands, "report", run, ABOUT, example)
    parser.add_argument("prediction", metavar="ID", help="the prediction")
    parser.add_argument(
        "--status",
        choices=("starting", "processing", "succeeded", "failed", "canceled"),
        help="where it stands now",
    )
    for name, about in _TEXTS:
        parser.add_argument(f"--{name}", metavar="TEXT", help=about)
    parser.add_argument("--progress", metavar="SHARE", type=float, help="from 0 to 1")
    parser.add_argument("--tag", metavar="TAG", action="append", help="one more tag")
    parser.add_argument(
        "--output", metavar="VALUE", help="what came out: JSON, or else taken as text"
    )
    parser.add_argument("--log", metavar="URL", help="the log, as the service has it")
    command.add_config(parser)
    command.add_json(parser)


def run(arguments: Namespace) -> None:
    """Append the event."""
    settings = command.settings(arguments, "log")
    if settings.log.startswith("memory://"):
        raise command.Failure(
            "TIDINGS_LOG: memory:// is seen by the service alone", command.WRONG_USE
        )
    data.require_log(settings)
    event = _event(arguments)
    position = command.run_loop(_append(settings, arguments.prediction, event))
    if arguments.as_json:
        output.print_line(json.dumps({"predictionId": event["predictionId"], "position": position}))
    else:
        output.print_line(f"reported about {event['predictionId']}, at {position} of the events")


def _event(arguments: Namespace) -> dict[str, Any]:
    event: dict[str, Any] = {
        "predictionId": arguments.prediction,
        "id": f"cli-{secrets.token_hex(8)}",
        "at": int(time.time() * 1000),
        "source": "cli",
        "status": arguments.status,
        "progress": arguments.progress,
        "tags": arguments.tag,
        "output": _value(arguments.output),
    }
    for name, _ in _TEXTS:
        head, *rest = name.split("-")
        wire = head + "".join(part.capitalize() for part in rest)
        event[wire] = getattr(arguments, name.replace("-", "_"))
    return {name: value for name, value in event.items() if value is not None}


def _value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


async def _append(settings: Settings, prediction_id: str, event: dict[str, Any]) -> str:
    from tidings.runtime.resources import log_of
    from tidings.streams.log.headers import ARCHIVE_HEADER
    from tidings.streams.log.protocol import EVENTS, NewRecord, StoredRecord
    from tidings.streams.processing.decoder import decode_event
    from tidings.streams.rules.event import Poison

    key, value = prediction_id.encode("utf-8", "surrogateescape"), msgspec.json.encode(event)
    headers = [(ARCHIVE_HEADER, settings.archive.encode())]
    try:
        decode_event(StoredRecord(EVENTS, 0, 0, event["at"], key, value, headers), {})
    except Poison as poison:
        raise command.Failure(str(poison), command.WRONG_USE) from None
    log = await log_of(settings, create=False)
    try:
        (position,) = await log.append(EVENTS, [NewRecord(key, value, headers)])
        return str(position)
    finally:
        await log.close()
