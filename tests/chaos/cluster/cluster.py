"""The topology of the compose file as plain processes on loopback: `python -m tests.chaos.cluster.cluster` runs it by hand.

Each Tidings process gets the command and the environment that the compose file gives it; only hosts and ports become
those of loopback.
"""

import asyncio
import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.support import compose
from tests.support.broker import Broker, free_port
from tests.support.root import ROOT
from tests.support.servers import Postgres, Server, Valkey
from tests.support.tidings_process import TidingsProcess, environment
from tidings.cli.support.service_access import sign
from tidings.client.client import Client
from tidings.config.loader import load_settings

ROLES = (
    *("processor-1", "processor-2", "gateway-1", "gateway-2"),
    *("archiver", "reconciler", "notifier"),
)


class HAProxy(Server):
    """HAProxy with the configuration that is deployed.

    Args:
        gateways: Ports of the two.
    """

    def __init__(self, gateways: Sequence[int]) -> None:
        super().__init__("haproxy")
        self._gateways = gateways

    def command(self) -> Sequence[str | Path]:
        """HAProxy in the foreground; the environment says where everything is."""
        first, second = self._gateways
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        names = {"PROXY_BIND": self.port, "GATEWAY_1": first, "GATEWAY_2": second}
        given = [f"{name}=127.0.0.1:{port}" for name, port in names.items()]
        return ("env", *given, program, "-db", "-q", "-f", ROOT / "deploy" / "haproxy.cfg")

    def ready(self) -> bool:
        """Whether it listens."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Demo(Server):
    """The provider that stands in for Replicate, as a process of its own."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        super().__init__("demo")
        self._settings = settings

    def command(self) -> Sequence[str | Path]:
        """The module, with the secrets that Tidings has too."""
        given = environment({**self._settings, "PYTHONPATH": str(ROOT)})
        return (
            *("env", "-i", *(f"{name}={value}" for name, value in given.items())),
            *(sys.executable, "-m", "tidings.demo", "--port", str(self.port), "--duration", "2"),
        )

    def ready(self) -> bool:
        """Whether it listens."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Cluster:
    """A running cluster.

    Args:
        folder: For the data of its processes.
        broker: In place of one of its own.
        postgres: In place of one of its own.
    """

    def __init__(
        self, folder: Path, broker: Broker | None = None, postgres: Postgres | None = None
    ) -> None:
        self.folder = folder
        self.broker = broker or Broker()
        self.postgres = postgres or Postgres()
        self.valkey = Valkey()
        self.secrets = {
            name: secrets.token_hex(32)
            for name in (
                "TIDINGS_JWT_SECRET",
                "TIDINGS_WEBHOOK_KEY",
                "TIDINGS_REPLICATE_TOKEN",
                "POSTGRES_PASSWORD",
            )
        }
        for name in ("TIDINGS_REPLICATE_SECRET", "TIDINGS_NOTIFY_SECRET"):
            self.secrets[name] = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        services = compose.services()
        self.demo = Demo(compose.environment(services["demo"], self.secrets))
        self.proxy_port = 0
        self._proxy: HAProxy | None = None
        self.processes: dict[str, TidingsProcess] = {}
        for name in ROLES:
            own = folder / name
            own.mkdir(parents=True)
            settings = self._settings(compose.environment(services[name], self.secrets))
            self.processes[name] = TidingsProcess(own, settings, tuple(services[name]["command"]))

    def _settings(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment of a service, with loopback in place of the other services' names."""
        demo = f"127.0.0.1:{self.demo.port}"
        moved = {
            "TIDINGS_HOST": "127.0.0.1",
            "TIDINGS_LOG": f"kafka://{self.broker.bootstrap}",
            "TIDINGS_STORE": self.postgres.url,
            "TIDINGS_STORE_FALLBACK": self.valkey.url,
            "TIDINGS_ASSETS": f"file:///{self.folder / 'assets'}",
            "TIDINGS_ASSETS_ALLOW": demo,
            "TIDINGS_REPLICATE_URL": f"http://{demo}",
            "TIDINGS_TRUSTED_PROXIES": "127.0.0.1",
        }
        assert set(moved) <= set(given)
        left = {name: value for name, value in given.items() if name != "TIDINGS_PORT"}
        return {**left, **moved, "TIDINGS_PARTITIONS": "4"}

    @property
    def url(self) -> str:
        """The address of the proxy."""
        return f"http://127.0.0.1:{self.proxy_port}"

    @property
    def proxy(self) -> HAProxy:
        """The proxy, once it runs."""
        assert self._proxy is not None
        return self._proxy

    def token(self, scope: str = "watch:all read:all write admin") -> str:
        """A token that may do anything."""
        settings = load_settings(
            environ={"TIDINGS_JWT_SECRET": self.secrets["TIDINGS_JWT_SECRET"]}, folder=self.folder
        )
        return sign(settings, {"scope": scope, "sub": "tests"}, ttl=7200)

    def client(self) -> Client:
        """A client by way of the proxy."""
        return Client(self.url, self.token(), timeout=20)

    async def start(self) -> None:
        """Start everything, in the order that the compose file asks for."""
        servers = (self.broker, self.postgres, self.valkey, self.demo)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        self.proxy_port = free_port()
        for process in self.processes.values():
            process.settings["TIDINGS_PUBLIC_URL"] = self.url
        # The first makes topics and tables; the others may then start at once.
        await self.processes["processor-1"].start(60)
        others = [process for name, process in self.processes.items() if name != "processor-1"]
        await asyncio.gather(*(process.start(60) for process in others))
        self._proxy = HAProxy(await self.doors())
        self._proxy.port = self.proxy_port
        await asyncio.to_thread(self._proxy.start)

    async def doors(self) -> list[int]:
        """The ports by which the proxy reaches the gateways."""
        return [self.processes[name].port for name in ("gateway-1", "gateway-2")]

    async def restart(self, name: str) -> None:
        """End a Tidings process in order, and start it again on its port."""
        process = self.processes[name]
        assert await process.stop() == 0, process.output
        await process.start(60)

    async def close(self) -> None:
        """End everything."""
        if self._proxy is not None:
            self._proxy.close()
        running = [process for process in self.processes.values() if process.process is not None]
        await asyncio.gather(*(process.kill() for process in running))
        for server in (self.demo, self.valkey, self.postgres, self.broker):
            server.close()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """A running cluster, ended when the block ends."""
    one = Cluster(folder)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(one.close)
        await one.start()
        yield one


async def _run() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="tidings-cluster-") as folder:
        print(  # noqa: T201
            "Starting Kafka, Postgres, Valkey, a provider, six processes and a proxy ...",
            flush=True,
        )
        async with cluster(Path(folder)) as one:
            lines = [
                "",
                f"The page     {one.url}",
                f"A token      {one.token()}",
                f'To try it    curl -H "Authorization: Bearer TOKEN" {one.url}/api/predictions',
                f"Kafka        {one.broker.bootstrap}",
                f"Postgres     {one.postgres.url}",
                f"Valkey       {one.valkey.url}",
                "",
                "Each process by itself, with /healthz, /readyz and /metrics:",
                *(f"{name:12} {process.url}" for name, process in one.processes.items()),
                "",
                f"pid {os.getpid()}; Ctrl-C ends it all",
            ]
            print("\n".join(lines), flush=True)  # noqa: T201
            await stop.wait()


if __name__ == "__main__":
    asyncio.run(_run())
