"""What a `kafka://` URL says, as the Kafka client wants it."""

import ssl
from typing import Any
from urllib.parse import SplitResult, parse_qsl

from aiokafka.helpers import create_ssl_context
from msgspec import Struct

from tidings.streams.log.protocol import LogMisconfigured

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SASL = ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
_SSL = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password")
_EXAMPLE = (
    "write kafka://host:9092,host2:9092?security_protocol=SASL_SSL&sasl_mechanism=SCRAM-SHA-256&..."
)


class KafkaAddress(Struct, frozen=True):
    """Where the brokers are, and how to talk to them."""

    bootstrap: tuple[str, ...]
    security: dict[str, Any]
    """Arguments that all of the client's classes take."""

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"KafkaAddress({','.join(self.bootstrap)})"

    @property
    def arguments(self) -> dict[str, Any]:
        """What every client object is made with."""
        return {"bootstrap_servers": list(self.bootstrap), **self.security}


def parse_address(url: SplitResult) -> KafkaAddress:
    """Read the URL; raises `LogMisconfigured` naming what is wrong with it (and never a password)."""
    if "@" in url.netloc:
        raise LogMisconfigured(
            "kafka:// takes no user before the @; use ?sasl_plain_username=...&sasl_plain_password=..."
        )
    hosts = tuple(filter(None, url.netloc.split(",")))
    if not hosts or url.path.strip("/"):
        raise LogMisconfigured(
            f"log URL kafka://{url.netloc}{url.path} must name brokers and nothing else; {_EXAMPLE}"
        )
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isdigit() or not 0 < int(port) < 65536:
            raise LogMisconfigured(
                f"log URL names the broker {host!r}, which is not host:port; {_EXAMPLE}"
            )
    # Not a form: a `+` is a plus, as in passwords that are base64.
    query = dict(parse_qsl(url.query.replace("+", "%2B"), keep_blank_values=True))
    if unknown := sorted(set(query) - {"security_protocol", *_SASL, *_SSL}):
        raise LogMisconfigured(f"log URL has the unknown parameter {unknown[0]!r}; {_EXAMPLE}")
    return KafkaAddress(hosts, _security(query))


def _security(query: dict[str, str]) -> dict[str, Any]:
    protocol = query.get("security_protocol", "PLAINTEXT").upper()
    if protocol not in _PROTOCOLS:
        raise LogMisconfigured(
            f"log URL: security_protocol={protocol!r} is none of {', '.join(_PROTOCOLS)}"
        )
    arguments: dict[str, Any] = {"security_protocol": protocol}
    if "SASL" in protocol:
        mechanism = query.get("sasl_mechanism", "PLAIN").upper()
        if mechanism not in _MECHANISMS:
            raise LogMisconfigured(
                f"log URL: sasl_mechanism={mechanism!r} is none of {', '.join(_MECHANISMS)}"
            )
        if not query.get("sasl_plain_username") or not query.get("sasl_plain_password"):
            raise LogMisconfigured(
                f"log URL: {protocol} needs sasl_plain_username and sasl_plain_password"
            )
        arguments |= {name: query[name] for name in _SASL if name in query} | {
            "sasl_mechanism": mechanism
        }
    elif given := [name for name in _SASL if name in query]:
        raise LogMisconfigured(
            f"log URL: {given[0]} needs security_protocol=SASL_SSL (or SASL_PLAINTEXT)"
        )
    if "SSL" in protocol.replace("SASL_", ""):
        arguments["ssl_context"] = _ssl_context(query)
    elif given := [name for name in _SSL if name in query]:
        raise LogMisconfigured(f"log URL: {given[0]} needs security_protocol=SSL (or SASL_SSL)")
    return arguments


def _ssl_context(query: dict[str, str]) -> ssl.SSLContext:
    try:
        context = create_ssl_context(
            cafile=query.get("ssl_cafile"),
            certfile=query.get("ssl_certfile"),
            keyfile=query.get("ssl_keyfile"),
            password=query.get("ssl_password"),
        )
    except (OSError, ssl.SSLError) as error:
        raise LogMisconfigured(
            f"log URL: the certificates cannot be loaded ({error}); check ssl_cafile and others"
        ) from error
    assert isinstance(context, ssl.SSLContext)
    return context
