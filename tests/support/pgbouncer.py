"""A real PgBouncer on loopback, in front of a Postgres."""

import contextlib
import os
import pwd
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support.servers import Server

_CONFIGURATION = """[databases]
postgres = host=127.0.0.1 port={upstream} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = {mode}
unix_socket_dir =
{more}
"""


class PgBouncer(Server):
    """PgBouncer with the parameters that it takes by default.

    Args:
        upstream: URL of the Postgres.
        mode: `session` or `transaction`.
        more: Lines of its configuration.
    """

    def __init__(self, upstream: str, mode: str, more: str = "") -> None:
        super().__init__("pgbouncer")
        parts = urlsplit(upstream)
        self._text = _CONFIGURATION.format(
            upstream=parts.port,
            user=parts.username,
            password=unquote(parts.password or ""),
            port=self.port,
            mode=mode,
            more=more,
        )
        if os.geteuid() == 0:  # it refuses root
            self.user = "nobody"
            os.chown(self.folder, pwd.getpwnam(self.user).pw_uid, -1)

    @staticmethod
    def program() -> str | None:
        """Where it is, if it is installed; Debian puts servers where only root's path leads."""
        found = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        return found if Path(found).exists() else None

    @property
    def url(self) -> str:
        """As `TIDINGS_STORE` takes it."""
        return f"postgresql://tidings:x@127.0.0.1:{self.port}/postgres"

    def command(self) -> Sequence[str | Path]:
        file = self.folder / "pgbouncer.ini"
        file.write_text(self._text)
        program = self.program()
        assert program is not None
        return (program, file)

    def ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
