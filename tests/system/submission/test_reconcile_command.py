"""`tidings reconcile --once`, as a real process beside a service that is patient."""

import asyncio
from pathlib import Path

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.providers.bad_days import BadDays
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import at_work, variables
from tidings import open_store
from tidings.streams.log.factory import open_log
from tidings.streams.submission.reconcile_policy import Timeouts


async def test_one_pass_sees_to_everything(tmp_path: Path) -> None:
    """What is silent is looked up and what is to be canceled is canceled.

    The counts are printed.
    """
    async with FaultyStandIn(duration=0.2, steps=2) as stand_in:
        stand_in.bad_days = BadDays(never=1)
        # A gateway and a processor alone: nobody reconciles.
        async with at_work(
            tmp_path, stand_in, {"TIDINGS_ROLE": "gateway,processor"}, timeouts=Timeouts()
        ) as work:
            silent = await work.create()
            stopped = await work.create(payload={"duration": 600})
            for made in (silent, stopped):
                await work.becomes(made["predictionId"], "processing")
            record = await work.get(silent["predictionId"])
            await asyncio.wait_for(stand_in.jobs[record["providerId"]].done.wait(), 30)
            await work.cancel(stopped["predictionId"])
            places = (
                "--log",
                f"sqlite:////{tmp_path}/log.db",
                "--store",
                f"sqlite:////{tmp_path}/store.db",
            )
            settings = variables(stand_in)
            ended = await tidings(
                tmp_path, "reconcile", "--once", *places, "--json", settings=settings
            )
            assert ended.code == 0, ended.err
            assert (ended.json["unfinished"], ended.json["canceled"], ended.json["left"]) == (
                2,
                1,
                0,
            )
            await work.becomes(stopped["predictionId"], "canceled")
            ended = await tidings(
                tmp_path, "reconcile", "--once", "--all", *places, "--json", settings=settings
            )
            assert (ended.code, ended.json["lookedUp"], ended.json["reported"]) == (0, 1, 1), (
                ended.err
            )
            await work.becomes(silent["predictionId"], "succeeded")
            ended = await tidings(
                tmp_path, "reconcile", "--once", "--all", *places, settings=settings
            )
            assert (ended.code, ended.out.startswith("0 unfinished")) == (0, True)


async def test_a_provider_that_cannot_say(tmp_path: Path) -> None:
    """Where the provider is down, the command says how many are left and ends with 1."""
    async with FaultyStandIn(duration=600) as stand_in:
        async with at_work(
            tmp_path, stand_in, {"TIDINGS_ROLE": "gateway,processor"}, timeouts=Timeouts()
        ) as work:
            made = await work.create()
            await work.becomes(made["predictionId"], "processing")
        stand_in.bad_days = BadDays(broken=1)
        places = (
            "--log",
            f"sqlite:////{tmp_path}/log.db",
            "--store",
            f"sqlite:////{tmp_path}/store.db",
        )
        ended = await tidings(
            tmp_path, "reconcile", "--once", "--all", *places, settings=variables(stand_in)
        )
        assert (ended.code, "1 left" in ended.out) == (1, True)


async def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    """A submission without an answer is left where the provider's list cannot tell."""
    async with FaultyStandIn(duration=600) as stand_in:
        async with at_work(
            tmp_path, stand_in, {"TIDINGS_ROLE": "gateway,processor"}, timeouts=Timeouts()
        ) as work:
            work.bad(lost_answers=1, never=1)
            made = await work.create()
            await eventually(lambda: len(stand_in.jobs) == 1, 30)
        places = (
            "--log",
            f"sqlite:////{tmp_path}/log.db",
            "--store",
            f"sqlite:////{tmp_path}/store.db",
        )
        stand_in.bad_days = BadDays(broken=1)
        ended = await tidings(
            tmp_path, "reconcile", "--once", "--all", *places, settings=variables(stand_in)
        )
        assert (ended.code, "1 left" in ended.out) == (1, True), ended.err
        stand_in.bad_days = BadDays()
        settings = {
            name: value
            for name, value in variables(stand_in).items()
            if name != "TIDINGS_PUBLIC_URL"
        }
        ended = await tidings(tmp_path, "reconcile", "--once", "--all", *places, settings=settings)
        assert (ended.code, "1 left" in ended.out, "TIDINGS_PUBLIC_URL" in ended.err) == (
            1,
            True,
            True,
        ), ended.err
        ended = await tidings(
            tmp_path,
            "reconcile",
            "--once",
            "--all",
            *places,
            "--json",
            settings=variables(stand_in),
        )
        assert (ended.code, ended.json["left"], ended.json["reported"]) == (0, 0, 1), ended.err
        assert made["status"] == "starting"


async def test_wrong_use(tmp_path: Path) -> None:
    """Without `--once`, or without a provider to ask, one line says what to do."""
    ended = await tidings(tmp_path, "reconcile")
    assert (ended.code, "--once" in ended.line) == (2, True)
    ended = await tidings(tmp_path, "reconcile", "--once", "--limit", "0")
    assert ended.code == 2
    await (await open_log(f"sqlite:///{tmp_path}/data/log.db")).close()
    await (await open_store(f"sqlite:///{tmp_path}/data/store.db")).close()
    ended = await tidings(tmp_path, "reconcile", "--once")
    assert (ended.code, "TIDINGS_REPLICATE_TOKEN" in ended.line) == (1, True)
