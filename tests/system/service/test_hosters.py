"""The addresses on the pages about hosters are taken, by servers on loopback with the same parameters."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from ruamel.yaml import YAML

from tests.support import system
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.servers import PASSWORD, Postgres, Server, Valkey
from tests.support.tidings_process import serving
from tests.support.webhooks import SECRET, signed

HOWTO = ROOT / "docs" / "howto"


def addresses(page: str, name: str) -> list[str]:
    """The values that a page gives to a setting."""
    text = (HOWTO / page).read_text(encoding="utf-8")
    found = re.findall(rf"^export {name}='(.*)'$", text, re.MULTILINE)
    assert found
    return [str(value) for value in found]


def certificate(folder: Path) -> None:
    """A key and a certificate of loopback's own, in `server.key` and `server.crt`."""
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-batch"),
            *("-keyout", folder / "server.key", "-out", folder / "server.crt"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ),
        check=True,
        capture_output=True,
    )


class SecurePostgres(Postgres):
    """Debian's Postgres, which speaks TLS (the packaged one of the other tests cannot)."""

    def __init__(self) -> None:
        super().__init__(programs=max(Path("/usr/lib/postgresql").glob("*/bin")))

    def command(self) -> Sequence[str | Path]:
        """The server with its certificate."""
        files = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}
        paths = [f"{name}={self.folder / file}" for name, file in files.items()]
        options = [part for value in ("ssl=on", *paths) for part in ("-c", value)]
        return [*super().command(), *options]


class PgBouncer(Server):
    """PgBouncer in transaction mode, in front of a Postgres."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__("pgbouncer")
        self.folder.chmod(0o777)
        self.postgres = postgres

    def command(self) -> Sequence[str | Path]:
        """The pooler, as its own documentation configures it."""
        behind = f"host=127.0.0.1 port={self.postgres.port} user=tidings password={PASSWORD}"
        (self.folder / "pgbouncer.ini").write_text(
            f"[databases]\ntidings = {behind} dbname=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            "auth_type = any\npool_mode = transaction\nunix_socket_dir =\n"
        )
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        return (program, "-u", "nobody", self.folder / "pgbouncer.ini")

    def ready(self) -> bool:
        """Takes connections."""
        checked = ("-q", "-h", "127.0.0.1", "-p", str(self.port))
        ready = (self.postgres.programs / "pg_isready", *checked)
        return subprocess.run(ready, check=False, timeout=30).returncode == 0


@pytest.fixture(scope="module")
def postgres() -> Iterator[SecurePostgres]:
    """A Postgres with a password and TLS."""
    system.require(system.DEBIAN_POSTGRES)
    server = SecurePostgres()
    try:
        certificate(server.folder)
        for name in ("server.crt", "server.key"):
            file = server.folder / name
            if server.user is not None:
                shutil.chown(file, server.user)
            file.chmod(0o600)
        (server.folder / "root.crt").write_bytes((server.folder / "server.crt").read_bytes())
        (server.folder / "root.crt").chmod(0o644)
        server.start()
        yield server
    finally:
        server.close()


async def works(folder: Path, settings: Mapping[str, str]) -> None:
    """A service with these settings takes a webhook, and the prediction reaches its end."""
    async with serving(folder, {"TIDINGS_STANDARD_SECRET": SECRET, **settings}) as service:
        body = b'{"predictionId": "p1", "status": "succeeded"}'
        async with httpx.AsyncClient(trust_env=False, base_url=service.url) as http:
            sent = await http.post("/api/webhooks/standard", content=body, headers=signed(body))
            assert sent.status_code == 200

            async def ended() -> bool:
                answer = await http.get("/api/predictions/p1")
                return answer.status_code == 200 and answer.json()["data"]["status"] == "succeeded"

            await eventually(ended, 30)


@pytest.mark.parametrize("address", addresses("postgres-hosters.md", "TIDINGS_STORE"))
async def test_a_postgres_hosters_address(
    tmp_path: Path, postgres: SecurePostgres, address: str
) -> None:
    """What a hoster shows works as it is, against a server with its parameters."""
    pooler = None
    port = postgres.port
    if ":6432/" in address or ":6543/" in address:
        system.require(system.PGBOUNCER)
        pooler = PgBouncer(postgres)
        pooler.start()
        port = pooler.port
        address = address.replace("sslmode=require&", "")  # Debian's pooler has no certificate
    try:
        address = re.sub(r"HOST2?(:\d+)?", f"127.0.0.1:{port}", address)
        address = address.replace("USER:PASSWORD", f"tidings:{quote(PASSWORD, safe='')}")
        database = "tidings" if pooler else "postgres"
        address = re.sub(r"(?<=\d)/\w+\?", f"/{database}?", address)
        address = address.replace(
            "/etc/ssl/rds-global-bundle.pem", str(postgres.folder / "root.crt")
        )
        schema = f"&schema=h{abs(hash(address)) % 10**8}"
        await works(tmp_path, {"TIDINGS_STORE": address + schema})
    finally:
        if pooler is not None:
            pooler.close()


@pytest.mark.parametrize("address", addresses("redis-hosters.md", "TIDINGS_STORE"))
async def test_a_redis_hosters_address(tmp_path: Path, address: str) -> None:
    """A managed server without an append-only file works once the address says so."""
    password = "a-password-for-tests"
    server = Valkey("--appendonly", "no", "--requirepass", password)
    try:
        server.start()
        address = address.replace("rediss://", "redis://")
        address = address.replace("USER:PASSWORD", f"default:{password}")
        address = address.replace("HOST:6379", f"127.0.0.1:{server.port}")
        await works(tmp_path, {"TIDINGS_STORE": address})
    finally:
        server.close()


def test_the_kubernetes_objects_are_complete() -> None:
    """The objects of the page parse, and both roles are probed where they say how they are."""
    text = (HOWTO / "kubernetes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    objects = list(YAML(typ="safe").load_all(block))
    deployments = [one for one in objects if one["kind"] == "Deployment"]
    assert {one["kind"] for one in objects} == {"Service", "Deployment"}
    for deployment in deployments:
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


async def test_the_origins_of_packaged_apps(tmp_path: Path) -> None:
    """Each origin that the page on apps names is let in once it is named, and an unnamed one is not."""
    (allowed,) = addresses("apps.md", "TIDINGS_ALLOWED_ORIGINS")
    settings = {
        "TIDINGS_ALLOWED_ORIGINS": allowed,
        "TIDINGS_JWT_SECRET": "a secret of the tests that is long enough",
    }
    async with (
        serving(tmp_path, settings) as service,
        httpx.AsyncClient(trust_env=False, base_url=service.url) as http,
    ):
        for origin in allowed.split(","):
            answer = await http.get("/api/predictions/p1", headers={"Origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin
        for origin in ("capacitor://elsewhere", "null", "https://localhost:8443"):
            answer = await http.get("/api/predictions/p1", headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers
