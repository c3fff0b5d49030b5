"""What the tests need from the operating system: `python -m tests.support.system` installs it, or says what goes untested."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest
from msgspec import Struct


class Part(Struct, frozen=True):
    """Something that is not a Python package."""

    name: str
    commands: tuple[str, ...]
    """One of these must be found."""
    package: str
    """Of Debian."""
    covers: str
    """What is not tested without it."""

    @property
    def here(self) -> bool:
        """Whether it can be used."""
        return any(shutil.which(command) for command in self.commands)

    @property
    def advice(self) -> str:
        """One line for whoever lacks it."""
        return f"{self.name} is missing: {self.covers} not tested; to test it: apt-get install {self.package}"


JAVA = Part("Java", ("java",), "openjdk-17-jre-headless", "everything on a real Kafka broker is")
MAVEN = Part("Maven", ("mvn",), "maven", "everything on a real Kafka broker is")
NODE = Part(
    "npm of Node.js",
    ("npm",),
    "npm",
    "the npm packages, Durable Objects, the Worker for Cloudflare KV and accessibility are",
)
CHROMIUM = Part(
    "Chromium",
    ("chromium", "chromium-browser", "google-chrome"),
    "chromium",
    "the page and the browser client are",
)
NGINX = Part("nginx", ("nginx", "/usr/sbin/nginx"), "nginx", "the gateway behind nginx is")
HAPROXY = Part(
    "HAProxy", ("haproxy", "/usr/sbin/haproxy"), "haproxy", "the gateway behind HAProxy is"
)
PGBOUNCER = Part(
    "PgBouncer", ("pgbouncer", "/usr/sbin/pgbouncer"), "pgbouncer", "Postgres behind a pooler is"
)
DEBIAN_POSTGRES = Part(
    "Postgres with TLS", ("pg_ctlcluster",), "postgresql", "Postgres over TLS is"
)
GO = Part("Go", ("go",), "golang-go", "the example that receives webhooks in Go is")
"""Not among those that are installed: it takes much room for one example."""
FAKETIME = Part("libfaketime", ("faketime",), "faketime", "clocks that jump are")

PARTS = (JAVA, MAVEN, NODE, CHROMIUM, NGINX, HAPROXY, PGBOUNCER, DEBIAN_POSTGRES, FAKETIME)


def broker_parts() -> Sequence[Part]:
    """What a broker needs; nothing where `TIDINGS_TEST_KAFKA` names one that runs."""
    return () if os.environ.get("TIDINGS_TEST_KAFKA") else (JAVA, MAVEN)


def strict() -> bool:
    """Whether a missing part is a failure: in CI."""
    return os.environ.get("CI", "").lower() in ("1", "true")


def require(*parts: Part) -> None:
    """Skip the test that calls this where a part is missing, with the line that says how to get it; fail it in CI."""
    for part in parts:
        if not part.here:
            (pytest.fail if strict() else pytest.skip)(part.advice)


def _wanted() -> list[Part]:
    taken = (JAVA, MAVEN) if not broker_parts() else ()
    return [part for part in PARTS if part not in taken and not part.here]


def _install(parts: Sequence[Part]) -> None:
    """Install by apt-get, as root or by a sudo that asks nothing; does nothing where neither is there."""
    if not shutil.which("apt-get"):
        return
    prefix: tuple[str, ...] = ()
    if os.geteuid() != 0:
        if (
            not shutil.which("sudo")
            or subprocess.run(("sudo", "-n", "true"), capture_output=True, check=False).returncode
        ):
            return
        prefix = ("sudo", "-n")
    packages = [part.package for part in parts]
    print(f"Installing {', '.join(packages)} for the tests ...", flush=True)  # noqa: T201 - for a terminal
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (
        ("update", "-qq"),
        ("install", "-y", "-qq", "--no-install-recommends", *packages),
    ):
        done = subprocess.run(
            (*prefix, "apt-get", *arguments),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode:
            print(done.stderr.strip().rpartition("\n")[2], file=sys.stderr)  # noqa: T201
            return


def main() -> int:
    """Install what is missing, and say what still is; the exit code."""
    if missing := _wanted():
        _install(missing)
    missing = _wanted()
    for part in missing:
        print(part.advice, file=sys.stderr)  # noqa: T201
    return 1 if missing and strict() else 0


if __name__ == "__main__":
    sys.exit(main())
