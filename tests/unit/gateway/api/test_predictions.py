"""Reading, listing, changing and creating predictions over a real port."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from msgspec import Raw

from tests.support.conditions import eventually
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.auth.cursor_seal import CursorSeal
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.gateway.http.held_bytes import HeldBytes, HeldLimits, Kind
from tidings.storage.errors import StoreUnavailable
from tidings.storage.factory import open_store
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Blob, Prediction, encode
from tidings.storage.store import Page, Query, Stored
from tidings.storage.wrappers.fair_listing import FairListing, Lister
from tidings.storage.wrappers.fallback import FallbackStore, ReplicaWrite, write_replicas
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.registry import open_providers

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    async with (
        small_service(**settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        yield service, client


def bearer(**claims: Any) -> dict[str, str]:
    token = jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}


# ---- reading ----


class Away(MemoryStore):
    """A store that cannot be read from outside."""

    async def get(self, prediction_id: str) -> Stored | None:
        raise StoreUnavailable("away")

    async def list(self, query: Query) -> Page:
        raise StoreUnavailable("away")


async def test_a_read_carries_the_stored_bytes_and_their_version() -> None:
    """The answer is the record as it is encoded, with its version as the ETag."""
    async with serving() as (service, client):
        await service.put(prediction("p1", payload={"seed": 17454220438242315174}))
        for _ in range(2):  # first out of the store, then out of the cache
            answer = await client.get("/api/predictions/p1")
            stored = await service.store.get("p1")
            assert stored is not None
            assert answer.content == b'{"success":true,"data":' + stored.encoded + b"}"
            assert answer.headers["etag"] == '"2"'
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-cache"


async def test_an_unknown_prediction_is_404() -> None:
    """An id that nobody has, an id that cannot be one, and a deleted one are all simply not found."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        assert (await client.delete("/api/predictions/p1")).status_code == 204
        for name in ("nope", "a%20b", "x" * 300, "p1", "%FF"):
            answer = await client.get(f"/api/predictions/{name}")
            assert answer.status_code == 404, name
            assert answer.json()["error"] == "Prediction not found"
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("known", ['"2"', 'W/"2"', '"1", "2"', "*"])
async def test_a_known_version_is_not_sent_again(known: str) -> None:
    """`If-None-Match` with the current version is answered 304 without a body; another one gets the record."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        answer = await client.get("/api/predictions/p1", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == '"2"'
        assert (
            await client.get("/api/predictions/p1", headers={"If-None-Match": '"1"'})
        ).status_code == 200


async def test_a_read_may_be_narrowed_to_fields() -> None:
    """`fields` picks members of the record, each as it is encoded there; a name that no record has is a 400."""
    async with serving() as (service, client):
        await service.put(prediction("p1", imageUrl="https://x/y.png", payload={"n": 1.50}))
        answer = await client.get("/api/predictions/p1?fields=status,imageUrl,error")
        assert answer.json() == {
            "success": True,
            "data": {"status": "processing", "imageUrl": "https://x/y.png"},
        }
        refused = await client.get("/api/predictions/p1?fields=status,nonsense")
    assert refused.status_code == 400
    assert "nonsense" in refused.json()["detail"]


async def test_a_read_may_wait_for_the_next_change() -> None:
    """With `Prefer: wait` a known version is answered when the next one comes, or 304 when none does."""
    headers = {"If-None-Match": '"2"', "Prefer": "wait=15"}
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        waiting = asyncio.create_task(client.get("/api/predictions/p1", headers=headers))
        await client.patch("/api/predictions/p1", json={"progress": 0.5})
        answer = await waiting
        assert (answer.status_code, answer.json()["data"]["progress"]) == (200, 0.5)
        unchanged = await client.get(
            "/api/predictions/p1", headers={"If-None-Match": '"3"', "Prefer": "wait=1"}
        )
    assert unchanged.status_code == 304


async def test_a_store_that_is_down_is_a_503() -> None:
    """A read that needs the store while it does not answer is told to come back; cached records are still read."""
    async with serving() as (service, client):
        await service.put(prediction("cached"))
        await client.get("/api/predictions/cached")

        async def refuse(*_: object) -> None:
            raise StoreUnavailable("locked")

        service.store.store.get = refuse  # type: ignore[method-assign, assignment]
        answer = await client.get("/api/predictions/other")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "locked" not in answer.text
        assert (await client.get("/api/predictions/cached")).status_code == 200


async def test_a_read_out_of_the_fallback_says_so() -> None:
    """What the fallback answers carries `Tidings-Degraded`, a 404 too; what is in memory does not."""
    both = FallbackStore(Away(), MemoryStore())
    async with serving(degraded=lambda: both.degraded) as (service, client):
        service.store.store = both
        await write_replicas(
            both.fallback, [ReplicaWrite(prediction("p1"), encode(prediction("p1")))]
        )
        for path in (
            "/api/predictions/p1",
            "/api/predictions/p1",
            "/api/predictions",
            "/api/predictions/p2",
        ):
            answer = await client.get(path)
            assert answer.status_code == (404 if path.endswith("p2") else 200)
            assert answer.headers["tidings-degraded"] == "1"
        await service.put(
            prediction("p3")
        )  # by the changes, into the cache in front of a store in order
        assert "tidings-degraded" not in (await client.get("/api/predictions/p3")).headers


async def test_head_has_the_headers_alone() -> None:
    """HEAD answers as GET does, without the body."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        answer = await client.head("/api/predictions/p1")
    assert (answer.status_code, answer.headers["etag"], answer.content) == (200, '"2"', b"")


# ---- lists ----


def at(number: int, **fields: Any) -> Prediction:
    return prediction(f"p{number:02}", createdAt=1_764_000_000_000 + number, **fields)


async def test_a_list_is_newest_first_in_pages() -> None:
    """Pages follow the cursor, newest first, each record once, and the last page has none."""
    async with serving() as (service, client):
        for number in range(7):
            await service.put(at(number))
        ids, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page = (
                await client.get(
                    "/api/predictions", params={"limit": 3} | ({"cursor": cursor} if cursor else {})
                )
            ).json()
            ids += [record["predictionId"] for record in page["data"]]
            cursor, pages = page["cursor"], pages + 1
    assert ids == [f"p{number:02}" for number in reversed(range(7))]
    assert pages == 3


async def test_a_list_is_filtered() -> None:
    """Status, owner, model and tag each narrow the list, and together."""
    async with serving() as (service, client):
        await service.put(at(1, owner="ann", model="m", tags=["t"]))
        await service.put(at(2, owner="bob", model="m"))
        await service.put(at(3, owner="ann", status="failed"))
        for query, expected in {
            "owner=ann": ["p03", "p01"],
            "model=m": ["p02", "p01"],
            "tag=t": ["p01"],
            "status=failed": ["p03"],
            "owner=ann&model=m": ["p01"],
            "owner=zoe": [],
        }.items():
            page = (await client.get(f"/api/predictions?{query}")).json()
            assert [record["predictionId"] for record in page["data"]] == expected, query


def listed_ids(answer: httpx.Response) -> list[str]:
    return [record["predictionId"] for record in answer.json()["data"]]


async def test_a_list_is_bounded_in_time() -> None:
    """`createdAfter` takes that time in, `createdBefore` does not; as ms, or as ISO 8601."""
    begin = 1_764_000_000_000
    async with serving() as (service, client):
        for number in (0, 1, 2, 1000):
            await service.put(at(number))
        for query, expected in {
            f"createdAfter={begin + 1}": ["p1000", "p02", "p01"],
            f"createdBefore={begin + 1}": ["p00"],
            f"createdAfter={begin + 1}&createdBefore={begin + 2}&format=ndjson&limit=9": ["p01"],
            "createdAfter=2025-11-24T16:00:01Z": ["p1000"],
            "createdAfter=2025-11-24T17:00:01%2B01:00": ["p1000"],
            "createdBefore=2025-11-24T16:00:00": [],
        }.items():
            answer = await client.get(f"/api/predictions?{query}")
            assert answer.status_code == 200, answer.text
            text = answer.text if "data" in answer.text else f'{{"data":[{answer.text}]}}'
            found = [record["predictionId"] for record in json.loads(text)["data"]]
            assert found == expected, query


async def test_words_are_searched_on_the_server() -> None:
    """Words of an id or a prompt narrow a list, whatever their case and the record's age."""
    async with serving() as (service, client):
        await service.put(at(1, prompt="A Heron on stilts"))
        await service.put(at(2, payload={"prompt": "two herons"}))
        await service.put(at(3, prompt="a kite", status="failed"))
        for query, expected in {
            "text=heron": ["p02", "p01"],
            "text=HERON%20ON": ["p01"],
            "text=p0": ["p03", "p02", "p01"],
            "text=p0&status=failed": ["p03"],
            "text=nowhere": [],
        }.items():
            answer = await client.get(f"/api/predictions?{query}")
            assert listed_ids(answer) == expected, query
        assert answer.json()["searched"] == 3
        assert (await client.get("/api/predictions?text=" + "x" * 201)).status_code == 400


async def test_a_store_finds_words_by_its_index(tmp_path: Path) -> None:
    """What SQLite finds is what looking through finds: in pages, with filters, and it says what it cannot search."""
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    async with serving(records=store) as (service, client):
        for number in range(120):
            odd = (
                {"provider": "fal", "error": "NSFW content", "status": "failed"}
                if number % 2
                else {}
            )
            await service.put(at(number, prompt=f"a Heron number {number}", **odd))
        await service.put(at(200, prompt=Blob("sha256-00", 40_000, 40_000)))
        await service.put(at(201, prompt="a kite"))
        query: str | None = "text=heron%20NUMBER&error=nsfw&provider=fal&limit=25"
        found: list[str] = []
        while query is not None:
            answer = (await client.get(f"/api/predictions?{query}")).json()
            found += [record["predictionId"] for record in answer["data"]]
            cursor = answer["cursor"]
            query = query.partition("&cursor=")[0] + f"&cursor={cursor}" if cursor else None
        assert found == [f"p{number:02}" for number in range(119, 0, -2)]
        answer = (await client.get("/api/predictions?text=kite")).json()
        assert (len(answer["data"]), answer["unsearchable"], "searched" in answer) == (1, 1, False)
        rare = (await client.get("/api/predictions?text=number%207&provider=fal")).json()
        assert [record["predictionId"] for record in rare["data"]] == [
            "p79",
            "p77",
            "p75",
            "p73",
            "p71",
            "p07",
        ]
        assert (await client.get("/api/predictions?error=")).status_code == 400


async def test_an_id_is_found_however_old() -> None:
    """A record whose id is asked for comes first, once, and only where the other filters let it."""
    async with serving() as (service, client):
        for number in range(1, 8):
            await service.put(at(number, prompt="like p01"))
        found: list[str] = []
        cursor = ""
        while cursor is not None:
            answer = await client.get(f"/api/predictions?text=p01&limit=2{cursor}")
            found += listed_ids(answer)
            cursor = answer.json()["cursor"] and f"&cursor={answer.json()['cursor']}"
        assert found == ["p01", "p07", "p06", "p05", "p04", "p03", "p02"]
        assert listed_ids(await client.get("/api/predictions?text=p01&status=failed")) == []


async def test_lines_hold_everything_from_the_cursor_on() -> None:
    """`format=ndjson` gives every record that passes the filters, whole and one a line; with a limit a page."""
    async with serving() as (service, client):
        for number in range(230):
            await service.put(at(number, owner="ann" if number % 2 else "bob", text="long"))
        await service.put(at(230, owner="ann", output=Raw(b"[1,\r\n 2.50]")))
        path = "/api/predictions?format=ndjson&owner=ann"
        answer = await client.get(path)
        assert answer.headers["content-type"] == "application/x-ndjson"
        found = [json.loads(line) for line in answer.content.splitlines()]
        assert [one["predictionId"] for one in found] == [
            "p230",
            *(f"p{number:02}" for number in range(229, 0, -2)),
        ]
        assert found[1]["text"] == "long"
        assert b"2.50" in answer.content.splitlines()[0]
        assert service.held.total == 0

        lines, cursor, pages = [], "", 0
        while pages == 0 or cursor:
            page = await client.get(f"{path}&limit=50{cursor and '&cursor=' + cursor}")
            lines += page.content.splitlines()
            cursor, pages = page.headers.get("tidings-next-cursor", ""), pages + 1
        assert (pages, lines) == (3, answer.content.splitlines())


async def test_lines_show_what_the_caller_may_see() -> None:
    """A stream has no line of another's record, however many of those lie between."""
    authenticator = Hs256Tokens(SECRET, RequiredClaims())
    async with serving(authenticator=authenticator) as (service, client):
        for number in range(150):
            await service.put(at(number, owner="bob", tags=["t"] if number == 3 else []))
        for claims, expected in (
            ({"sub": "ann", "predictions": ["p07", "p140"]}, ["p140", "p07"]),
            ({"sub": "ann"}, []),
        ):
            answer = await client.get("/api/predictions?format=ndjson", headers=bearer(**claims))
            ids = [json.loads(line)["predictionId"] for line in answer.content.splitlines()]
            assert ids == expected
        assert (await client.get("/api/predictions?format=ndjson")).status_code == 401


class OnePage:
    """Lists the first hundred records of a store, and cannot go on."""

    def __init__(self, store: Lister) -> None:
        self._store, self._listed = store, 0

    async def list(self, query: Query) -> Page:
        self._listed += query.limit
        if self._listed > 100:
            raise ValueError("the store was made anew")
        return await self._store.list(query)


async def test_lines_that_break_off_are_no_whole_answer() -> None:
    """Where the rest cannot be read the connection is cut: nobody takes a part for everything."""
    async with serving() as (service, client):
        for number in range(150):
            await service.put(at(number))
        service.store.reads = FairListing(OnePage(service.store))
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/api/predictions?format=ndjson")
        assert service.held.total == 0


async def test_a_list_says_how_many_there_are() -> None:
    """Counts by status cover the filters but the status, and are null where they would say too much."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client):
        await service.put(at(1, owner="ann"))
        await service.put(at(2, owner="ann", status="failed"))
        await service.put(at(3, owner="bob", model="m"))

        async def counts(query: str, **claims: Any) -> Any:
            answer = await client.get(
                f"/api/predictions?count=true&limit=1{query}", headers=bearer(**claims)
            )
            return answer.json()["counts"]

        everything = await counts("&status=failed", scope="admin")
        assert everything["total"] == 3
        assert everything["complete"] is True
        assert everything["byStatus"]["failed"] == 1
        assert (await counts("&model=m", scope="admin"))["total"] == 1
        assert (await counts("", sub="ann"))["total"] == 2
        assert (await counts("&owner=bob", sub="ann"))["total"] == 0
        assert await counts("", sub="zoe", predictions=["p03"]) is None
        answer = await client.get("/api/predictions", headers=bearer(scope="admin"))
        assert "counts" not in answer.json()


@pytest.mark.parametrize(
    "query",
    [
        "format=xml",
        "createdAfter=yesterday",
        "createdBefore=-1",
        "format=ndjson&count=true",
        "format=ndjson&cursor=x",
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=%C2%B2",
        "status=done",
        "cursor=%00nonsense",
        "colour=red",
    ],
)
async def test_a_bad_list_is_a_400(query: str) -> None:
    """What the list cannot take is refused by name, and is no server error."""
    async with serving() as (_, client):
        answer = await client.get(f"/api/predictions?{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"]


async def test_a_list_shows_what_the_caller_may_see() -> None:
    """Own and listed owners' records, those of listed tags and ids, and no trace of others, in the cursor neither."""
    authenticator = Hs256Tokens(SECRET, RequiredClaims())
    async with serving(authenticator=authenticator) as (service, client):
        for number, owner, tags in [
            (1, "ann", []),
            (2, "bob", ["t"]),
            (3, "zoe", []),
            (4, None, ["t"]),
            (5, "bob", []),
        ]:
            await service.put(
                at(number, owner=owner, tags=tags) if owner else at(number, tags=tags)
            )
        expectations: list[tuple[dict[str, Any], set[str]]] = [
            ({"sub": "ann"}, {"p01"}),
            ({"sub": "ann", "owners": ["bob"]}, {"p01", "p02", "p05"}),
            ({"sub": "ann", "tags": ["t"]}, {"p01", "p02"}),
            ({"predictions": ["p04", "p03"]}, {"p03", "p04"}),
            ({"scope": "read:all"}, {"p01", "p02", "p03", "p04", "p05"}),
            ({"scope": "watch:all write"}, set()),
        ]
        for claims, expected in expectations:
            seen: set[str] = set()
            params: dict[str, str] = {"limit": "2"}
            while True:
                page = (
                    await client.get("/api/predictions", params=params, headers=bearer(**claims))
                ).json()
                seen |= {record["predictionId"] for record in page["data"]}
                if page["cursor"] is None:
                    break
                params["cursor"] = page["cursor"]
            assert seen == expected, claims
        assert (await client.get("/api/predictions?owner=zoe", headers=bearer(sub="ann"))).json()[
            "data"
        ] == []


def test_a_sealed_cursor_tells_nothing_and_cannot_be_made_up() -> None:
    """It opens for every gateway with the same key, and another text is refused."""
    sealed = CursorSeal(b"key").seal("1764000000000:secret-id")
    assert "secret" not in sealed
    assert CursorSeal(b"key").unseal(sealed) == "1764000000000:secret-id"
    for other in (sealed[:-2], "x", "\u00e9"):
        with pytest.raises(ValueError, match="cursor"):
            CursorSeal(b"key").unseal(other)
    with pytest.raises(ValueError, match="cursor"):
        CursorSeal(b"other").unseal(sealed)


# ---- changing ----


async def test_a_patch_is_answered_with_the_record_it_made() -> None:
    """The event goes through log and rules, and the answer is the record that came of it."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        answer = await client.patch(
            "/api/predictions/p1", json={"status": "succeeded", "output": ["https://x/1.png"]}
        )
        assert answer.status_code == 200
        record = answer.json()["data"]
        assert (record["status"], record["version"], record["output"]) == (
            "succeeded",
            3,
            ["https://x/1.png"],
        )
        assert record["transitions"][-1]["source"] == "api"
        assert answer.headers["etag"] == '"3"'
        (event,) = await service.records()
        assert dict(event.headers)["tidings-archive"] == b"after"


async def test_an_invalid_transition_is_a_409_at_once() -> None:
    """An older or another terminal status is refused before anything is appended."""
    async with serving(processing=False) as (service, client):
        await service.put(prediction("p1", status="succeeded"))
        for status in ("starting", "processing", "failed", "canceled"):
            answer = await client.patch("/api/predictions/p1", json={"status": status})
            assert answer.status_code == 409
            assert answer.json()["error"] == f"Invalid transition from succeeded to {status}"
            assert answer.headers["content-type"] == "application/problem+json"
        canceled = await client.post("/api/predictions/p1/cancel")
        assert canceled.status_code == 409
        assert canceled.json()["error"] == "Invalid transition from succeeded to canceled"
        assert await service.records() == []


async def test_nothing_new_is_a_200_at_once() -> None:
    """A patch that says what is known is answered with the record, and appends nothing."""
    async with serving(processing=False) as (service, client):
        await service.put(prediction("p1", progress=0.5))
        for body in ({}, {"status": "processing"}, {"progress": 0.4}, {"prompt": None}):
            answer = await client.patch("/api/predictions/p1", json=body)
            assert (answer.status_code, answer.json()["data"]["version"]) == (200, 2), body
        assert await service.records() == []


async def test_a_patch_that_is_not_applied_in_time_is_a_202() -> None:
    """While the processor stands still the event is taken, and the answer says that it has not been applied."""
    async with serving(processing=False) as (service, client):
        await service.put(prediction("p1"))
        answer = await client.patch("/api/predictions/p1", json={"progress": 0.5})
        assert answer.status_code == 202
        assert len(await service.records()) == 1
        await service.start_processor()

        async def applied() -> bool:
            return bool(
                (await client.get("/api/predictions/p1")).json()["data"].get("progress") == 0.5
            )

        await eventually(applied)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"nonsense", 400, "JSON"),
        (b"[]", 400, "JSON"),
        (b'{"colour":"red"}', 422, "colour"),
        (b'{"status":"done"}', 422, "status"),
        (b'{"progress":2}', 422, "progress"),
        (b'{"prompt":7}', 422, "prompt"),
        (b'{"type":"delete"}', 422, "type"),
        (b'{"usage":{"tokens":5}}', 422, "tokens"),
        (b'{"usage":{"cost":"-1","currency":"USD"}}', 422, "cost"),
        (b'{"usage":{"cost":"1","currency":"dollars"}}', 422, "currency"),
        (b'{"usage":{"cost":"1"}}', 422, "currency"),
        (b'{"usage":{"seconds":1e400}}', 422, "range"),
        (b'{"usage":7}', 422, "usage"),
        (b'{"output":' + b"[" * 300 + b"]" * 300 + b"}", 422, "nested"),
        (b'{"output":' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "depth"),
        (b'{"prompt":"\xff"}', 422, "UTF-8"),
    ],
)
async def test_a_bad_patch_names_what_is_off(body: bytes, status: int, named: str) -> None:
    """A field of a wrong type, an unknown one, or a body that is no object is refused with its name."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        answer = await client.patch(
            "/api/predictions/p1", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status, answer.text
        assert named in answer.json()["detail"]
        assert await service.records() == []


async def test_a_form_from_a_page_elsewhere_is_no_patch() -> None:
    """Content types that browsers send across origins without asking are refused."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        answer = await client.patch(
            "/api/predictions/p1", content=b"{}", headers={"Content-Type": "text/plain"}
        )
    assert answer.status_code == 415


async def test_a_cancel_is_a_202_with_the_record() -> None:
    """A running prediction is marked as asked to be canceled; one that was never submitted is canceled at once."""
    async with serving() as (service, client):
        await service.put(prediction("running", providerId="r1"))
        await service.put(prediction("waiting", status="starting"))
        running = await client.post("/api/predictions/running/cancel")
        waiting = await client.post("/api/predictions/waiting/cancel")
        again = await client.post("/api/predictions/waiting/cancel")
    assert running.status_code == waiting.status_code == again.status_code == 202
    assert running.json()["data"]["cancelRequestedAt"] > 0
    assert running.json()["data"]["status"] == "processing"
    assert waiting.json()["data"]["status"] == again.json()["data"]["status"] == "canceled"


async def test_a_delete_is_a_204_and_the_prediction_is_gone() -> None:
    """After 204 nobody finds it, and deleting it again is a 404."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        assert (await client.delete("/api/predictions/p1")).status_code == 204
        assert (await client.get("/api/predictions/p1")).status_code == 404
        assert (await client.delete("/api/predictions/p1")).status_code == 404
        assert (await client.patch("/api/predictions/p1", json={})).status_code == 404


async def test_who_may_change_and_not_read_is_told_little() -> None:
    """A token with `write` alone changes any record, and gets its id, status and version, not its content."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client):
        await service.put(prediction("p1", owner="ann", prompt="secret prompt"))
        answer = await client.patch(
            "/api/predictions/p1", json={"progress": 0.1}, headers=bearer(scope="write")
        )
    assert answer.json()["data"] == {"predictionId": "p1", "status": "processing", "version": 3}


async def test_a_wait_ends_with_its_token() -> None:
    """A long poll whose token expires under way ends then, without the change that comes later."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client):
        await service.put(prediction("p1", owner="ann"))
        headers = {
            **bearer(sub="ann", exp=time.time() + 1.5),
            "If-None-Match": '"2"',
            "Prefer": "wait=30",
        }
        began = time.monotonic()
        answer = await client.get("/api/predictions/p1", headers=headers)
        assert answer.status_code == 304
        assert time.monotonic() - began < 10


async def test_an_owner_holds_a_bounded_part_of_the_memory_with_unread_answers() -> None:
    """A record that would take an owner beyond the budget is a 429; another owner's is served."""
    limits = HeldLimits(owner=500_000)
    async with serving(
        authenticator=Hs256Tokens(SECRET, RequiredClaims()), held=HeldBytes(limits)
    ) as (service, client):
        for owner in ("ann", "bob"):
            await service.put(prediction(owner, owner=owner, logs="x" * 300_000))
        with service.held.account("ann") as account:
            assert account.take(Kind.SNAPSHOTS, 300_000)
            answer = await client.get("/api/predictions/ann", headers=bearer(sub="ann"))
            assert (answer.status_code, answer.json()["code"]) == (429, "too-much-held")
            answer = await client.get("/api/predictions/bob", headers=bearer(sub="bob"))
            assert answer.status_code == 200
        answer = await client.get("/api/predictions/ann", headers=bearer(sub="ann"))
        assert answer.status_code == 200
        assert service.held.total == 0


async def test_an_admin_reads_the_webhooks_back() -> None:
    """The bodies that a record was made from come back as they came, to admins alone; a record never holds them."""
    providers = open_providers({"luma": Configuration(secret=("a word of twenty-four letters",))})
    async with serving(
        authenticator=Hs256Tokens(SECRET, RequiredClaims()), providers=providers
    ) as (_, client):
        body = json.dumps({"id": "p1", "state": "completed", "callback": "https://x/?token=proof"})
        path = "/api/webhooks/luma?token=a%20word%20of%20twenty-four%20letters"
        assert (await client.post(path, content=body)).status_code == 200
        admin = bearer(scope="admin")

        async def standing() -> bool:
            return (await client.get("/api/predictions/p1", headers=admin)).status_code == 200

        await eventually(standing)
        assert "proof" not in (await client.get("/api/predictions/p1", headers=admin)).text
        answer = await client.get("/api/predictions/p1/report", headers=admin)
        (report,) = answer.json()["data"]
        assert (report["body"], report["provider"], report["position"]) == (body, "luma", "0:0")
        for headers, status in ((bearer(scope="read:all write"), 403), ({}, 401)):
            answer = await client.get("/api/predictions/p1/report", headers=headers)
            assert answer.status_code == status
        answer = await client.get("/api/predictions/never/report", headers=admin)
        assert answer.status_code == 404
