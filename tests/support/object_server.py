"""A real server of the S3 protocol (SeaweedFS) on loopback, from the package that carries its program.

It proves every request's signature, and makes a bucket when something is put into it.
"""

import json
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.support.broker import free_port
from tests.support.servers import Server

KEY, SECRET = "a-key", "a-secret"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


class ObjectServer(Server):
    """Master, volumes, filer and S3 in one process.

    Args:
        readable: A bucket that everybody may read.
    """

    def __init__(self, readable: str) -> None:
        super().__init__("s3")
        mine = {"accessKey": KEY, "secretKey": SECRET}
        everything = {
            "name": "tidings",
            "credentials": [mine],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        everybody = {"name": "anonymous", "actions": [f"Read:{readable}"]}
        self._access = self.folder / "access.json"
        self._access.write_text(json.dumps({"identities": [everything, everybody]}))
        (self.folder / "data").mkdir()
        self._others = [free_port() for _ in range(7)]

    @property
    def address(self) -> str:
        """Where the S3 protocol is spoken."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, bucket: str, prefix: str = "") -> str:
        """As `TIDINGS_ASSETS` takes it."""
        return f"s3://{bucket}/{prefix}?endpoint={self.address}"

    def command(self) -> Sequence[str | Path]:
        """Everything on loopback; what is not needed is off."""
        roles = ("master.port", "volume.port", "filer.port", "s3.port.grpc")
        names = (*roles, *(f"{role}.grpc" for role in roles[:3]))
        settings = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            **dict(zip(names, self._others, strict=True)),
            "master.electionTimeout": "1s",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 20,
            "s3.port": self.port,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self._access,
        }
        program = Path(sysconfig.get_path("scripts"), "weed")
        return [
            program,
            "server",
            "-filer",
            "-s3",
            *(f"-{name}={value}" for name, value in settings.items()),
        ]

    def ready(self) -> bool:
        """Whether an object can be put: the S3 port is open before there is a volume to write to."""
        from obstore import put
        from obstore.store import S3Store

        try:
            urllib.request.urlopen(f"{self.address}/healthz", timeout=2).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            return False
        store = S3Store(
            "ready",
            endpoint=self.address,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )
        try:
            put(store, "ready", b"")
        except Exception:
            return False
        return True

    def close(self) -> None:
        """Kill it and remove what it had, its sockets for processes of the same machine included."""
        super().close()
        for port in (self.port, *self._others):
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink(missing_ok=True)
