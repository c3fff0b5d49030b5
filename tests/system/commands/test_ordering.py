"""`tidings create` and `tidings retry`, beside a service with a provider."""

import json
from pathlib import Path

from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import at_work
from tidings.client.client import Client

HERONS = ("--provider", "replicate", "--model", "owner/model")


async def test_orders_and_retries_on_the_command_line(tmp_path: Path) -> None:
    """One is ordered and, once canceled, tried again; a file orders a group; wrong use is one line."""
    async with (
        FaultyStandIn(duration=0.1, steps=1, seed=1) as provider,
        at_work(tmp_path, provider) as work,
        Client(url := f"http://127.0.0.1:{work.service.port}") as client,
    ):

        async def said(*arguments: str) -> str:
            ended = await tidings(tmp_path, *arguments, "--url", url)
            assert ended.code == 0, ended.err
            return ended.out.strip()

        payload = '{"duration": 600}'
        order = ("create", *HERONS, "--prompt", "a heron", "--payload", payload, "--tag", "t")
        one = await said(*order)
        record = await client.get(one)
        assert (record.prompt, record.tags, record.value("payload")) == (
            "a heron",
            ("t",),
            {"duration": 600},
        )
        early = await tidings(tmp_path, "retry", one, "--url", url)
        assert early.code == 1
        assert early.line
        await client.cancel(one)
        await client.finished(one)
        again = json.loads(await said("retry", one, "--json"))
        assert again["retryOf"] == one
        assert await said("retry", one) == again["predictionId"]

        (tmp_path / "orders.jsonl").write_text('{"prompt": "one"}\n\n{"prompt": "two"}\n')
        group = await said("create", *HERONS, "--orders", "orders.jsonl", "--id", "herons")
        assert group == "herons"

        async def both() -> bool:
            return len(await client.members("herons")) == 2

        await eventually(both, 20)
        assert [member.prompt for member in await client.members("herons")] == ["one", "two"]

        (tmp_path / "bad.jsonl").write_text('{"prompt": "one"}\n[1]\n')
        for arguments, line in (
            (("create", "--model", "m"), "--provider: is missing"),
            (("create", *HERONS, "--payload", "{"), "--payload: is no JSON"),
            (("create", *HERONS, "--orders", "bad.jsonl"), "--orders, line 2: is no object"),
            (("create", *HERONS, "--orders", "/dev/null"), "--orders: has no order"),
        ):
            wrong = await tidings(tmp_path, *arguments, "--url", url)
            assert wrong.code == 2
            assert line in wrong.line
