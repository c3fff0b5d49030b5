"""A cluster that can be harmed.

Each connection between two parts goes through a proxy that misbehaves on command, disks can be full, and two processes
have clocks that jump.
"""

import asyncio
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import asyncpg
import jwt

from tests.chaos.cluster.cluster import ROLES, Cluster
from tests.chaos.cluster.schedule import Fault, Kind
from tests.support.broker import Broker, free_port
from tests.support.faulty_proxy import FaultyProxy
from tests.support.servers import Postgres, Server
from tests.support.tidings_process import TidingsProcess
from tidings.client.client import Client

GATEWAYS = ("gateway-1", "gateway-2")
JUMPY = ("processor-1", "gateway-1")
"""Processes whose clocks can jump."""
SLOWNESS = 0.3
"""Seconds by which a slow part's answers are late."""
DISKS = {"broker": "3g", "postgres": "3g", "assets": "256m"}
"""Sizes; what is not used costs no memory."""
ROOM = 65_536
BACK = 60.0
"""Seconds that a part may take to start."""
CLOCK_SEEN = 1.2
"""Seconds after which a process has seen that its clock was set: the library looks once a second."""
_FAKETIME = "faketime/libfaketimeMT.so.1"


class Disk:
    """A file system of its own, in memory, that can be made full.

    Args:
        folder: Where it is mounted.
        size: As `mount` takes it.
    """

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        self._size = size

    def mount(self) -> None:
        """Mount it; raises `CalledProcessError` where that is not allowed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _mount(
            "-t", "tmpfs", "-o", f"size={self._size},mode=0777", "tidings-faults", str(self.folder)
        )

    def fill(self) -> None:
        """Take all its room, except what is in use."""
        for _ in range(20):
            figures = os.statvfs(self.folder)
            used = (figures.f_blocks - figures.f_bfree) * figures.f_frsize
            try:
                # A limit of 0 would be none.
                return _mount("-o", f"remount,size={max(used, 4096)}", str(self.folder))
            except subprocess.CalledProcessError:
                continue  # something was written meanwhile
        raise AssertionError(f"{self.folder} could not be filled")

    def free(self) -> None:
        """Give the room back."""
        _mount("-o", f"remount,size={self._size}", str(self.folder))

    def unmount(self) -> None:
        """Take it away, whoever still has a file open there."""
        subprocess.run(("umount", "-l", str(self.folder)), capture_output=True, check=False)


def _mount(*arguments: str) -> None:
    subprocess.run(("mount", *arguments), capture_output=True, check=True)


def faketime() -> Path | None:
    """The library that shifts a process's clock; None: it is not installed."""
    found = sorted(Path("/usr/lib").glob(f"*/{_FAKETIME}"))
    return found[0] if found else None


class LinkedCluster(Cluster):
    """See the module; made by `linked`.

    Args:
        folder: For everything.
        disks: By part, mounted.
        broker: With one listener for each process.
        postgres: On its disk.
    """

    def __init__(
        self, folder: Path, disks: dict[str, Disk], broker: Broker, postgres: Postgres
    ) -> None:
        super().__init__(folder, broker, postgres)
        self.disks = disks
        self.links: dict[tuple[str, str], FaultyProxy] = {}
        """By the part that answers and the process that asks."""
        self.clocks: dict[str, Path] = {}
        self.untested: list[str] = []
        """Why some faults cannot be had here."""
        self._stack = AsyncExitStack()

    async def link(self, part: str, process: str, port: int) -> FaultyProxy:
        """Lead a process to a part by way of a proxy."""
        one = self.links[part, process] = await self._stack.enter_async_context(FaultyProxy(port))
        return one

    async def lead(self, listeners: dict[str, int]) -> None:
        """Set the processes' addresses to those of their links, and the clocks."""
        for name in ROLES:
            settings = self.processes[name].settings
            postgres = await self.link("postgres", name, self.postgres.port)
            valkey = await self.link("valkey", name, self.valkey.port)
            settings["TIDINGS_LOG"] = f"kafka://127.0.0.1:{self.links['broker', name].port}"
            settings["TIDINGS_STORE"] = self.postgres.url.replace(
                f":{self.postgres.port}/", f":{postgres.port}/"
            )
            fallback = self.valkey.url.replace(f":{self.valkey.port}/", f":{valkey.port}/")
            settings["TIDINGS_STORE_FALLBACK"] = fallback
            # Where a clock is an hour ahead, what finished just now must not be hidden already.
            settings["TIDINGS_TTL"] = "86400"
        assert set(listeners) == set(ROLES)
        library = faketime()
        if library is None:
            self.untested.append(
                "clocks that jump: libfaketime is missing; to test it: apt-get install faketime"
            )
            return
        for name in JUMPY:
            clock = self.clocks[name] = self.folder / f"clock-{name}"
            clock.write_text("+0\n")
            self.processes[name].settings |= {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }

    async def doors(self) -> list[int]:
        """The gateways by way of their links."""
        return [
            (await self.link(name, "proxy", self.processes[name].port)).port for name in GATEWAYS
        ]

    def token(self, scope: str = "watch:all read:all write admin") -> str:
        """A token that does not say when it was made: a clock that is behind would take it for one of the future."""
        claims = {"scope": scope, "sub": "tests", "exp": int(time.time()) + 4 * 3600}
        return jwt.encode(claims, self.secrets["TIDINGS_JWT_SECRET"], algorithm="HS256")

    def client(self) -> Client:
        """A client by way of the proxy."""
        return Client(self.url, self.token(), timeout=20)

    async def close(self) -> None:
        """End everything."""
        await super().close()
        await self._stack.aclose()

    def possible(self, fault: Fault) -> bool:
        """Whether this machine allows it."""
        if fault.kind is Kind.FULL:
            return fault.part in self.disks
        return fault.kind not in {Kind.AHEAD, Kind.BEHIND} or fault.part in self.clocks

    @asynccontextmanager
    async def harmed(self, fault: Fault) -> AsyncIterator[None]:
        """A fault of a part is in force in the block; afterwards the part is back."""
        match fault.kind:
            case Kind.KILL:
                await self._kill(fault.part)
                yield
                await self._start(fault.part)
            case Kind.RESTART:
                yield
                await self._restart(fault.part)
            case Kind.FREEZE:
                self._freeze(fault.part, still=True)
                yield
                self._freeze(fault.part, still=False)
            case Kind.FULL:
                self.disks[fault.part].fill()
                yield
                await self._make_room(fault.part)
            case Kind.DEMOTED:
                await self._read_only(on=True)
                yield
                await self._read_only(on=False)
            case Kind.AHEAD | Kind.BEHIND:
                self._set_clock(fault.part, "+3600" if fault.kind is Kind.AHEAD else "-3600")
                yield
                self._set_clock(fault.part, "+0")
                await asyncio.sleep(CLOCK_SEEN)
            case _:
                with self._on_links(fault):
                    yield

    async def _read_only(self, *, on: bool) -> None:
        """Let the database refuse writes, in the sessions that stand too, as it does once it is a replica."""
        connection = await asyncpg.connect(self.postgres.url)
        try:
            await connection.execute(
                f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}"
            )
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()

    def _links_of(self, part: str) -> list[FaultyProxy]:
        if part == "proxy":
            return [one for (_, process), one in self.links.items() if process == "proxy"]
        return [one for ends, one in self.links.items() if part in ends]

    @contextmanager
    def _on_links(self, fault: Fault) -> Iterator[None]:
        links = self._links_of(fault.part)
        for one in links:
            if fault.kind is Kind.CUT:
                one.refusing = True
                one.cut()
            elif fault.kind is Kind.HANG:
                one.freeze()
            else:
                one.latency = SLOWNESS
        yield
        for one in links:
            one.refusing, one.latency = False, 0.0
            one.thaw()

    def _server(self, part: str) -> Server | Broker:
        servers: dict[str, Server | Broker] = {
            "broker": self.broker,
            "postgres": self.postgres,
            "valkey": self.valkey,
        }
        return servers.get(part) or self.proxy

    async def _kill(self, part: str) -> None:
        if part in self.processes:
            await self.processes[part].kill()
        else:
            await asyncio.to_thread(self._server(part).kill)

    async def _start(self, part: str) -> None:
        if part in self.processes:
            await self.processes[part].start(BACK)
        else:
            await asyncio.to_thread(self._server(part).start, BACK)

    async def _restart(self, part: str) -> None:
        if part in self.processes:
            await self.restart(part)
        else:
            await asyncio.to_thread(self._server(part).restart)

    def _freeze(self, part: str, *, still: bool) -> None:
        if part in self.processes:
            self.processes[part].signal(SIGSTOP if still else SIGCONT)
            return
        server = self._server(part)
        (server.freeze if still else server.thaw)()

    def _set_clock(self, part: str, shift: str) -> None:
        draft = self.clocks[part].with_suffix(".new")
        draft.write_text(f"{shift}\n")
        draft.replace(self.clocks[part])

    async def _make_room(self, part: str) -> None:
        """Free the disk; a server that ended for want of room is started, as its supervisor would."""
        self.disks[part].free()
        if part == "broker":
            if await asyncio.to_thread(_ended, self.broker):
                await asyncio.to_thread(self.broker.start, BACK)
        elif part == "postgres" and not await asyncio.to_thread(_answers, self.postgres):
            await asyncio.to_thread(self.postgres.restart)

    async def revive(self) -> list[str]:
        """Start the processes that ended by themselves; says which, and with what last words."""
        found = []
        for name, one in self.processes.items():
            if one.process is None or one.process.returncode is not None:
                code = one.process.returncode if one.process is not None else None
                found.append(f"{name} ended by itself ({code}): {last_words(one)}")
                await one.start(BACK)
        return found


def last_words(process: TidingsProcess) -> str:
    """The end of what a process wrote."""
    return process.output.strip()[-400:].replace("\n", " | ")


def _ended(broker: Broker, within: float = 2.0) -> bool:
    """Whether the broker has ended or does so just now: a full disk makes it halt."""
    end = time.monotonic() + within
    while broker.running and time.monotonic() < end:
        time.sleep(0.05)
    return not broker.running


def _answers(server: Server, within: float = 10.0) -> bool:
    end = time.monotonic() + within
    while not server.ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _listeners(links: dict[str, tuple[int, int]]) -> tuple[str, int]:
    """The broker's properties for one listener more per process, each advertising the process's link; and its own port.

    A client goes on at the address that the broker names, so a link must be named as it is reached.
    """
    controller, port = free_port(), free_port()
    own = {name.replace("-", "_").upper(): ports for name, ports in links.items()}
    lines = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": ",".join(
            [
                f"PLAINTEXT://127.0.0.1:{port}",
                f"CONTROLLER://127.0.0.1:{controller}",
                *(f"{name}://127.0.0.1:{listening}" for name, (listening, _) in own.items()),
            ]
        ),
        "advertised.listeners": ",".join(
            [
                f"PLAINTEXT://127.0.0.1:{port}",
                *(f"{name}://127.0.0.1:{link}" for name, (_, link) in own.items()),
            ]
        ),
        "listener.security.protocol.map": ",".join(
            f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", *own)
        ),
    }
    return "\n".join(f"{name}={value}" for name, value in lines.items()), port


@asynccontextmanager
async def linked(
    folder: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[LinkedCluster]:
    """A running cluster whose parts can be harmed, ended when the block ends; `settings` go before the compose file's."""
    with ExitStack() as mounts:
        disks: dict[str, Disk] = {}
        untested = []
        # Not below a test's own folder: other runs of the tests close that to the user that Postgres runs as.
        apart = Path(
            mounts.enter_context(
                tempfile.TemporaryDirectory(prefix="tidings-disk-", ignore_cleanup_errors=True)
            )
        )
        places = {
            "assets": folder / "assets",
            "broker": folder / "disk-broker",
            "postgres": apart / "disk",
        }
        for part, size in DISKS.items():
            disk = Disk(places[part], size)
            try:
                disk.mount()
            except (OSError, subprocess.CalledProcessError):
                untested.append(
                    f"a full disk of {part}: mounting is not allowed here; to test it: run as root"
                )
                disk.folder.mkdir(parents=True, exist_ok=True)
            else:
                mounts.callback(disk.unmount)
                disks[part] = disk
        async with AsyncExitStack() as stack:
            ports = {name: free_port() for name in ROLES}
            proxies = {
                name: await stack.enter_async_context(FaultyProxy(port))
                for name, port in ports.items()
            }
            properties, port = _listeners(
                {name: (port, proxies[name].port) for name, port in ports.items()}
            )
            broker = Broker(_own(places["broker"] / "broker"), port, properties)
            one = LinkedCluster(folder, disks, broker, Postgres(_open(places["postgres"])))
            one.untested += untested
            for process in one.processes.values():
                process.settings |= settings or {}
            one.links |= {("broker", name): proxy for name, proxy in proxies.items()}
            stack.push_async_callback(one.close)
            await one.lead(ports)
            await one.start()
            yield one


def _own(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _open(folder: Path) -> Path:
    """Let the user that Postgres runs as, whose group may be ours, pass through to a folder."""
    passing = stat.S_IXGRP | stat.S_IXOTH
    for one in (folder, *folder.parents):
        if (mode := one.stat().st_mode) & passing != passing:
            one.chmod(mode | passing)
    return folder
