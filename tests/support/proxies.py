"""A real nginx and a real HAProxy on loopback, in front of a gateway."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.root import ROOT
from tests.support.servers import Server

_NGINX = """daemon off;
{user}worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{documented}
}}
"""


def documented_nginx() -> str:
    """What the page on proxies gives its readers."""
    page = (ROOT / "docs" / "howto" / "proxies.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```nginx\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return str(block)


def checked_nginx(block: str, folder: Path) -> str:
    """What `nginx -t` says against a block of a page; empty: nothing."""
    file = folder / "checked.conf"
    file.write_text(_NGINX.format(user="", folder=folder, documented=block))
    done = subprocess.run(
        (_program("nginx"), "-t", "-q", "-e", folder / "error.log", "-p", folder, "-c", file),
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "[warn]" not in line]
    return "\n".join(said) if done.returncode else ""


_HAPROXY = """global
    maxconn 512
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend front
    bind 127.0.0.1:{port}
    option forwardfor
    default_backend gateway
backend gateway
    http-reuse always
    server one 127.0.0.1:{upstream}
"""


class Proxy(Server):
    """A proxy that passes everything on to one gateway, the upgrade included.

    Args:
        upstream: The gateway's port.
    """

    name = "proxy"

    def __init__(self, upstream: int) -> None:
        super().__init__(self.name)
        self.upstream = upstream

    def ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Nginx(Proxy):
    """nginx, configured as the page on proxies says."""

    name = "nginx"

    def command(self) -> Sequence[str | Path]:
        file = self.folder / "nginx.conf"
        user = "user root;\n" if os.geteuid() == 0 else ""
        documented = documented_nginx()
        for shown, ours in (
            ("127.0.0.1:8080", f"127.0.0.1:{self.upstream}"),
            ("listen 8081", f"listen 127.0.0.1:{self.port}"),
        ):
            assert shown in documented
            documented = documented.replace(shown, ours)
        file.write_text(_NGINX.format(user=user, folder=self.folder, documented=documented))
        return (_program("nginx"), "-e", self.folder / "error.log", "-p", self.folder, "-c", file)


class HAProxy(Proxy):
    """HAProxy, which reuses its connections to the gateway for whoever comes."""

    name = "haproxy"

    def command(self) -> Sequence[str | Path]:
        file = self.folder / "haproxy.cfg"
        file.write_text(_HAPROXY.format(port=self.port, upstream=self.upstream))
        return (_program("haproxy"), "-db", "-q", "-f", file)


def _program(name: str) -> str:
    """Debian puts servers where only root's path leads."""
    return shutil.which(name) or f"/usr/sbin/{name}"
