"""A store in Redis or Valkey.

One script for all that a batch does in one slot, and one round trip for all slots.
"""

import asyncio
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import redis.asyncio as client
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.prediction import Status, Tombstone
from tidings.storage.redis.address import RedisAddress, parse
from tidings.storage.redis.cluster import Nodes
from tidings.storage.redis.errors import meaning
from tidings.storage.redis.examination import is_primary, refuse_careless, without_waitaof
from tidings.storage.redis.listing import Call, Listing
from tidings.storage.redis.scripts import FORMAT, GRACE, LIST, LOAD, SWEEP, WRITE
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
    as_read,
    distinct_ids,
    hidden,
    high_water,
)

T = TypeVar("T")
Fields = Sequence[bytes | None]
Ids = list[str]
Answers = list[Any]

CONNECTIONS = 32
_WAIT = 2000
"""ms to wait for the append-only file to be on the disk."""
_STATUS: dict[bytes, Status | None] = {b"": None} | {
    status.value.encode(): status for status in Status
}
_FIELDS = ("v", "s", "x", "i", "d")
_encode = msgspec.json.Encoder().encode
_facts = msgspec.json.Decoder(tuple[str | None, str | None, int | None, list[str]]).decode


class _Script(NamedTuple):
    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> "_Script":
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_WRITE, _LOAD, _LIST, _SWEEP = map(_Script.of, (WRITE, LOAD, LIST, SWEEP))


class RedisStore(PredictionStore):
    """Opened with `await RedisStore.open(url)`."""

    name = "redis"
    capabilities = Capabilities()

    def __init__(self, address: RedisAddress, *, clock: Clock) -> None:
        self._address = address
        self._clock = clock
        self._prefixes = [f"{{{address.prefix}:{shard}}}" for shard in range(address.shards)]
        self._meta = f"{{{address.prefix}:meta}}"
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._waits = address.durable
        """Whether writes wait for the disk; not so if the server itself waits before it
        answers."""
        options: dict[str, Any] = {
            "socket_timeout": address.timeout,
            "socket_connect_timeout": address.timeout,
            # Once again at once, for a pooled connection whose server was restarted. A write that
            # was done already then conflicts with itself, which does no harm; what timed out is not
            # repeated.
            "retry": Retry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,)),
        }
        self._nodes = Nodes(
            client.Redis.from_url(address.url(), **options),
            lambda node: client.Redis.from_url(address.url(node), **options),
            lambda: client.RedisCluster.from_url(address.url(), **options),
            clock,
        )

    @classmethod
    async def open(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> "RedisStore":
        """Connect, and check that the server keeps what it is given.

        Args:
            url: `redis://user:password@host:6379/0`, `valkey://`, `rediss://` or `valkeys://`
                (TLS), or `redis+unix:///path/of.sock`. After `?` may come `prefix` (`tidings`: of all
                keys), `shards` (16), `timeout` (5 s a call) and `ssl_*` as redis-py takes them. So may
                `durability=everysec` (a crash of the server may lose the last second; by default a
                write waits for the disk) and `eviction=never` (for a server that does not say so).
            clock: What expiry is compared with.

        Raises:
            StoreMisconfigured: A wrong URL, password or right; a server that evicts keys or keeps
                no append-only file; keys of another format or number of shards.
            StoreUnavailable: It cannot be reached.
        """
        store = cls(parse(url), clock=clock)
        try:
            await store._check()
        except BaseException:
            await store.close()
            raise
        return store

    async def claim(self, ownership: Ownership) -> Ownership:
        """Write the ownership if none is there yet; return the one that stands."""
        commands = [
            ("HSETNX", self._meta, "ownership", _encode(ownership)),
            ("HGET", self._meta, "ownership"),
        ]
        _, standing = await self._send(commands, durable=True)
        return msgspec.json.decode(standing, type=Ownership)

    async def notes(self) -> dict[str, str]:
        """See `Notes`."""
        kept = await self._one("HGETALL", self._meta)
        return {
            name.decode().removeprefix("note:"): text.decode()
            for name, text in kept.items()
            if name.startswith(b"note:")
        }

    async def note(self, name: str, text: str) -> None:
        """See `Notes`."""
        await self._one("HSET", self._meta, f"note:{name}", text)

    async def positions(self) -> dict[int, int]:
        """Per partition the highest offset that was ever written."""
        highest: dict[int, int] = {}
        for kept in await self._send(
            [("HGETALL", f"{prefix}:positions") for prefix in self._prefixes]
        ):
            for partition, offset in kept.items():
                highest[int(partition)] = max(int(offset), highest.get(int(partition), -1))
        return highest

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, unless it is deleted or expired."""
        key = f"{self._prefixes[self._shard(prediction_id)]}:prediction:{prediction_id}"
        stored = _stored(await self._one("HMGET", key, *_FIELDS))
        if stored is None or stored.status is None:
            return None
        return (
            None
            if stored.expires_at is not None and stored.expires_at <= self._clock.ms()
            else stored
        )

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands under these ids, tombstones and expired records included."""
        shards = self._by_shard(prediction_ids)
        answers = await self._scripts(_LOAD, [(shard, (), ids) for shard, ids in shards.items()])
        found: dict[str, Stored] = {}
        for ids, rows in zip(shards.values(), answers, strict=True):
            for one, row in zip(ids, rows, strict=True):
                if (stored := _stored(row)) is not None:
                    found[one] = stored
        return found

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply each compare-and-set, the writes of a shard at once.

        Raises ValueError if an id comes twice.
        """
        ids = distinct_ids(writes)
        if not writes:
            return []
        shards: dict[int, list[Write]] = {}
        for one, write in zip(ids, writes, strict=True):
            shards.setdefault(self._shard(one), []).append(write)
        calls = [(shard, (), _arguments(some, self._clock.ms())) for shard, some in shards.items()]
        conflicts: dict[str, Conflict] = {}
        for missed in await self._scripts(_WRITE, calls, durable=True):
            for one, standing in zip(missed[::2], missed[1::2], strict=True):
                conflicts[one.decode()] = Conflict(int(standing))
        if not conflicts:
            return [None] * len(writes)
        return [conflicts.get(one) for one in ids]

    async def list(self, query: Query) -> Page:
        """A page, newest first: the indexes of all shards, merged."""
        listing = Listing(query, self._prefixes, query.at(self._clock.ms()))
        while (calls := listing.wanted()) is not None:
            listing.feed(await self._scripts(_LIST, calls))
        places, cursor = listing.page()
        found = await self.load([place.prediction_id for place in places])
        now = query.at(self._clock.ms())
        shown = [
            (place, stored)
            for place in places
            if (stored := found.get(place.prediction_id)) is not None and not hidden(stored, now)
        ]
        return Page([stored for _, stored in shown], cursor, [place for place, _ in shown])

    async def sweep(self, now: int, limit: int) -> int:
        """Remove at most `limit` rows whose `purge_at` is at or before `now`."""
        gone = 0
        for shard in range(len(self._prefixes)):
            if gone < limit:
                (count,) = await self._scripts(_SWEEP, [(shard, (), [str(now), str(limit - gone)])])
                gone += count
        return gone

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._nodes.close()

    async def facts(self) -> dict[str, str]:
        """What an operator wants to know.

        The server, its durability, the skew of its clock (ms), a round trip (ms).
        """
        start = self._clock.ms()
        (seconds, microseconds), *_ = await self._each("TIME")
        end = self._clock.ms()
        information, *others = await self._each("INFO")
        owner = await self._one("HGET", self._meta, "ownership")
        return {
            "server": _server(information)
            + (f", a cluster with {1 + len(others)} primaries" if self._nodes.clustered else ""),
            "durability": self._durability(information),
            "read-only": "no" if is_primary(information) else "yes, a replica: name the primary",
            "maxmemory-policy": str(information.get("maxmemory_policy", "not told")),
            "clock skew (ms)": str(
                int(seconds) * 1000 + int(microseconds) // 1000 - (start + end) // 2
            ),
            "round trip (ms)": str(end - start),
            "keys": f"{self._address.prefix}, {self._address.shards} shards, format {FORMAT}",
            "ownership": owner.decode() if owner else "none yet",
        }

    async def _check(self) -> None:
        address = self._address
        (information,) = await self._each("INFO")
        await refuse_careless(address, information, self._configured)
        if information.get("cluster_enabled"):
            try:
                async with asyncio.timeout(address.timeout):
                    await self._nodes.spread()
            except Exception as error:
                raise self._meaning(error) from error
            for information in await self._each("INFO"):
                await refuse_careless(address, information, self._configured)
        wanted = {"format": str(FORMAT), "shards": str(address.shards)}
        await self._write_first(
            [("HSETNX", self._meta, name, value) for name, value in wanted.items()]
        )
        kept = {
            name.decode(): value.decode()
            for name, value in (await self._one("HGETALL", self._meta)).items()
        }
        if kept["format"] != wanted["format"]:
            raise StoreMisconfigured(
                f"{address.shown}: the keys of prefix {address.prefix!r} have format {kept['format']}, this version"
                f" reads {FORMAT}; use the version that wrote them, or rebuild under another ?prefix="
            )
        if kept["shards"] != wanted["shards"]:
            raise StoreMisconfigured(
                f"{address.shown}: the keys of prefix {address.prefix!r} lie in {kept['shards']} shards; write"
                f" ?shards={kept['shards']}, or rebuild under another ?prefix="
            )

    async def _write_first(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Write, and find out by that whether the server can say when a write is on its disk."""
        try:
            await self._send(commands, durable=True)
        except StoreMisconfigured as error:
            if not self._waits or "unknown command" not in str(error).lower():
                raise
            if await self._configured("appendfsync") != "always":
                raise without_waitaof(self._address) from error
            self._waits = False  # it answers when a write is on its disk

    async def _configured(self, name: str) -> str | None:
        """A setting of the server; None if it does not tell."""
        try:
            async with asyncio.timeout(self._address.timeout), self._turns:
                found = (await self._nodes.each("CONFIG", "GET", name))[0]
        except exceptions.ResponseError:
            return None
        except Exception as error:
            raise self._meaning(error) from error
        values = (
            found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
        )
        plain = {_text(key): _text(value) for key, value in values.items()}
        return plain.get(name)

    def _durability(self, information: Mapping[str, Any]) -> str:
        sync = "on" if information.get("aof_enabled") else "off"
        if not self._address.durable:
            return f"append-only file {sync}, a crash may lose the last second"
        waits = "writes wait for the disk" if self._waits else "appendfsync always"
        return f"append-only file {sync}, {waits}"

    def _shard(self, prediction_id: str) -> int:
        return binascii.crc32(prediction_id.encode()) % len(self._prefixes)

    def _by_shard(self, prediction_ids: Iterable[str]) -> dict[int, Ids]:
        shards: dict[int, Ids] = {}
        for one in prediction_ids:
            shards.setdefault(self._shard(one), []).append(one)
        return shards

    async def _scripts(
        self, script: _Script, calls: Sequence[Call], *, durable: bool = False
    ) -> Answers:
        """Run the script once per call (shard, further keys, arguments), all in one round trip."""
        if not calls:
            return []
        keys = [(self._prefixes[shard], *more) for shard, more, _ in calls]
        commands = [
            ("EVALSHA", script.sha, len(names), *names, *call[2])
            for names, call in zip(keys, calls, strict=True)
        ]
        answers = await self._send(commands, durable=durable)
        unknown = [
            at for at, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)
        ]
        if unknown:
            # A server that was restarted has forgotten its scripts; these calls have not run.
            again = [("EVAL", script.text, *commands[at][2:]) for at in unknown]
            for at, answer in zip(unknown, await self._send(again, durable=durable), strict=True):
                answers[at] = answer
        return answers

    async def _send(self, commands: Sequence[tuple[Any, ...]], *, durable: bool = False) -> Answers:
        """The answers of a pipeline.

        With `durable` they come when all of it is on the server's disk.
        """
        last = ("WAITAOF", 1, 0, _WAIT) if durable and self._waits else None
        try:
            async with asyncio.timeout(self._address.timeout), self._turns:
                answers, waited = await self._nodes.send(commands, last)
        except Exception as error:
            raise self._meaning(error) from error
        for failure in (*answers, *waited):
            if isinstance(failure, Exception) and not isinstance(failure, exceptions.NoScriptError):
                raise self._meaning(failure) from failure
        if any(on_disk[0] < 1 for on_disk in waited):
            raise StoreUnavailable(
                f"{self._address.shown} did not get the write to its disk within {_WAIT} ms"
            )
        return answers

    async def _one(self, *command: Any) -> Any:
        try:
            async with asyncio.timeout(self._address.timeout), self._turns:
                return await self._nodes.one(command)
        except Exception as error:
            raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> StorageError:
        return meaning(error, self._address.shown, clustered=self._nodes.clustered)

    async def _each(self, *command: Any) -> Answers:
        """The answers of each server to a command without a key."""
        try:
            async with asyncio.timeout(self._address.timeout), self._turns:
                return await self._nodes.each(*command)
        except Exception as error:
            raise self._meaning(error) from error


def _server(information: Mapping[str, Any]) -> str:
    for name in ("valkey", "dragonfly", "redis"):
        if (version := information.get(f"{name}_version")) is not None:
            return f"{name.capitalize()} {version}"
    return "a server that does not tell its version"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _stored(row: Fields) -> Stored | None:
    version, status, expires_at, facts, encoded = row
    if version is None or status is None or facts is None or encoded is None:
        return None
    return as_read(
        int(version),
        _STATUS[status],
        encoded,
        int(expires_at) if expires_at else None,
        _facts(facts)[0],
    )


def _arguments(writes: Sequence[Write], now: int) -> Answers:
    """The script's arguments for the writes of one shard."""
    positions = high_water(writes)
    arguments: list[Any] = [now, GRACE, len(positions)]
    for position in positions.items():
        arguments += position
    for write in writes:
        record = write.record
        status, created_at, facts = "", "", _encode((record.owner, None, None, ()))
        if not isinstance(record, Tombstone):
            status, created_at = record.status.value, str(record.created_at)
            facts = _encode((record.owner, record.model, record.created_at, record.tags))
        arguments += (
            record.prediction_id,
            write.expected,
            record.version,
            status,
            "" if write.expires_at is None else write.expires_at,
            "" if write.purge_at is None else write.purge_at,
            facts,
            created_at,
            write.encoded,
        )
    return arguments
