"""A real nginx and a real HAProxy on loopback, in front of a gateway."""

import contextlib
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

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
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream gateway {{ server 127.0.0.1:{upstream}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""

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
    """nginx, configured as its documentation tells for WebSockets."""

    name = "nginx"

    def command(self) -> Sequence[str | Path]:
        file = self.folder / "nginx.conf"
        user = "user root;\n" if os.geteuid() == 0 else ""
        file.write_text(
            _NGINX.format(user=user, folder=self.folder, port=self.port, upstream=self.upstream)
        )
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
