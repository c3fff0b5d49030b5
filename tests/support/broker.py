"""A real Apache Kafka broker on loopback, without a container engine: `python -m tests.support.broker` runs one by hand.

Its jars are fetched by Maven once, into `.cache/kafka` of the checkout. Needs Java 17 and Maven (`tests.support.system`).
"""

import base64
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.root import ROOT

CACHE = ROOT / ".cache" / "kafka"
VERSION = "4.1.1"

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>tests</groupId><artifactId>broker</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""

_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=8388608
"""

_JAVA = ("java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class BrokerFailed(Exception):
    """The broker did not come up; the message ends with what it wrote."""


def jars() -> Path:
    """The folder with the broker's jars, fetched where it is missing."""
    folder = CACHE / VERSION
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Fetched beside and renamed: an interrupted fetch, or two at once, leave no half a folder.
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            pom = Path(work, "pom.xml")
            pom.write_text(_POM)
            fetched = Path(work, "jars")
            goal = (
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
                f"-DoutputDirectory={fetched}",
            )
            done = subprocess.run(
                ("mvn", "-q", "-B", "-f", pom, *goal), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise BrokerFailed(
                    f"Maven could not fetch Kafka {VERSION}:\n{done.stdout}{done.stderr}"
                )
            with contextlib.suppress(OSError):
                fetched.rename(folder)
    return folder


def free_port() -> int:
    """A port of the loopback address that nobody listens on.

    Below those that systems give to outgoing connections (from 32768 on): a server takes seconds until it listens, and
    a connection of another test may have got the port by then.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


class Broker:
    """One broker, which is its own controller.

    Args:
        folder: for its data and its output; None: a temporary one, removed by `close`.
        port: to listen on; None: a free one, kept over restarts.
        properties: lines that override those of the test configuration.
    """

    def __init__(
        self, folder: Path | None = None, port: int | None = None, properties: str = ""
    ) -> None:
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="tidings-broker-"))
        self.port = port or free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._properties = properties
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, within: float = 60.0) -> None:
        """Start it, on the data it has, and return when it answers."""
        self.launch()
        self.wait(within)

    def launch(self) -> None:
        """Start it without waiting for it."""
        classpath = f"{jars()}/*"
        settings = self.folder / "server.properties"
        if not settings.exists():
            text = _PROPERTIES.format(
                port=self.port, controller=free_port(), data=self.folder / "data"
            )
            settings.write_text(f"{text}{self._properties}\n")
            # The first letter is fixed: the tool would take an id that begins with a dash for an option.
            cluster = "T" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")[1:]
            tool = ("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings), "-g")
            done = subprocess.run(
                (*_JAVA, "-cp", classpath, *tool), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise BrokerFailed(
                    f"the data folder could not be formatted:\n{done.stdout}{done.stderr}"
                )
        with (self.folder / "output.txt").open("ab") as output:
            # Its own session: Ctrl-C at a test run is for the tests, which stop it in order.
            self._process = subprocess.Popen(
                (*_JAVA, "-cp", classpath, "kafka.Kafka", str(settings)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self, within: float = 60.0) -> None:
        """Return when it describes its cluster, which is later than when its port opens."""
        deadline = time.monotonic() + within
        while not _answers(self.port):
            if not self.running or time.monotonic() > deadline:
                output = (self.folder / "output.txt").read_text(errors="replace")[-2000:]
                state = "is still silent" if self.running else "ended"
                raise BrokerFailed(f"the broker {state}; it wrote:\n{output}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, within: float = 30.0) -> None:
        """End it in order (SIGTERM); kills it where that takes too long."""
        self.thaw()
        self.signal(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(within)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """End it on the spot (SIGKILL)."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Let it stand still with its connections open (SIGSTOP)."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        self.signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop it and start it again on the same data and port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill it and remove its temporary data. Idempotent."""
        self.kill()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)


# Metadata request, version 1, all topics: what any client asks first. Length, API key 3, version, correlation id,
# client id (null), topics (null).
_METADATA = bytes.fromhex("0000000e 0003 0001 00000001 ffff ffffffff".replace(" ", ""))


def _answers(port: int) -> bool:
    """Whether a broker on this port names itself as part of a cluster with a controller."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.settimeout(2)
            connection.sendall(_METADATA)
            stream = connection.makefile("rb")
            size = int.from_bytes(stream.read(4))
            answer = stream.read(size)
            # correlation id (4), then the number of brokers (4)
            return len(answer) == size >= 8 and int.from_bytes(answer[4:8]) > 0
    except OSError:
        return False


def main() -> None:
    """Run a broker until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    broker = Broker()
    try:
        print(f"Starting Kafka {VERSION} ...", flush=True)  # noqa: T201 - for a developer's terminal
        broker.start()
        print(  # noqa: T201
            f"kafka://{broker.bootstrap}   (Ctrl-C stops it; its data is in {broker.folder})",
            flush=True,
        )
        while broker.running:
            time.sleep(0.5)
        sys.exit(f"the broker ended; see {broker.folder / 'output.txt'}")
    except KeyboardInterrupt:
        print("Stopping.")  # noqa: T201
    except BrokerFailed as error:
        sys.exit(str(error))
    finally:
        broker.close()


if __name__ == "__main__":
    main()
