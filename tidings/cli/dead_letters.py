"""`tidings dead-letters`: what could not be applied, why, and trying it again."""

import asyncio
import base64
import contextlib
import json
import time
from argparse import Namespace
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from tidings.cli.support import command, consent, data, output
from tidings.cli.support.progress import ProgressBar
from tidings.config.settings import Settings
from tidings.storage.redaction import redact, without_proofs

if TYPE_CHECKING:
    from tidings.streams.log.protocol import Log
    from tidings.streams.processing.dead_letters import DeadLetter, Selection

EXAMPLES = 3


class _Reason:
    """The letters of one reason, as far as they are shown.

    Args:
        most: So many of them, the last; None: all.
    """

    def __init__(self, most: int | None) -> None:
        self.count = 0
        self.last = 0
        """When one was dead-lettered last, in ms."""
        self.shown: deque[dict[str, Any]] = deque(maxlen=most)

    def add(self, letter: "DeadLetter", done: str | None) -> None:
        self.count += 1
        self.last = max(self.last, letter.at)
        self.shown.append({**_brief(letter), "done": done})


def register(commands: command.Commands) -> None:
    """Add the command and its four subcommands."""
    about = "See what could not be applied, and try it again."
    actions = command.group(commands, "dead-letters", about, "tidings dead-letters list")
    about = "Count what lies there by reason, with examples."
    listing = command.parser(actions, "list", run_list, about, "tidings dead-letters list --json")
    about = "Show one record: why it lies there, its headers, its body."
    show = command.parser(actions, "show", run_show, about, "tidings dead-letters show 0:1742")
    show.add_argument(
        "position", metavar="POSITION", help="partition:offset of the event, as list says it"
    )
    about = "Append records to the events again; the rules leave out what is stale by now."
    redrive = command.parser(
        actions, "redrive", run_redrive, about, "tidings dead-letters redrive --reason not-json"
    )
    redrive.add_argument("positions", metavar="POSITION", nargs="*", help="these alone")
    redrive.add_argument("--all", action="store_true", help="everything that lies there")
    redrive.add_argument("--rate", metavar="N", type=float, help="at most so many a second")
    redrive.add_argument("--dry-run", action="store_true", help="count, and append nothing")
    consent.add_yes(redrive)
    about = "Say that nothing is to be done about records any more; they count no longer."
    dismiss = command.parser(
        actions, "dismiss", run_dismiss, about, "tidings dead-letters dismiss 0:1742"
    )
    dismiss.add_argument("positions", metavar="POSITION", nargs="*", help="these alone")
    dismiss.add_argument("--all", action="store_true", help="everything that is open")
    listing.add_argument(
        "--all", action="store_true", help="those that were redriven or dismissed, too"
    )
    about = "Write the records out, one JSON object a line."
    export = command.parser(
        actions, "export", run_export, about, "tidings dead-letters export letters.jsonl"
    )
    export.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="a new file; -: standard output"
    )
    for one in (listing, redrive, dismiss, export):
        one.add_argument("--reason", metavar="CODE", help="with this reason alone")
        one.add_argument("--prediction", metavar="ID", help="of this prediction alone")
    for one in (listing, show, redrive, dismiss, export):
        command.add_config(one)
        command.add_json(one)


def run_list(arguments: Namespace) -> None:
    """`list`."""
    most = None if arguments.as_json else EXAMPLES
    reasons: dict[str, _Reason] = {}

    done = 0

    async def collect(log: "Log") -> None:
        from tidings.streams.processing.dead_letter_marks import DeadLetterIndex
        from tidings.streams.processing.dead_letters import read_dead_letters

        nonlocal done
        index = DeadLetterIndex(log)
        await index.refresh()
        async for letter in read_dead_letters(log, _wanted(arguments)):
            mark = index.mark_of(letter)
            done += mark is not None
            if mark is not None and not (arguments.as_json or arguments.all):
                continue
            if (reason := reasons.get(letter.code)) is None:
                reason = reasons[letter.code] = _Reason(most)
            reason.add(letter, None if mark is None else mark.what.value)

    command.run_loop(_with_log(command.settings(arguments), collect))
    ordered = sorted(reasons.items(), key=lambda one: -one[1].count)
    if arguments.as_json:
        found = [
            {"reason": code, "count": one.count, "letters": list(one.shown)}
            for code, one in ordered
        ]
        count = sum(one.count for one in reasons.values())
        output.print_line(json.dumps({"count": count, "open": count - done, "reasons": found}))
        return
    if not ordered:
        output.print_line("no dead letters" if not done else "no open dead letters")
    for code, one in ordered:
        output.print_line(f"{one.count:>7,}  {code}  (last {_time(one.last)})")
        for letter in one.shown:
            output.print_line(
                f"         {letter['position']}  {letter['predictionId'] or '-'}  "
                f"{letter['message']}" + (f"  ({letter['done']})" if letter["done"] else "")
            )
    if done and not arguments.all:
        output.print_line(f"{done:>7,}  were redriven or dismissed; --all lists them too")


def run_show(arguments: Namespace) -> int:
    """`show`."""
    position = _position(arguments.position)
    found: list[DeadLetter] = []

    async def collect(log: "Log") -> None:
        from tidings.streams.processing.dead_letters import read_dead_letters

        found.extend(
            [
                letter
                async for letter in read_dead_letters(
                    log, lambda letter: str(letter.position) == position
                )
            ]
        )

    command.run_loop(_with_log(command.settings(arguments), collect))
    if not found:
        raise command.Failure(
            f"no dead letter holds the event at {position}; tidings dead-letters list names them"
        )
    for letter in found:
        if arguments.as_json:
            output.print_line(json.dumps(_whole(letter)))
            continue
        output.print_line(f"{letter.code}: {redact(letter.message)}")
        output.print_line(
            f"event {letter.position} of {letter.topic}, appended {_time(letter.timestamp)}"
        )
        output.print_line(f"dead-lettered {_time(letter.at)}, attempt {letter.attempt}")
        output.print_line(f"key: {letter.prediction_id or '-'}")
        for name, value in letter.headers:
            output.print_line(f"{name}: {redact(value.decode('utf-8', 'replace'))}")
        output.print_line("")
        output.print_text(_readable(letter.value or b""))
    return command.DONE


def run_redrive(arguments: Namespace) -> int:
    """`redrive`."""
    chosen = {_position(text) for text in arguments.positions}
    if not (chosen or arguments.all or arguments.reason or arguments.prediction):
        raise command.Failure(
            "name positions, or --reason, --prediction or --all", command.WRONG_USE
        )
    if arguments.rate is not None and not arguments.rate > 0:
        raise command.Failure(
            f"--rate: {arguments.rate:g} is no rate; give records a second", command.WRONG_USE
        )
    wanted = _wanted(arguments)
    found: set[str] = set()
    count = skipped = 0

    async def redrive(log: "Log") -> None:
        from tidings.streams.processing.dead_letter_marks import DeadLetterIndex
        from tidings.streams.processing.dead_letters import select_for_redrive

        nonlocal count, skipped
        index = DeadLetterIndex(log)
        await index.refresh()
        done = 0

        def covers(letter: "DeadLetter") -> bool:
            nonlocal done
            if not wanted(letter) or (chosen and str(letter.position) not in chosen):
                return False
            if chosen or index.is_open(letter):
                return True
            done += 1
            return False

        selection = await select_for_redrive(
            log,
            covers,
            repeats=bool(chosen),
        )
        found.update(str(position) for _, position in (*selection.chosen, *selection.cut))
        count, skipped = len(selection.chosen), selection.left_out + done
        for why in selection.cut.values():
            output.print_note(f"tidings: left out: {why}")
        if not arguments.dry_run:
            if count > len(chosen):
                # What names positions or a reason is clear enough for a script; everything is not.
                consent.require_consent(
                    arguments,
                    f"append {count:,} records to the events again",
                    scripted=not arguments.all,
                )
            count = await _append(log, selection, arguments.rate, quiet=arguments.as_json)

    command.run_loop(_with_log(command.settings(arguments), redrive))
    if arguments.as_json:
        output.print_line(
            json.dumps({"redriven": count, "skipped": skipped, "dryRun": arguments.dry_run})
        )
    else:
        done = "would be redriven" if arguments.dry_run else "redriven"
        output.print_line(f"{count:,} {done}, {skipped:,} left out")
    if missing := chosen - found:
        raise command.Failure(
            f"no dead letter holds the event at {min(missing)}; tidings dead-letters list names "
            "them"
        )
    return command.DONE


def run_dismiss(arguments: Namespace) -> None:
    """`dismiss`."""
    chosen = {_position(text) for text in arguments.positions}
    if not (chosen or arguments.all or arguments.reason or arguments.prediction):
        raise command.Failure(
            "name positions, or --reason, --prediction or --all", command.WRONG_USE
        )
    wanted = _wanted(arguments)
    count = 0

    async def work(log: "Log") -> None:
        from tidings.streams.processing.dead_letter_marks import DeadLetterIndex, dismiss

        nonlocal count
        index = DeadLetterIndex(log)
        await index.refresh()
        count = await dismiss(
            log,
            lambda one: (
                wanted(one) and index.is_open(one) and (not chosen or str(one.position) in chosen)
            ),
        )

    command.run_loop(_with_log(command.settings(arguments), work))
    output.print_line(
        json.dumps({"dismissed": count}) if arguments.as_json else f"{count:,} dismissed"
    )


async def _append(log: "Log", selection: "Selection", rate: float | None, *, quiet: bool) -> int:
    """Append what was selected, at most so many records a second; returns how many there were."""
    from tidings.streams.processing.dead_letter_marks import redrive
    from tidings.streams.processing.dead_letters import AT_ONCE

    most = AT_ONCE if rate is None else min(AT_ONCE, max(1, int(rate / 10)))
    done, start = 0, time.monotonic()
    with ProgressBar("redrive", "records", quiet=quiet) as bar:
        async for appended in redrive(log, selection, most):
            done += appended
            bar.update(done, len(selection.chosen))
            if rate is not None and done < len(selection.chosen):
                await asyncio.sleep(max(0.0, start + done / rate - time.monotonic()))
    return done


def run_export(arguments: Namespace) -> None:
    """`export`."""
    settings = command.settings(arguments)
    count = 0

    async def export(log: "Log") -> None:
        from tidings.streams.processing.dead_letters import read_dead_letters

        nonlocal count
        async for letter in read_dead_letters(log, _wanted(arguments)):
            output.write_line(out, json.dumps(_whole(letter)))
            count += 1

    try:
        with output.opened(arguments.file) as out:
            command.run_loop(_with_log(settings, export))
    except output.FileThere as error:
        raise command.Failure(str(error), command.WRONG_USE) from None
    if arguments.file != "-":
        output.print_line(
            json.dumps({"exported": count})
            if arguments.as_json
            else f"{count:,} written to {arguments.file}"
        )


async def _with_log(settings: Settings, work: Callable[["Log"], Any]) -> None:
    if settings.log.startswith("memory://"):
        raise command.Failure(
            "TIDINGS_LOG: memory:// is seen by the service alone", command.WRONG_USE
        )
    data.require_log(settings)
    async with _opened(settings) as log:
        await work(log)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> "AsyncIterator[Log]":
    from tidings.runtime.resources import log_of

    log = await log_of(settings, create=False)
    try:
        yield log
    finally:
        await log.close()


def _wanted(arguments: Namespace) -> "Callable[[DeadLetter], bool]":
    return lambda letter: (
        arguments.reason in (None, letter.code)
        and arguments.prediction in (None, letter.prediction_id)
    )


def _position(text: str) -> str:
    from tidings.streams.log.protocol import Position

    try:
        return str(Position.parse(text))
    except ValueError:
        raise command.Failure(
            f"{text!r} is no position; say partition:offset, such as 0:17", command.WRONG_USE
        ) from None


def _time(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))


def _brief(letter: "DeadLetter") -> dict[str, Any]:
    return {
        "position": str(letter.position),
        "predictionId": letter.prediction_id,
        "message": redact(letter.message),
        "at": letter.at,
        "attempt": letter.attempt,
    }


def _whole(letter: "DeadLetter") -> dict[str, Any]:
    value = letter.value or b""
    try:
        body: dict[str, Any] = {"value": redact(value.decode())}
    except UnicodeDecodeError:
        body = {"valueBase64": base64.b64encode(without_proofs(value)).decode()}
    headers = [
        [name, redact(content.decode("utf-8", "replace"))] for name, content in letter.headers
    ]
    origin = {"topic": letter.topic, "timestamp": letter.timestamp, "truncated": letter.truncated}
    return {**_brief(letter), "reason": letter.code, **origin, "headers": headers, **body}


def _readable(value: bytes) -> str:
    try:
        return redact(json.dumps(json.loads(value), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return redact(value.decode("utf-8", "backslashreplace"))
