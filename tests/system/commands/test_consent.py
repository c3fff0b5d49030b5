"""Commands ask before they do what cannot be taken back, and make no data where there is none."""

import asyncio
import os
import pty
import sys
from pathlib import Path

import pytest

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import environment, serving
from tests.support.webhooks import SECRET
from tidings.client.client import Client
from tidings.config.loader import load_settings
from tidings.config.settings import SettingsError
from tidings.observability.kafka_client_lines import KafkaClientFilter, meaning_of

SETTINGS = {"TIDINGS_STANDARD_SECRET": SECRET}


async def answered(folder: Path, answer: str, *arguments: str) -> tuple[int, str]:
    """How a command ends whose question is answered on a terminal, and what the terminal shows."""
    main, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings", *arguments),
        cwd=folder,
        env=environment(SETTINGS),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    os.write(main, f"{answer}\n".encode())
    shown = b""
    try:
        while part := await asyncio.to_thread(os.read, main, 4096):
            shown += part
    except OSError:  # the terminal's other end is closed
        pass
    os.close(main)
    return await process.wait(), shown.decode()


async def there(folder: Path, prediction_id: str) -> bool:
    done = await tidings(folder, "audit", "export", "--only", prediction_id, "--from", "1")
    return '"deletion"' not in done.out and '"erasure"' not in done.out and bool(done.out)


async def test_erasing_asks(tmp_path: Path) -> None:
    """An erasure says what it would delete; it wants a yes on a terminal, and `--yes` elsewhere."""
    async with serving(tmp_path, SETTINGS) as service:
        made = await tidings(tmp_path, "report", "p1", "--owner", "ann", "--status", "processing")
        assert made.code == 0, made.err
        async with Client(service.url) as client:

            async def applied() -> bool:
                return bool((await client.list(owner="ann")).data)

            await eventually(applied)
            refused = await tidings(tmp_path, "erase", "--owner", "ann")
            assert refused.code == 2
            assert "this would delete 1 predictions of ann for good" in refused.line
            assert "--yes" in refused.line
            code, shown = await answered(tmp_path, "n", "erase", "--owner", "ann")
            assert (code, "This would delete 1 predictions" in shown) == (1, True), shown
            assert await applied()
            code, shown = await answered(tmp_path, "y", "erase", "--owner", "ann")
            assert (code, "1 of 1 predictions of ann are deleted" in shown) == (0, True), shown
            assert not await applied()


async def test_restoring_and_redriving_everything_want_a_yes(tmp_path: Path) -> None:
    """Where nobody can be asked, a restore and a redrive of all name the flag, and do nothing."""
    async with serving(tmp_path, SETTINGS):
        bad = await tidings(tmp_path, "report", "p1", "--status", "succeeded")
        assert bad.code == 0
        other = await tidings(tmp_path, "report", "p1", "--status", "failed")
        assert other.code == 0

        async def lies_there() -> bool:
            return bool((await tidings(tmp_path, "dead-letters", "list", "--json")).json["count"])

        await eventually(lies_there)
        refused = await tidings(tmp_path, "dead-letters", "redrive", "--all")
        assert refused.code == 2
        assert "append 1 records" in refused.line
        assert "--yes" in refused.line
        done = await tidings(tmp_path, "dead-letters", "redrive", "--reason", "contradiction")
        assert done.code == 0, done.err
        assert (await tidings(tmp_path, "backup", "b.tar")).code == 0
    new = tmp_path / "new"
    new.mkdir()
    refused = await tidings(new, "restore", "../b.tar")
    assert refused.code == 2
    assert "--yes" in refused.line
    assert os.listdir(new) == []  # noqa: PTH208 - see ASYNC240


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "--verify"),
        ("replay", "--repair"),
        ("replay",),
        ("dead-letters", "list"),
        ("dead-letters", "redrive", "--all", "--yes"),
        ("audit", "export"),
        ("backup", "b.tar"),
        ("restore", "b.tar", "--yes"),
        ("erase", "--owner", "ann", "--yes"),
        ("reconcile", "--once"),
        ("report", "p1", "--status", "processing"),
    ],
    ids=" ".join,
)
async def test_no_data_is_said_and_none_is_made(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """In an empty folder a command says that nothing is there, and leaves the folder empty."""
    ended = await tidings(tmp_path, *arguments)
    assert ended.code == 1
    assert "are you in the folder" in ended.line or "no backup at b.tar" in ended.line
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - see ASYNC240


async def test_the_address_comes_last(tmp_path: Path) -> None:
    """What a start says ends with the address, however many parts have said something before."""
    async with serving(tmp_path, SETTINGS) as service:
        await eventually(lambda: "service.ready" in service.output)
        lines = [line for line in service.output.splitlines() if line.strip()]
        assert "service.ready" in lines[-1]
        assert service.url in lines[-1]


async def test_the_version_is_told(tmp_path: Path) -> None:
    """`--version` prints the name and the version."""
    ended = await tidings(tmp_path, "--version")
    assert ended.code == 0
    assert ended.out.startswith("tidings ")


async def test_the_doctor_begins_with_what_is_wrong(tmp_path: Path) -> None:
    """Failures come first, then warnings; settings at their defaults are left out without `--all`."""
    settings = {"TIDINGS_STORE": "valkey://127.0.0.1:1"}
    ended = await tidings(tmp_path, "doctor", settings=settings)
    states = [line.split()[0] for line in ended.out.split("\n\n")[0].splitlines()]
    assert states == sorted(states, key=("failed", "warning", "ok").index)
    assert states[0] == "failed"
    assert "TIDINGS_PARTITIONS" not in ended.out
    assert "TIDINGS_STORE " in ended.out
    ended = await tidings(tmp_path, "doctor", "--all", settings=settings)
    assert "TIDINGS_PARTITIONS" in ended.out


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ('archive = "befor"', "after, before, off"),
        ('role = ["gatway"]', "gateway, processor, archiver, reconciler"),
    ],
)
def test_a_typo_in_the_file_is_answered_with_what_there_is(
    tmp_path: Path, line: str, allowed: str
) -> None:
    """A value that a setting does not take is answered with those that it does."""
    file = tmp_path / "tidings.toml"
    file.write_text(line)
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={}, config=file)
    assert allowed in str(caught.value)


def test_lines_of_the_kafka_client_are_translated() -> None:
    """Each kind of trouble has a name, and one that is not known keeps the client's words."""
    said = "Unable to request metadata from localhost:9092: KafkaConnectionError"
    assert meaning_of(said)[0] == "kafka.broker_away"
    assert meaning_of("Heartbeat failed for group x because it is rebalancing")[0] == (
        "kafka.group_changing"
    )
    assert meaning_of("something new")[0] == "kafka.client"
    import logging

    lines = KafkaClientFilter()
    record = logging.LogRecord("aiokafka.client", logging.ERROR, "", 0, said, (), None)
    assert lines.filter(record)
    assert not lines.filter(record)
    other = logging.LogRecord("aiohttp", logging.ERROR, "", 0, said, (), None)
    assert lines.filter(other)
    assert lines.filter(other)
