"""The Worker of `storage/cloudflare/worker` on the real `workerd`, on loopback; npm installs the binary into `.cache/`.

`TIDINGS_TEST_WORKER` (a URL, and its token in `TIDINGS_TEST_WORKER_TOKEN`) takes its place for tests that need no
process to kill. Without node and npm these tests are skipped with one line, and fail where CI is set.
"""

import atexit
import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.broker import free_port
from tests.support.root import ROOT
from tests.support.system import NODE, require

VERSION = "1.20261117.1"
CACHE = ROOT / ".cache" / "workerd"
SOURCE = ROOT / "storage" / "cloudflare" / "worker" / "src"
TOKEN = "a-token-for-tests"

_CONFIGURATION = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .worker), (name = "disk", disk = (path = "{disk}", writable = true)){kv}],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")],
);
const worker :Workerd.Worker = (
  modules = [{modules}],
  compatibilityDate = "{date}",
  durableObjectNamespaces = [
    (className = "Shard", uniqueKey = "shard", enableSql = true),
    (className = "Single", uniqueKey = "single", enableSql = true),
    (className = "Directory", uniqueKey = "directory", enableSql = true)],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [
    (name = "SHARD", durableObjectNamespace = "Shard"),
    (name = "SINGLE", durableObjectNamespace = "Single"),
    (name = "DIRECTORY", durableObjectNamespace = "Directory"){bindings}],
);
"""


class WorkerdFailed(Exception):
    """workerd did not come up; the message ends with what it wrote."""


def needed() -> None:
    """Skip the test that calls this where workerd is neither here nor to be fetched; fail it in CI."""
    if not _binary().exists():
        require(NODE)


def _binary() -> Path:
    # The package named `workerd` is a launcher in JavaScript; this is the program itself.
    machine = {"x86_64": "64", "aarch64": "arm64", "arm64": "arm64"}.get(
        os.uname().machine, os.uname().machine
    )
    system = "darwin" if os.uname().sysname == "Darwin" else "linux"
    return (
        CACHE
        / VERSION
        / "node_modules"
        / "@cloudflare"
        / f"workerd-{system}-{machine}"
        / "bin"
        / "workerd"
    )


def binary() -> Path:
    """The workerd program, fetched by npm where it is missing."""
    if not (path := _binary()).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Fetched beside and renamed: an interrupted fetch, or two at once, leave no half a folder.
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            fetched = Path(work, "fetched")
            fetched.mkdir()
            command = (
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--prefix",
                str(fetched),
                f"workerd@{VERSION}",
            )
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise WorkerdFailed(
                    f"npm could not fetch workerd {VERSION}:\n{done.stdout}{done.stderr}"
                )
            if not (CACHE / VERSION).exists():
                fetched.rename(CACHE / VERSION)
    return path


class Workerd:
    """One workerd with our Worker and its data on disk.

    Args:
        layout: `sharded` or `one-per-prediction`.
        shards: number of shards or directories.
        kv_port: of a server on loopback that speaks the protocol of a KV binding; None: the Worker has no KV.
        token: what the Worker expects; None: it was deployed without one.
        alarm_delay: ms that an object waits at least before it wakes up to remove what is due; None: as deployed.
    """

    def __init__(
        self,
        layout: str = "sharded",
        shards: int = 64,
        kv_port: int | None = None,
        token: str | None = TOKEN,
        alarm_delay: int | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tidings-workerd-"))
        self.port = free_port()
        self.layout = layout
        self.shards = shards
        self.token = token
        self._kv_port = kv_port
        self._alarm_delay = alarm_delay
        self.edits: list[tuple[str, str, str]] = []
        """File, a text in it, and what stands there in another version of the Worker; in force at the next start."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the Worker answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, within: float = 60.0) -> None:
        """Start it, on the data it has, and return when it answers."""
        program = binary()
        (self.folder / "data").mkdir(exist_ok=True)
        for file in SOURCE.iterdir():
            shutil.copy(file, self.folder / file.name)
        for name, old, new in self.edits:
            text = (self.folder / name).read_text()
            assert old in text, f"{name} has no {old}"
            (self.folder / name).write_text(text.replace(old, new))
        (self.folder / "config.capnp").write_text(self._configuration())
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                (program, "serve", self.folder / "config.capnp"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + within
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "output.txt").read_text(errors="replace")[-2000:]
                self.kill()
                raise WorkerdFailed(f"workerd did not come up; it wrote:\n{text}")
            time.sleep(0.02)

    def _configuration(self) -> str:
        names = [
            "index.js",
            *sorted(file.name for file in SOURCE.iterdir() if file.name != "index.js"),
        ]
        texts = {"LAYOUT": self.layout, "SHARDS": str(self.shards)}
        if self.token is not None:
            texts["TIDINGS_TOKEN"] = self.token
        if self._alarm_delay is not None:
            texts["ALARM_DELAY_MS"] = str(self._alarm_delay)
        bindings = "".join(
            f',\n    (name = "{name}", text = "{text}")' for name, text in texts.items()
        )
        kv = ""
        if self._kv_port is not None:
            kv = f', (name = "kv", external = (address = "127.0.0.1:{self._kv_port}", http = ()))'
            bindings += ',\n    (name = "KV", kvNamespace = "kv")'
        # What is tested is what is deployed: the date of the runtime's behaviour comes from wrangler's file.
        dated = re.search(
            r'"compatibility_date": "([\d-]+)"', (SOURCE.parent / "wrangler.jsonc").read_text()
        )
        assert dated is not None
        return _CONFIGURATION.format(
            date=dated[1],
            disk=self.folder / "data",
            port=self.port,
            modules=", ".join(f'(name = "{name}", esModule = embed "{name}")' for name in names),
            bindings=bindings,
            kv=kv,
        )

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/v1/health", timeout=2).close()
        except urllib.error.HTTPError as answer:
            answer.close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it on the spot (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Let it stand still with its connections open (SIGSTOP)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again on the same data and port."""
        self.kill()
        self.start()

    def objects(self, kind: str) -> list[set[str]]:
        """Per object of a class (`single`) its tables on the disk; to be asked while it does not run."""
        found = []
        for file in (self.folder / "data" / kind).glob("*.sqlite"):
            if file.stem != "metadata":
                with contextlib.closing(sqlite3.connect(file)) as database:
                    rows = database.execute(
                        "SELECT name FROM sqlite_master WHERE type = 'table'"
                    ).fetchall()
                found.append({name for (name,) in rows if not name.startswith("_cf_")})
        return found

    def close(self) -> None:
        """Kill it and remove its data. Idempotent."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


_shared: dict[str, Workerd] = {}


def shared(layout: str = "sharded", kv_port: int | None = None) -> tuple[str, str]:
    """The URL and token of a Worker for all tests of this run, which keep apart by spaces; started when first asked for.

    It has 8 shards, as each test makes its own: a batch would mostly measure the making of 64. With `kv_port` it has
    a KV namespace, which lies there.
    """
    if kv_port is None and (url := os.environ.get("TIDINGS_TEST_WORKER")):
        return url, os.environ.get("TIDINGS_TEST_WORKER_TOKEN", TOKEN)
    needed()
    name = f"{layout} {kv_port}"
    if name not in _shared:
        worker = Workerd(layout=layout, shards=8, kv_port=kv_port)
        atexit.register(worker.close)
        worker.start()
        _shared[name] = worker
    return _shared[name].url, TOKEN
