"""`tidings dead-letters`: what could not be applied, why, and trying it again."""

import asyncio
import base64
import contextlib
import json
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tidings.commands import running
from tidings.commands.progress import Bar
from tidings.settings import Settings

if TYPE_CHECKING:
    from streams.letters import Letter
    from streams.log import Log, NewRecord

EXAMPLES = 3
AT_ONCE = 500
"""Records per append where no rate is given."""


def register(commands: running.Commands) -> None:
    """Add the command and its four subcommands."""
    parser = commands.add_parser("dead-letters", help="See what could not be applied, and try it again.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=running.Parser)
    about = "Count what lies there by reason, with examples."
    listing = running.parser(actions, "list", run_list, about, "tidings dead-letters list --json")
    about = "Show one record: why it lies there, its headers, its body."
    show = running.parser(actions, "show", run_show, about, "tidings dead-letters show 0:1742")
    show.add_argument("position", metavar="POSITION", help="partition:offset of the event, as list says it")
    about = "Append records to the events again; the rules leave out what is stale by now."
    redrive = running.parser(actions, "redrive", run_redrive, about, "tidings dead-letters redrive --reason not-json")
    redrive.add_argument("positions", metavar="POSITION", nargs="*", help="these alone")
    redrive.add_argument("--all", action="store_true", help="everything that lies there")
    redrive.add_argument("--rate", metavar="N", type=float, help="at most so many a second")
    redrive.add_argument("--dry-run", action="store_true", help="count, and append nothing")
    about = "Write the records out, one JSON object a line."
    export = running.parser(actions, "export", run_export, about, "tidings dead-letters export letters.jsonl")
    export.add_argument("file", metavar="FILE", nargs="?", default="-", help="a new file; -: standard output")
    for one in (listing, redrive, export):
        one.add_argument("--reason", metavar="CODE", help="with this reason alone")
        one.add_argument("--prediction", metavar="ID", help="of this prediction alone")
    for one in (listing, show, redrive, export):
        running.add_config(one)
        running.add_json(one)


def run_list(arguments: Namespace) -> None:
    """`list`."""
    groups: dict[str, list[Letter]] = {}

    async def collect(log: "Log") -> None:
        from streams.letters import letters

        async for letter in letters(log, _wanted(arguments)):
            groups.setdefault(letter.code, []).append(letter)

    running.run_loop(_with_log(running.settings(arguments), collect))
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    if arguments.as_json:
        found = [
            {"reason": code, "count": len(group), "letters": [_brief(one) for one in group]} for code, group in ordered
        ]
        running.say(json.dumps({"count": sum(len(group) for group in groups.values()), "reasons": found}))
        return
    if not ordered:
        running.say("no dead letters")
    for code, group in ordered:
        running.say(f"{len(group):>7,}  {code}  (last {_time(max(letter.at for letter in group))})")
        for letter in group[-EXAMPLES:]:
            running.say(f"         {letter.position}  {_key(letter) or '-'}  {letter.message}")


def run_show(arguments: Namespace) -> int:
    """`show`."""
    position = _position(arguments.position)
    found: list[Letter] = []

    async def collect(log: "Log") -> None:
        from streams.letters import letters

        found.extend([letter async for letter in letters(log, lambda letter: str(letter.position) == position)])

    running.run_loop(_with_log(running.settings(arguments), collect))
    if not found:
        raise running.Failure(f"no dead letter holds the event at {position}; tidings dead-letters list names them")
    for letter in found:
        if arguments.as_json:
            running.say(json.dumps(_whole(letter)))
            continue
        running.say(f"{letter.code}: {letter.message}")
        running.say(f"event {letter.position} of {letter.topic}, appended {_time(letter.timestamp)}")
        running.say(f"dead-lettered {_time(letter.at)}, attempt {letter.attempt}")
        running.say(f"key: {_key(letter) or '-'}")
        for name, value in letter.headers:
            running.say(f"{name}: {value.decode('utf-8', 'replace')}")
        running.say("")
        running.say(_readable(letter.value or b""))
    return running.DONE


def run_redrive(arguments: Namespace) -> int:
    """`redrive`."""
    chosen = {_position(text) for text in arguments.positions}
    if not (chosen or arguments.all or arguments.reason or arguments.prediction):
        raise running.Failure("name positions, or --reason, --prediction or --all", running.WRONG_USE)
    if arguments.rate is not None and not arguments.rate > 0:
        raise running.Failure(f"--rate: {arguments.rate:g} is no rate; give records a second", running.WRONG_USE)
    wanted = _wanted(arguments)
    found: set[str] = set()
    skipped = 0

    async def redrive(log: "Log") -> None:
        from streams.letters import letters, newest_attempts, redriven

        nonlocal skipped
        there = [
            one async for one in letters(log, lambda one: wanted(one) and (not chosen or str(one.position) in chosen))
        ]
        latest = there if chosen else newest_attempts(there)
        skipped = len(there) - len(latest)
        for letter in latest:
            found.add(str(letter.position))
            try:
                records.append(redriven(letter))
            except ValueError as error:
                skipped += 1
                sys.stderr.write(f"tidings: left out: {error}\n")
        if not arguments.dry_run:
            await _append(log, records, arguments.rate, quiet=arguments.as_json)

    records: list[NewRecord] = []
    running.run_loop(_with_log(running.settings(arguments), redrive))
    if arguments.as_json:
        running.say(json.dumps({"redriven": len(records), "skipped": skipped, "dryRun": arguments.dry_run}))
    else:
        done = "would be redriven" if arguments.dry_run else "redriven"
        running.say(f"{len(records):,} {done}, {skipped:,} left out")
    if missing := chosen - found:
        raise running.Failure(f"no dead letter holds the event at {min(missing)}; tidings dead-letters list names them")
    return running.DONE


async def _append(log: "Log", records: "list[NewRecord]", rate: float | None, *, quiet: bool) -> None:
    from streams.log import EVENTS

    size = AT_ONCE if rate is None else max(1, int(rate / 10))
    start = time.monotonic()
    with Bar("redrive", "records", quiet=quiet) as bar:
        for first in range(0, len(records), size):
            if rate is not None:
                await asyncio.sleep(max(0.0, start + first / rate - time.monotonic()))
            await log.append(EVENTS, records[first : first + size])
            bar.update(min(len(records), first + size), len(records))


def run_export(arguments: Namespace) -> None:
    """`export`."""
    settings = running.settings(arguments)
    count = 0

    async def export(log: "Log") -> None:
        from streams.letters import letters

        nonlocal count
        async for letter in letters(log, _wanted(arguments)):
            out.write(json.dumps(_whole(letter)) + "\n")
            count += 1

    with _output(arguments.file) as out:
        running.run_loop(_with_log(settings, export))
    if arguments.file != "-":
        running.say(json.dumps({"exported": count}) if arguments.as_json else f"{count:,} written to {arguments.file}")


def _output(file: str) -> "contextlib.AbstractContextManager[IO[str]]":
    if file == "-":
        return contextlib.nullcontext(sys.stdout)
    try:
        return Path(file).open("x", encoding="utf-8")
    except FileExistsError:
        raise running.Failure(f"{file}: is there already; name a new file", running.WRONG_USE) from None


async def _with_log(settings: Settings, work: Callable[["Log"], Any]) -> None:
    if settings.log.startswith("memory://"):
        raise running.Failure("TIDINGS_LOG: memory:// is seen by the service alone", running.WRONG_USE)
    async with _opened(settings) as log:
        await work(log)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> "AsyncIterator[Log]":
    from tidings.parts import log_of

    log = await log_of(settings)
    try:
        yield log
    finally:
        await log.close()


def _wanted(arguments: Namespace) -> "Callable[[Letter], bool]":
    key = None if arguments.prediction is None else arguments.prediction.encode()
    return lambda letter: arguments.reason in (None, letter.code) and key in (None, letter.key)


def _position(text: str) -> str:
    from streams.log import Position

    try:
        return str(Position.parse(text))
    except ValueError:
        raise running.Failure(
            f"{text!r} is no position; say partition:offset, such as 0:17", running.WRONG_USE
        ) from None


def _time(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))


def _key(letter: "Letter") -> str | None:
    return None if letter.key is None else letter.key.decode("utf-8", "replace")


def _brief(letter: "Letter") -> dict[str, Any]:
    return {
        "position": str(letter.position),
        "predictionId": _key(letter),
        "message": letter.message,
        "at": letter.at,
        "attempt": letter.attempt,
    }


def _whole(letter: "Letter") -> dict[str, Any]:
    value = letter.value or b""
    try:
        body: dict[str, Any] = {"value": value.decode()}
    except UnicodeDecodeError:
        body = {"valueBase64": base64.b64encode(value).decode()}
    headers = [[name, content.decode("utf-8", "replace")] for name, content in letter.headers]
    origin = {"topic": letter.topic, "timestamp": letter.timestamp, "truncated": letter.truncated}
    return {**_brief(letter), "reason": letter.code, **origin, "headers": headers, **body}


def _readable(value: bytes) -> str:
    try:
        return json.dumps(json.loads(value), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return value.decode("utf-8", "backslashreplace")
