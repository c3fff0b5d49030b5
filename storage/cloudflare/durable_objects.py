"""Records in Cloudflare's Durable Objects, by way of the Worker in `storage/cloudflare/worker`, which shows them over HTTP.

Each record lies in one object, which applies its compare-and-sets one after the other in SQLite. An answer that got
lost is asked for again: a write that finds its own bytes at its own version has succeeded.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.cloudflare.http import ATTEMPTS, CloudflareHttp, parse
from tidings.storage.cloudflare.worker_api import (
    Placement,
    explainer,
    health,
    placed,
    required_token,
    worker_url,
)
from tidings.storage.cursor import ListingPlace, decode_cursor, encode_cursor
from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.prediction import Prediction, Status
from tidings.storage.store import (
    Capabilities,
    Conflict,
    Outcome,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
    WriteRefused,
    as_read,
    distinct_ids,
    hidden,
)

MAX_RECORD = 2_000_000 - 16_384
"""Bytes of a record. A row of a Durable Object has at most 2 MB (Cloudflare, Durable Objects,
Limits)."""

BATCH_BYTES = 16 * 1024 * 1024
"""Bytes of records in one request: a Worker has 128 MB of memory for all it does at once."""

LOAD_IDS = 500
"""Ids in one request for records."""

AT_ONCE = 4
"""Requests under way at once for one call: more would wait for each other at the objects, and reach
their limits."""

T = TypeVar("T")


class _Operation(Struct, frozen=True, gc=False, omit_defaults=True):
    """A compare-and-set as the Worker takes it.

    64-bit numbers are text, as numbers of JavaScript have 53 bits.
    """

    id: str
    if_version: str
    version: str
    doc: str
    status: Status | None = None
    created_at: int | None = None
    expires_at: int | None = None
    purge_at: int | None = None
    owner: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    source: dict[str, str] = {}


class _Row(Struct, frozen=True, gc=False, array_like=True):
    """A record as the Worker gives it."""

    id: str
    version: str
    status: Status | None
    created_at: int | None
    expires_at: int | None
    owner: str | None
    model: str | None
    tags: str | None
    doc: str

    @property
    def stored(self) -> Stored:
        return as_read(
            int(self.version), self.status, self.doc.encode(), self.expires_at, self.owner
        )


class _Rows(Struct, frozen=True):
    rows: list[_Row]
    rest: list[str] = []
    """Ids that the answer had no room for."""
    cursor: tuple[int, str] | None = None
    """Creation time and id of the last record of a page."""


class _Result(Struct, frozen=True, gc=False):
    """What became of an operation that was not simply applied."""

    conflict: str | None = None
    refused: str | None = None
    unavailable: str | None = None
    overloaded: bool = False


class _Results(Struct, frozen=True):
    results: list[_Result | None]


class _Claim(Struct, frozen=True):
    claim: str


class _Positions(Struct, frozen=True):
    positions: dict[int, str]


class _Removed(Struct, frozen=True):
    removed: int


_results = msgspec.json.Decoder(_Results)
_rows = msgspec.json.Decoder(_Rows)
_claim = msgspec.json.Decoder(_Claim)
_positions = msgspec.json.Decoder(_Positions)
_removed = msgspec.json.Decoder(_Removed)
_ownership = msgspec.json.Decoder(Ownership)


class DurableObjectsStore(PredictionStore):
    """A store on the Worker at `base_url`.

    Args:
        base_url: `https://...`, as wrangler printed it.
        token: the Worker's secret `TIDINGS_TOKEN`.
        timeout: seconds that one call may take, repeats included.
        clock: What expiry is compared with.
        placement: Where the objects are to be.
    """

    name = "durable_objects"
    capabilities = Capabilities()

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeout: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        placement: Placement | None = None,
    ) -> None:
        self._placement = placement or Placement()
        self._http = CloudflareHttp(
            base_url,
            token,
            explainer(base_url),
            timeout=timeout,
            headers=self._placement.headers,
        )
        self._clock = clock
        self._batch = 500

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        worker_token: str | None = None,
        timeout: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> "DurableObjectsStore":
        """Make sure that a Worker of this version answers, and open a store on it.

        Args:
            url: `durable-objects://host`, or `durable-objects+http://host:port` without TLS; a path
                names a space, so that several stores go by one Worker. `?location=weur` is where
                objects are made from now on, if Cloudflare can; `?jurisdiction=eu` is where they
                stay, and a store of its own.
            worker_token: the Worker's secret `TIDINGS_TOKEN`.
            timeout: seconds that one call may take, repeats included.
            clock: What expiry is compared with.

        Raises:
            StoreMisconfigured: The token, the address, the Worker's version or its layout is wrong.
            StoreUnavailable: Nobody answers.
        """
        address, placement = placed(url)
        store = cls(
            worker_url(address),
            required_token(worker_token),
            timeout=timeout,
            clock=clock,
            placement=placement,
        )
        try:
            found = await health(store._http)
            # A Worker that does not know the headers would put the objects anywhere.
            if Placement(found.location, found.jurisdiction) != placement:
                raise StoreMisconfigured(
                    f"the Worker at {store._http.base_url} does not heed location and jurisdiction: "
                    "deploy that of this release (npx wrangler deploy)"
                )
            store._batch = found.max_operations
        except StorageError:
            await store.close()
            raise
        return store

    async def claim(self, ownership: Ownership) -> Ownership:
        """As the protocol says; the object named `facts` holds it."""
        answer = await self._http.call("POST", "/v1/claim", msgspec.json.encode(ownership))
        return parse(_ownership, parse(_claim, answer).claim.encode())

    async def positions(self) -> dict[int, int]:
        """As the protocol says; each object keeps those of its own records."""
        answer = parse(_positions, await self._http.call("GET", "/v1/positions"))
        return {partition: int(offset) for partition, offset in answer.positions.items()}

    async def get(self, prediction_id: str) -> Stored | None:
        """As the protocol says."""
        stored = (await self.load((prediction_id,))).get(prediction_id)
        return None if stored is None or hidden(stored, self._clock.ms()) else stored

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As the protocol says, in one round trip for up to 500 ids and about 16 MiB."""
        if len(prediction_ids) <= LOAD_IDS:
            return await self._load(prediction_ids)
        chunks = [
            prediction_ids[start : start + LOAD_IDS]
            for start in range(0, len(prediction_ids), LOAD_IDS)
        ]
        found: dict[str, Stored] = {}
        for part in await _all([self._load(chunk) for chunk in chunks]):
            found.update(part)
        return found

    async def _load(self, ids: Sequence[str]) -> dict[str, Stored]:
        found: dict[str, Stored] = {}
        while ids:
            answer = parse(
                _rows, await self._http.call("POST", "/v1/load", msgspec.json.encode({"ids": ids}))
            )
            for row in answer.rows:
                found[row.id] = row.stored
            ids = answer.rest
        return found

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the protocol says, in one round trip for up to 2,000 writes (one object each: 100) and 16 MiB.

        Raises:
            StoreUnavailable: Some may have been written; the same call may be made again.
        """
        distinct_ids(writes)
        outcomes: list[Outcome] = [None] * len(writes)
        chunk: list[tuple[int, _Operation]] = []
        chunks = [chunk]
        size = 0
        for place, write in enumerate(writes):
            operation = _operation(write)
            if isinstance(operation, WriteRefused):
                outcomes[place] = operation
                continue
            size += len(write.encoded)
            if chunk and (size > BATCH_BYTES or len(chunk) == self._batch):
                chunk = []
                chunks.append(chunk)
                size = len(write.encoded)
            chunk.append((place, operation))
        await _all([self._write(part, outcomes) for part in chunks if part])
        return outcomes

    async def _write(
        self, operations: list[tuple[int, _Operation]], outcomes: list[Outcome]
    ) -> None:
        repeat = False
        for _ in range(ATTEMPTS):
            ops = [operation for _, operation in operations]
            body = msgspec.json.encode({"ops": ops, "repeat": repeat})
            answer = await self._http.call("POST", "/v1/batch", body, again=partial(_repeated, ops))
            results = parse(_results, answer).results
            failed: list[tuple[int, _Operation]] = []
            for entry, result in zip(operations, results, strict=True):
                if result is None:
                    continue
                if result.unavailable is not None:
                    failed.append(entry)
                elif result.refused is not None:
                    outcomes[entry[0]] = WriteRefused(result.refused)
                else:
                    outcomes[entry[0]] = Conflict(int(result.conflict or 0))
            if not failed:
                return
            last = next(
                result
                for result in results
                if result is not None and result.unavailable is not None
            )
            if last.overloaded:
                break
            operations = failed
            repeat = True
        raise StoreUnavailable(
            f"an object of the Worker at {self._http.base_url} failed: {last.unavailable}"
        )

    async def list(self, query: Query) -> Page:
        """As the protocol says.

        A page may be shorter than asked for if its records are large.
        """
        params = {"limit": str(min(query.limit, 1000)), "now": str(query.at(self._clock.ms()))}
        for name in ("status", "owner", "model", "tag"):
            if (value := getattr(query, name)) is not None:
                params[name] = value
        if query.cursor is not None:
            params["after"] = msgspec.json.encode(decode_cursor(query.cursor)).decode()
        if query.owners is not None:
            params["owners"] = msgspec.json.encode(query.owners).decode()
        answer = parse(_rows, await self._http.call("GET", "/v1/predictions", params=params))
        return Page(
            [row.stored for row in answer.rows],
            answer.cursor and encode_cursor(ListingPlace(*answer.cursor)),
            [ListingPlace(row.created_at or 0, row.id) for row in answer.rows],
        )

    async def sweep(self, now: int, limit: int) -> int:
        """As the protocol says. The objects also wake up by themselves to remove what is due."""
        body = msgspec.json.encode({"now": now, "limit": limit})
        return parse(_removed, await self._http.call("POST", "/v1/sweep", body)).removed

    async def facts(self) -> dict[str, str]:
        """What an operator wants to know.

        The Worker, how records lie there, the skew of its clock, a round trip (ms).
        """
        start = self._clock.ms()
        found = await health(self._http)
        layout = f"{found.shards} shards" if found.layout == "sharded" else found.layout
        return {
            "Worker": f"{self._http.base_url}, protocol {found.protocol}",
            "layout": layout,
            **{name: value for name, value in asdict(self._placement).items() if value is not None},
            "durability": "a write is confirmed when its object has it on disk",
            **self._http.skew,
            "round trip (ms)": str(self._clock.ms() - start),
        }

    async def close(self) -> None:
        """As the protocol says."""
        await self._http.close()


def _repeated(ops: list[_Operation]) -> bytes:
    return msgspec.json.encode({"ops": ops, "repeat": True})


def _operation(write: Write) -> _Operation | WriteRefused:
    record = write.record
    if len(write.encoded) > MAX_RECORD:
        return WriteRefused(
            f"a record has at most {MAX_RECORD} bytes in a Durable Object, this one {len(write.encoded)}"
        )
    try:
        doc = write.encoded.decode()
    except UnicodeDecodeError as error:
        return WriteRefused(f"the record is not UTF-8: {error}")
    offsets = {} if record.source is None else record.source.offsets
    return _Operation(
        record.prediction_id,
        str(write.expected),
        str(record.version),
        doc,
        record.status if isinstance(record, Prediction) else None,
        record.created_at if isinstance(record, Prediction) else None,
        write.expires_at,
        write.purge_at,
        record.owner,
        record.model,
        record.tags,
        {partition: str(offset) for partition, offset in offsets.items()},
    )


async def _all(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await them side by side, a few at once; the first failure ends the others."""
    if len(calls) == 1:
        return [await calls[0]]
    few = asyncio.Semaphore(AT_ONCE)

    async def bounded(call: Coroutine[Any, Any, T]) -> T:
        async with few:
            return await call

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(bounded(call)) for call in calls]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
