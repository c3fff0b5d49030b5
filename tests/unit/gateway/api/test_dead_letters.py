"""Dead letters over a real port."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import httpx
import jwt
import pytest

from tests.support.conditions import eventually
from tests.support.gateway.small_service import SmallService, small_service
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.streams.log.protocol import (
    DEAD_LETTERS,
    EVENTS,
    LogMisconfigured,
    NewRecord,
    Position,
)
from tidings.streams.processing import dead_letters

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"


@contextlib.asynccontextmanager
async def with_letters() -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    """A service with three dead letters."""
    async with (
        small_service() as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        bad = [
            NewRecord(b"a", b"not json"),
            NewRecord(b"b", b"\xff"),
            NewRecord(b"c", b"still not json"),
        ]
        await service.log.append(EVENTS, bad)

        async def there() -> bool:
            return len(await service.records(DEAD_LETTERS)) == 3

        await eventually(there)
        yield service, client


async def test_letters_are_listed_with_their_reason() -> None:
    """Newest first with reason, position and evidence, and counted by reason; a filter narrows the list alone."""
    async with with_letters() as (_, client):
        answer = (await client.get("/api/dead-letters")).json()
        assert answer["count"] == 3
        assert answer["reasons"] == {"not-json": 2, "encoding": 1}
        letters = {letter["predictionId"]: letter for letter in answer["data"]}
        assert letters["a"]["value"] == "not json"
        assert (letters["a"]["reason"], letters["a"]["position"], letters["a"]["attempt"]) == (
            "not-json",
            "0:0",
            1,
        )
        assert letters["b"]["value"] == "\ufffd"
        narrowed = (await client.get("/api/dead-letters?reason=encoding&limit=1")).json()
        assert [letter["predictionId"] for letter in narrowed["data"]] == ["b"]
        assert narrowed["count"] == 3
        assert (await client.get("/api/dead-letters?limit=0")).status_code == 400


async def test_letters_are_redriven() -> None:
    """What is chosen is appended to the events as it came, and counts its attempts."""
    async with with_letters() as (service, client):
        answer = await client.post("/api/dead-letters/redrive", json={"positions": ["0:0", "9:9"]})
        assert answer.json() == {"success": True, "data": {"redriven": 1, "skipped": 0}}
        again = (await service.records())[3]
        assert (again.key, again.value) == (b"a", b"not json")

        async def twice() -> bool:
            letters = (await client.get("/api/dead-letters?prediction=a")).json()["data"]
            return sorted(letter["attempt"] for letter in letters) == [1, 2]

        await eventually(twice)


async def test_a_redrive_of_all_tries_each_record_once() -> None:
    """What comes back is a letter with one more attempt, which stands for the earlier ones: nothing ever doubles."""
    async with with_letters() as (_, client):
        for attempt in (2, 3):
            answer = (await client.post("/api/dead-letters/redrive", json={"all": True})).json()[
                "data"
            ]
            assert answer == {"redriven": 3, "skipped": 3 * (attempt - 2)}

            async def back(attempt: int = attempt) -> bool:
                listed = (await client.get("/api/dead-letters")).json()
                return (listed["count"], listed["open"]) == (3 * attempt, 3)

            await eventually(back)
        letters = (await client.get("/api/dead-letters?prediction=c")).json()["data"]
        assert sorted(letter["attempt"] for letter in letters) == [1, 2, 3]
        became = {letter["attempt"]: letter["done"] for letter in letters}
        assert became[3] is None
        assert {became[1]["outcome"], became[2]["outcome"]} == {"returned"}
        named = {"positions": [letters[0]["position"]]}
        answer = (await client.post("/api/dead-letters/dismiss", json=named)).json()["data"]
        assert answer == {"dismissed": 1}
        counted = (await client.get("/api/dead-letters?count=true")).json()
        assert (counted["open"], counted["data"]) == (2, [])
        still = (await client.get("/api/dead-letters?prediction=c&state=open")).json()["data"]
        assert still == []


async def test_a_redrive_appends_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is chosen, no more than a slice of it is in one append."""
    monkeypatch.setattr(dead_letters, "AT_ONCE_BYTES", 10)
    async with with_letters() as (service, client):
        appended: list[int] = []
        append = service.log.append

        async def counted(topic: str, records: Sequence[NewRecord]) -> list[Position]:
            if topic == EVENTS:
                appended.append(len(records))
            return await append(topic, records)

        monkeypatch.setattr(service.log, "append", counted)
        answer = (await client.post("/api/dead-letters/redrive", json={"all": True})).json()["data"]
        assert (answer, appended) == ({"redriven": 3, "skipped": 0}, [2, 1])


async def test_a_large_letter_is_listed_by_its_beginning() -> None:
    """Of a long value as much is shown as says what it was, and how long it is."""
    async with (
        small_service() as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        await service.log.append(EVENTS, [NewRecord(b"a", b"x" * 20_000)])

        async def there() -> list[dict[str, object]]:
            return list((await client.get("/api/dead-letters")).json()["data"])

        (letter,) = await eventually(there)
        assert (letter["value"], letter["bytes"]) == ("x" * 16_384, 20_000)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"positions":[]}', b'{"everything":true}', b'{"all":"yes"}']
)
async def test_a_redrive_needs_a_choice(body: bytes) -> None:
    """Nothing is redriven by accident."""
    async with with_letters() as (service, client):
        answer = await client.post(
            "/api/dead-letters/redrive", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422
        assert len(await service.records()) == 3


async def test_letters_are_for_admins() -> None:
    """Whoever may read and write everything does not see what could not be applied."""
    authenticator = Hs256Tokens(SECRET, RequiredClaims())
    async with (
        small_service(authenticator=authenticator) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        claims = {"exp": time.time() + 60, "scope": "read:all watch:all write"}
        headers = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}
        assert (await client.get("/api/dead-letters", headers=headers)).status_code == 403
        assert (
            await client.post("/api/dead-letters/redrive", json={"all": True}, headers=headers)
        ).status_code == 403


async def test_letters_are_listed_without_a_right_on_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gateway that may not see the processors' group lists letters all the same."""
    async with with_letters() as (service, client):

        async def refused(topic: str, group: str) -> dict[int, int]:
            raise LogMisconfigured(f"{group} of {topic} may not be described")

        monkeypatch.setattr(service.log, "committed", refused)
        await client.post("/api/dead-letters/redrive", json={"prediction": "c"})
        answer = await client.get("/api/dead-letters?prediction=c")
        assert answer.status_code == 200
        assert {letter["attempt"] for letter in answer.json()["data"]} >= {1}
