"""Cloudflare KV on loopback: its REST API, and the protocol of a Worker's KV binding, over the same namespaces.

Strict: it refuses what Cloudflare refuses (Workers KV, Limits; API, KV), with its shapes and codes.
"""

import asyncio
import atexit
import threading
import time
from collections import deque
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec
from aiohttp import web

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "a-cloudflare-token"
KEY_BYTES, METADATA_BYTES, VALUE_BYTES = 512, 1024, 25 * 1024 * 1024
SHORTEST_LIFE = 60
PAIR_FIELDS = {"key", "value", "base64", "expiration", "expiration_ttl", "metadata"}


class Refusal(Exception):
    """What the API answers instead."""

    def __init__(
        self, status: int, code: int, message: str, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class Entry(NamedTuple):
    """A value from a time on; None: deleted."""

    at: float
    value: str | None
    metadata: Any = None
    expiration: int | None = None


class Namespace:
    """Keys and their recent past: a reader sees the state of `staleness` seconds ago."""

    def __init__(self, emulator: "CloudflareEmulator") -> None:
        self._emulator = emulator
        self._keys: dict[str, list[Entry]] = {}

    def seen(self, key: str, now: float) -> Entry | None:
        for entry in reversed(self._keys.get(key, [])):
            if entry.at <= now - self._emulator.staleness:
                gone = entry.value is None or (
                    entry.expiration is not None and entry.expiration <= now
                )
                return None if gone else entry
        return None

    def page(
        self, prefix: str, after: str, limit: int, now: float
    ) -> tuple[list[tuple[str, Entry]], str]:
        names = sorted(key for key in self._keys if key.startswith(prefix) and key > after)
        found = [(key, entry) for key in names if (entry := self.seen(key, now)) is not None]
        return found[:limit], found[limit - 1][0] if len(found) > limit else ""

    def put(
        self,
        key: str,
        value: str,
        metadata: Any,
        expiration: int | None,
        ttl: int | None,
        now: float,
    ) -> None:
        _check_key(key)
        if len(value.encode()) > VALUE_BYTES:
            raise Refusal(413, 10020, f"value length exceeds {VALUE_BYTES}")
        if metadata is not None and len(msgspec.json.encode(metadata)) > METADATA_BYTES:
            raise Refusal(413, 10027, f"metadata exceeds {METADATA_BYTES} bytes")
        if ttl is not None:
            expiration = int(now) + ttl
        if expiration is not None and expiration < now + SHORTEST_LIFE - 1:
            raise Refusal(
                400, 10033, f"expiration must be at least {SHORTEST_LIFE} seconds in the future"
            )
        self._enter(key, Entry(now, value, metadata, expiration))

    def delete(self, key: str, now: float) -> None:
        _check_key(key)
        self._enter(key, Entry(now, None))

    def _enter(self, key: str, entry: Entry) -> None:
        history = self._keys.setdefault(key, [])
        # The reader's clock and ours may differ by the time a request takes.
        if history and entry.at - history[-1].at < self._emulator.write_interval * 0.98:
            self._emulator.too_fast.append(key)
            raise Refusal(429, 10048, f"too many writes to {key!r}: one a second")
        history.append(entry)
        self._emulator.writes += 1
        while len(history) > 1 and history[1].at <= entry.at - self._emulator.staleness:
            del history[0]


class CloudflareEmulator:
    """Serves in a thread of its own, so that it outlives the event loop of a test.

    Attributes:
        staleness: seconds after which a reader sees a change.
        write_interval: seconds between two writes to a key, less than which are refused.
        limit: requests in `window` seconds, after which everything is refused for as long.
        fail: number of requests still to be answered with 500.
        requests: method and path of each request to the REST API.
        writes: pairs written or deleted.
        too_fast: keys that were refused as written too often.
    """

    def __init__(
        self, *, write_interval: float = 1.0, limit: int = 1200, window: float = 300.0
    ) -> None:
        self.staleness = 0.0
        self.write_interval = write_interval
        self.limit = limit
        self.window = window
        self.fail = 0
        self.requests: list[str] = []
        self.writes = 0
        self.too_fast: list[str] = []
        self.url = ""
        self.binding_port = 0
        self._namespaces: dict[str, Namespace] = {}
        self._recent: deque[float] = deque()
        self._blocked_until = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="cloudflare-emulator", daemon=True
        )
        self._runners: list[web.AppRunner] = []

    def namespace(self, name: str) -> Namespace:
        """Make a namespace, as a user does at Cloudflare before anything can be written."""
        return self._namespaces.setdefault(name, Namespace(self))

    def start(self) -> None:
        self._thread.start()
        self.namespace("bound")
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(30)

    def close(self) -> None:
        async def cleanup() -> None:
            for runner in self._runners:
                await runner.cleanup()

        asyncio.run_coroutine_threadsafe(cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        rest = web.Application(client_max_size=100 * 1024 * 1024)
        rest.router.add_route(
            "*",
            "/client/v4/accounts/{account}/storage/kv/namespaces/{namespace}{path:.*}",
            self._rest,
        )
        binding = web.Application(client_max_size=VALUE_BYTES + 1024)
        binding.router.add_route("*", "/{key:.*}", self._binding)
        ports = []
        for application in (rest, binding):
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._runners.append(runner)
            ports.append(runner.addresses[0][1])
        self.url = f"http://127.0.0.1:{ports[0]}/client/v4"
        self.binding_port = ports[1]

    async def _rest(self, request: web.Request) -> web.Response:
        body = await request.read()
        route = f"{request.method} {request.match_info['path']}"
        self.requests.append(route)
        try:
            if self.fail > 0:
                self.fail -= 1
                raise Refusal(500, 10001, "service unavailable")
            self._count()
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Refusal(403, 10000, "Authentication error")
            if request.match_info["account"] != ACCOUNT:
                raise Refusal(
                    404, 7003, "Could not route to the account; is the object identifier right?"
                )
            namespace = self._namespaces.get(request.match_info["namespace"])
            if namespace is None:
                raise Refusal(404, 10013, "namespace not found")
            return _answered(self._route(namespace, route, request, body))
        except Refusal as refusal:
            return _refused(refusal)

    def _count(self) -> None:
        now = time.time()
        if now < self._blocked_until:
            raise Refusal(429, 10429, "rate limited", int(self._blocked_until - now) + 1)
        while self._recent and self._recent[0] <= now - self.window:
            self._recent.popleft()
        self._recent.append(now)
        if len(self._recent) > self.limit:
            self._blocked_until = now + self.window
            raise Refusal(429, 10429, "rate limited", int(self.window) + 1)

    def _route(
        self, namespace: Namespace, route: str, request: web.Request, body: bytes
    ) -> dict[str, Any]:
        now = time.time()
        match route:
            case "GET ":
                return {"result": {"id": request.match_info["namespace"], "title": "tests"}}
            case "PUT /bulk":
                return {
                    "result": _bulk(
                        _list(body, 10_000), lambda pair: _put_pair(namespace, pair, now)
                    )
                }
            case "POST /bulk/delete":
                return {
                    "result": _bulk(_list(body, 10_000), lambda key: namespace.delete(key, now))
                }
            case "POST /bulk/get":
                return {"result": {"values": _values(namespace, body, now)}}
            case "GET /keys":
                return _keys(namespace, request, now)
        raise Refusal(405, 10405, f"no route for {route}")

    async def _binding(self, request: web.Request) -> web.Response:
        """What workerd asks of the service behind a KV binding."""
        namespace, now = self.namespace("bound"), time.time()
        body = await request.read()
        path = request.raw_path.partition("?")[0].removeprefix("/")
        key = unquote(path)
        try:
            if request.method == "POST" and path == "bulk/get":
                return web.json_response(_values(namespace, body, now))
            if request.method == "GET" and not key:
                limit = int(request.query.get("key_count_limit", "1000"))
                found, cursor = namespace.page(
                    request.query.get("prefix", ""), request.query.get("cursor", ""), limit, now
                )
                keys = [_listed(name, entry) for name, entry in found]
                for listed in keys:
                    if "metadata" in listed:
                        listed["metadata"] = msgspec.json.encode(listed["metadata"]).decode()
                return web.json_response(
                    {"keys": keys, "list_complete": not cursor, "cursor": cursor}
                )
            if request.method == "PUT":
                header = request.headers.get("cf-kv-metadata")
                metadata = None if header is None else msgspec.json.decode(header)
                numbers = {
                    name: int(request.query[name])
                    for name in ("expiration", "expiration_ttl")
                    if name in request.query
                }
                namespace.put(
                    key,
                    body.decode(),
                    metadata,
                    numbers.get("expiration"),
                    numbers.get("expiration_ttl"),
                    now,
                )
                return web.Response()
            if request.method == "DELETE":
                namespace.delete(key, now)
                return web.Response()
        except Refusal as refusal:
            return web.Response(
                status=refusal.status,
                reason="Too Many Requests" if refusal.status == 429 else "Refused",
            )
        return web.Response(status=405)


def _check_key(key: object) -> None:
    if not isinstance(key, str) or key in ("", ".", ".."):
        raise Refusal(400, 10014, f"no key may be {key!r}")
    if len(key.encode()) > KEY_BYTES:
        raise Refusal(414, 10030, f"key exceeds {KEY_BYTES} bytes")


def _list(body: bytes, most: int) -> list[Any]:
    value = msgspec.json.decode(body)
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise Refusal(400, 10032, f"a list of 1 to {most} is wanted")
    return value


def _bulk(items: list[Any], act: Any) -> dict[str, Any]:
    failed = []
    for item in items:
        try:
            act(item)
        except Refusal as refusal:
            if refusal.status != 429:
                raise
            failed.append(item if isinstance(item, str) else item["key"])
    return {"successful_key_count": len(items) - len(failed), "unsuccessful_keys": failed}


def _put_pair(namespace: Namespace, pair: Any, now: float) -> None:
    if (
        not isinstance(pair, dict)
        or not pair.keys() <= PAIR_FIELDS
        or not isinstance(pair.get("value"), str)
    ):
        raise Refusal(
            400,
            10012,
            f"not a pair of key and value: {sorted(pair) if isinstance(pair, dict) else pair}",
        )
    namespace.put(
        pair["key"],
        pair["value"],
        pair.get("metadata"),
        pair.get("expiration"),
        pair.get("expiration_ttl"),
        now,
    )


def _values(namespace: Namespace, body: bytes, now: float) -> dict[str, Any]:
    wanted = msgspec.json.decode(body)
    if not 1 <= len(wanted["keys"]) <= 100:
        raise Refusal(400, 10029, "1 to 100 keys at once")
    values: dict[str, Any] = {}
    for key in wanted["keys"]:
        _check_key(key)
        entry = namespace.seen(key, now)
        if wanted.get("withMetadata"):
            values[key] = (
                None if entry is None else {"value": entry.value, "metadata": entry.metadata}
            )
        else:
            values[key] = None if entry is None else entry.value
    return values


def _keys(namespace: Namespace, request: web.Request, now: float) -> dict[str, Any]:
    limit = int(request.query.get("limit", "1000"))
    if not 10 <= limit <= 1000:
        raise Refusal(400, 10028, "limit is 10 to 1000")
    found, cursor = namespace.page(
        request.query.get("prefix", ""), request.query.get("cursor", ""), limit, now
    )
    keys = [_listed(name, entry) for name, entry in found]
    return {"result": keys, "result_info": {"count": len(keys), "cursor": cursor}}


def _listed(name: str, entry: Entry) -> dict[str, Any]:
    listed: dict[str, Any] = {"name": name}
    if entry.expiration is not None:
        listed["expiration"] = entry.expiration
    if entry.metadata is not None:
        listed["metadata"] = entry.metadata
    return listed


def _answered(content: dict[str, Any]) -> web.Response:
    return web.json_response({"success": True, "errors": [], "messages": [], **content})


def _refused(refusal: Refusal) -> web.Response:
    errors = [{"code": refusal.code, "message": str(refusal)}]
    headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
    content = {"success": False, "errors": errors, "messages": [], "result": None}
    return web.json_response(content, status=refusal.status, headers=headers)


_shared: list[CloudflareEmulator] = []


def shared() -> CloudflareEmulator:
    """One for all tests of this run that don't try its limits: it takes a write a key each 10 ms, and any number."""
    if not _shared:
        emulator = CloudflareEmulator(write_interval=0.01, limit=1_000_000)
        emulator.start()
        atexit.register(emulator.close)
        _shared.append(emulator)
    return _shared[0]
