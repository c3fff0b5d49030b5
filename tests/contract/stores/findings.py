"""What a store that can find and sum must do: provider, error, words of prompts, and what was used."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Raw

from tests.support.storage.samples import (
    HOUR,
    complete,
    creation,
    fresh,
    prediction,
    tombstone,
    writing,
)
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.prediction import Blob, Prediction, Status, Usage
from tidings.storage.store import Page, PredictionStore, Query
from tidings.storage.usage import UsageSum, UsageSums, amount, merged, of_record

T0 = 1_764_000_000_000
DAY = 86_400_000


def ids(page: Page) -> list[str]:
    return [one.prediction_id for one in page.predictions]


async def listed(store: PredictionStore, **query: Any) -> list[str]:
    """All pages of two."""
    found, cursor = [], None
    while True:
        page = await store.list(Query(**query, limit=2, cursor=cursor))
        found += ids(page)
        if (cursor := page.cursor) is None:
            return found


def told(sums: UsageSums) -> dict[Any, Any]:
    """The sums with their costs as texts."""
    return {
        key: (one, {currency: amount(cost) for currency, cost in one.costs.items()})
        for key, one in sums.items()
    }


class Findings:
    async def test_filters_by_provider_and_error(self, store: PredictionStore) -> None:
        """By provider, by code and by words of the error, alone and with others, in pages and in counts."""
        if not store.capabilities.filters >= {"provider", "error"}:
            pytest.skip("this store lists by neither")
        mine = fresh()
        await store.write(
            [
                creation(
                    f"{mine}{number}",
                    owner=mine,
                    tags=(mine,),
                    created_at=T0 + number,
                    provider=f"{mine}-fal" if number % 2 else f"{mine}-luma",
                    status=Status.FAILED if number > 1 else Status.STARTING,
                    error=("NSFW content", "out of memory: 50% left", None)[number % 3]
                    if number > 1
                    else None,
                    error_code="deadline" if number == 5 else None,
                )
                for number in range(6)
            ]
        )
        fal: dict[str, Any] = {"provider": f"{mine}-fal"}
        for more in ({}, {"owner": mine}, {"tag": mine}):
            assert await listed(store, **fal, **more) == [f"{mine}5", f"{mine}3", f"{mine}1"]
        assert await listed(store, **fal, created_before=T0 + 5) == [f"{mine}3", f"{mine}1"]
        assert await listed(store, owner=mine, error="deadline") == [f"{mine}5"]
        assert await listed(store, owner=mine, error="nsfw") == [f"{mine}3"]
        assert await listed(store, owner=mine, error="50% LEFT") == [f"{mine}4"]
        assert await listed(store, **fal, error="nsfw") == [f"{mine}3"]
        assert await listed(store, owner=mine, error="dead") == []
        counts = await store.count(Query(**fal), 100)
        assert counts in (None, {"failed": 2, "starting": 1})

    async def test_filters_follow_what_is_written(self, store: PredictionStore) -> None:
        """A provider that comes late is listed by at once, and a deleted record no more."""
        if not store.capabilities.filters >= {"provider", "error"}:
            pytest.skip("this store lists by neither")
        one, provider = fresh(), fresh()
        await store.write([creation(one)])
        assert await listed(store, provider=provider) == []
        await store.write([writing(prediction(one, 2, provider=provider), 1)])
        assert await listed(store, provider=provider) == [one]
        await store.write([writing(tombstone(one, 3), 2)])
        assert await listed(store, provider=provider) == []
        await store.write([writing(prediction(one, 4, provider=provider), 3)])
        assert await listed(store, provider=provider) == [one]

    async def test_words_are_found(self, store: PredictionStore) -> None:
        """Words of a prompt, a payload's prompt or an id, whatever their case; no mark means anything else."""
        mine = fresh()
        prompts = [
            "A red CAT, 50%_off",
            'the "concatenated" cat',
            "猫が窓辺で眠る",
            "über alles Ünïcode",
            None,
        ]
        await store.write(
            [
                creation(f"{mine}{number}", owner=mine, prompt=prompt, created_at=T0 + number)
                for number, prompt in enumerate(prompts)
            ]
            + [
                creation(
                    f"{mine}5",
                    owner=mine,
                    payload=Raw(b'{"prompt":"a \\u0063at inside"}'),
                    created_at=T0 + 5,
                )
            ]
            + [writing(complete(f"{mine}6"), 0)]
        )
        if await store.find("red", Query(owner=mine)) is None:
            pytest.skip("this store is looked through")

        async def found(words: str, limit: int = 10, **query: Any) -> list[str]:
            page = await store.find(words, Query(owner=mine, limit=limit, **query))
            assert page is not None
            return [one.removeprefix(mine) for one in ids(page)]

        assert await found("cat") == ["5", "1", "0"]
        assert await found("50%_") == ["0"]
        assert await found("50__") == []
        assert await found('"concat') == ["1"]
        assert await found("窓辺で") == ["2"]
        assert await found("ünïc") == ["3"]
        assert await found(mine.upper()) == ["5", "4", "3", "2", "1", "0"]
        assert await found("cat", limit=1) == ["5"]
        assert await found("cat", created_before=T0 + 5) == ["1", "0"]
        first = await store.find("cat", Query(owner=mine, limit=2))
        assert first is not None
        assert await found("cat", cursor=first.cursor) == ["0"]
        await store.write([writing(prediction(f"{mine}0", 2, owner=mine, prompt="a dog"), 1)])
        assert await found("red") == []
        assert "0" in await found("a dog")
        await store.write([writing(tombstone(f"{mine}1", 2), 1)])
        assert await found("concat") == []
        assert await store.find("re", Query(owner=mine)) is None

    async def test_prompts_that_lie_apart_are_counted(self, store: PredictionStore) -> None:
        """A prompt that is kept by reference cannot be found by its words; the store says how many are so."""
        mine = fresh()
        reference = Blob("sha256-00", 40_000, 40_000)
        await store.write(
            [creation(mine, owner=mine, prompt=reference), creation(f"{mine}1", owner=mine)]
        )
        assert await store.unsearchable(Query(owner=mine)) in (1, None)

    async def test_usage_is_summed(self, store: PredictionStore) -> None:
        """What `get` would show is summed by owner, model, provider and day of UTC, to the last digit of each cost."""
        mine, now = fresh(), SYSTEM_CLOCK.ms()
        used: Sequence[Usage | None] = [
            Usage(cost="0.1", currency="USD", seconds=0.1),
            Usage(cost="0.2", currency="USD", seconds=0.2, images=1),
            Usage(cost="999999999999.000000000001", currency="EUR"),
            Usage(input_tokens=2**53, output_tokens=1),
            Usage(input_tokens=2**53),
            None,
        ]
        records = [
            prediction(
                f"{mine}{number}",
                owner=mine if number != 1 else f"{mine}-2",
                model=mine,
                provider=("fal", None)[number % 2],
                created_at=T0 - T0 % DAY + number * DAY // 2,
                usage=usage,
            )
            for number, usage in enumerate(used)
        ]
        gone = [
            writing(
                prediction(f"{mine}7", owner=mine, model=mine, usage=Usage(images=9)),
                0,
                expires_at=now - HOUR,
            ),
            creation(f"{mine}8", owner=mine, model=mine, usage=Usage(images=9)),
        ]
        await store.write([writing(record, 0, expires_at=now + HOUR) for record in records] + gone)
        await store.write([writing(tombstone(f"{mine}8", 2), 1)])
        if await store.usage(Query(model=mine), ()) is None:
            pytest.skip("this store cannot sum")

        async def same(by: tuple[str, ...], among: list[Prediction], **query: Any) -> UsageSums:
            found = await store.usage(Query(model=mine, **query), by)
            assert found is not None
            parts = [dict([of_record(one, by)]) for one in among if one.usage is not None]
            assert told(found) == told(merged(parts))
            return found

        whole = await same((), records)
        assert amount(whole[()].costs["USD"]) == "0.3"
        assert amount(whole[()].costs["EUR"]) == "999999999999.000000000001"
        assert (whole[()].input_tokens, whole[()].micros, whole[()].predictions) == (
            2**54,
            300_000,
            5,
        )
        for by in (("owner",), ("owner", "model", "day"), ("day",), ("provider", "owner")):
            await same(by, records)
        await same(
            ("day",),
            records[2:4],
            created_after=records[2].created_at,
            created_before=records[4].created_at,
        )
        await same(("owner",), records[1:2], owner=f"{mine}-2")
        await same((), [*records[:1], *records[2:]], owners=(mine, "nobody"))
        await same((), records[::2], provider="fal")

    async def test_usage_follows_what_is_written(self, store: PredictionStore) -> None:
        """A second report of usage takes the place of the first in the sum."""
        one = fresh()
        await store.write([creation(one, owner=one, usage=Usage(images=1))])
        await store.write([writing(prediction(one, 2, owner=one, usage=Usage(images=3)), 1)])
        assert await store.usage(Query(owner=one), ()) in (
            None,
            {(): UsageSum(predictions=1, images=3)},
        )
