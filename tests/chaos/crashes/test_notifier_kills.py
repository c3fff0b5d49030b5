"""Notifiers are killed at any moment; every step is told all the same, in order, repeats with the same id."""

import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.conditions import eventually
from tests.support.receiver import SECRET, Receiver
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import signed

KEY = {"TIDINGS_WEBHOOK_KEY": "0123456789abcdef0123456789abcdef"}
STEPS = ["prediction.processing", "prediction.succeeded"]
OTHERS = ("serve", "--role", "gateway,processor")
NOTIFIER = ("serve", "--role", "notifier")


def told_by(receiver: Receiver, settings: dict[str, str]) -> dict[str, str]:
    """The settings of a service that tells this receiver of everything."""
    return {
        **settings,
        **KEY,
        "TIDINGS_NOTIFY_SECRET": SECRET,
        "TIDINGS_NOTIFY": receiver.url,
        "TIDINGS_NOTIFY_ALLOW": receiver.allowed,
        "TIDINGS_NOTIFY_EVENTS": "processing,succeeded",
    }


async def is_ready(session: aiohttp.ClientSession, one: TidingsProcess) -> bool:
    """Whether what comes from now on is told by it."""
    async with session.get(f"{one.url}/readyz") as answer:
        return answer.status == 200


async def report(session: aiohttp.ClientSession, url: str, names: Sequence[str]) -> None:
    """Two steps of each, all at once."""

    async def both(name: str) -> None:
        for status in ("processing", "succeeded"):
            body = webhooks.report(name, status=status)
            address = f"{url}/api/webhooks/replicate"
            async with session.post(address, data=body, headers=signed(body)) as answer:
                assert answer.status == 200

    await asyncio.gather(*map(both, names))


async def all_told(receiver: Receiver, names: Sequence[str]) -> None:
    """Each step has arrived, at first in order, and every repeat of it had the same id."""
    await eventually(lambda: all(set(receiver.of(name)) == set(STEPS) for name in names), 90)
    for name in names:
        assert list(dict.fromkeys(receiver.of(name))) == STEPS
    ids: dict[tuple[str, str], set[str]] = {}
    for message_id, told in receiver.taken:
        ids.setdefault((told["data"]["predictionId"], told["type"]), set()).add(message_id)
    assert all(len(one) == 1 for one in ids.values())


async def _killed_at(tmp_path: Path, settings: dict[str, str], steps: Sequence[int]) -> None:
    """SIGKILL as each of these steps ends, the first time or the third; then one that lives."""
    async with Receiver().serving() as receiver:
        common = told_by(receiver, settings)
        async with (
            serving(tmp_path, common, arguments=OTHERS) as gateway,
            aiohttp.ClientSession() as session,
        ):
            names: list[str] = []
            for step in steps:
                receiver.answers = [500]  # so that a try fails, too
                program = (
                    sys.executable,
                    *("-m", "tests.chaos.crashes.notifier_mortal"),
                    *(str(step), str(3 if step > 4 else 1)),
                )
                doomed = TidingsProcess(tmp_path, common, NOTIFIER, program)
                await doomed.start()
                await eventually(lambda doomed=doomed: is_ready(session, doomed), 30)  # type: ignore[misc]
                some = [f"step{step}-{n}" for n in range(5)]
                await report(session, gateway.url, some)
                names += some
                assert await doomed.ended(60) == -9, doomed.output
            async with serving(tmp_path, common, arguments=NOTIFIER):
                await all_told(receiver, names)


async def test_killed_where_most_is_at_stake(
    tmp_path: Path, sqlite_settings: dict[str, str]
) -> None:
    """SIGKILL with deliveries that stand and are not committed, and with posts that are not noted."""
    await _killed_at(tmp_path, sqlite_settings, (3, 5))


@pytest.mark.long
async def test_killed_at_each_step(tmp_path: Path, settings: dict[str, str]) -> None:
    """SIGKILL as each numbered step ends, on each kind of log."""
    await _killed_at(tmp_path, settings, range(1, 7))


@pytest.fixture
def sqlite_settings() -> dict[str, str]:
    """Those of a service on files."""
    return {"TIDINGS_REPLICATE_SECRET": webhooks.SECRET}


@pytest.mark.long
async def test_two_notifiers_killed_at_random(tmp_path: Path, settings: dict[str, str]) -> None:
    """Under load one of two notifiers is killed, again and again: nothing is lost or out of order."""
    moments, count = random.Random(5), 0
    names: list[str] = []
    async with Receiver().serving() as receiver:
        receiver.answers = [500 if moments.random() < 0.02 else 200 for _ in range(20_000)]
        common = told_by(receiver, settings)
        async with (
            serving(tmp_path, common, arguments=OTHERS) as gateway,
            aiohttp.ClientSession() as session,
        ):
            pair = [TidingsProcess(tmp_path, common, NOTIFIER) for _ in range(2)]
            for one in pair:
                await one.start()
            try:
                for _ in range(8):
                    one = moments.choice(pair)
                    taken = len(receiver.taken)
                    for _ in range(5):
                        some = [f"p{count + n}" for n in range(10)]
                        count += 10
                        names += some
                        await report(session, gateway.url, some)
                    await eventually(lambda taken=taken: len(receiver.taken) > taken, 60)  # type: ignore[misc]
                    await asyncio.sleep(moments.uniform(0, 0.3))
                    await one.kill()
                    await one.start()
                await all_told(receiver, names)
            finally:
                for one in pair:
                    await one.kill()
