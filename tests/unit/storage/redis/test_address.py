"""URLs of Redis and Valkey as hosters hand them out reach the driver as they are meant, or say what is wrong."""

from urllib.parse import unquote

import pytest
from redis.asyncio.connection import parse_url

from tidings.storage.errors import StoreMisconfigured
from tidings.storage.redis.address import parse


@pytest.mark.parametrize(
    ("url", "driver", "shown"),
    [
        ("redis://h", "redis://h:6379/0", "redis://h:6379"),
        ("valkey://u:p@h:1/2?prefix=a", "redis://u:p@h:1/2", "redis://h:1/2"),
        ("valkeys://:token@h", "rediss://:token@h:6379/0", "rediss://h:6379"),
        ("redis://user@h?db=3", "redis://user@h:6379/3", "redis://h:6379"),
        ("redis://[::1]:7/1", "redis://[::1]:7/1", "redis://[::1]:7/1"),
        ("redis://[fe80::1]", "redis://[fe80::1]:6379/0", "redis://[fe80::1]:6379"),
        # Upstash, ElastiCache with a token alone, Heroku's self-signed certificates, Celery's word
        # for them
        (
            "rediss://default:Ab%2Bc@x.upstash.io:6379",
            "rediss://default:Ab%2Bc@x.upstash.io:6379/0",
            None,
        ),
        (
            "rediss://:t%2F@master.x.cache.amazonaws.com:6379",
            "rediss://:t%2F@master.x.cache.amazonaws.com:6379/0",
            None,
        ),
        ("rediss://:p@h:9?ssl_cert_reqs=none", "rediss://:p@h:9/0?ssl_cert_reqs=none", None),
        ("rediss://:p@h:9?ssl_cert_reqs=CERT_NONE", "rediss://:p@h:9/0?ssl_cert_reqs=none", None),
        (
            "redis+unix:///run/redis.sock?db=2",
            "unix:///run/redis.sock?db=2",
            "unix:///run/redis.sock",
        ),
        ("valkey+unix://u:p@/run/v.sock", "unix://u:p@/run/v.sock?db=0", "unix:///run/v.sock"),
    ],
)
def test_what_reaches_the_driver(url: str, driver: str, shown: str | None) -> None:
    """Scheme, user, password, host, database and TLS are the driver's.

    What is ours is taken out.
    """
    found = parse(url)
    assert found.url() == driver
    assert shown is None or found.shown == shown
    parse_url(found.url())  # the driver takes it


@pytest.mark.parametrize("password", ["a+b", "a@b/c:d?e#f[g]", "ü 100%", ":"])
def test_passwords(password: str) -> None:
    """Whatever a user or a password consists of, the driver gets it as it is and no line shows it."""
    from urllib.parse import quote

    found = parse(f"redis://{quote(password, safe='')}:{quote(password, safe='')}@h/0")
    given = parse_url(found.url())
    assert (given["username"], given["password"]) == (password, password)
    assert password == ":" or password not in found.shown
    plain = parse("redis://u:a+b@h/0")
    assert unquote(plain.credentials) == "u:a+b"


def test_another_node() -> None:
    """A cluster's other nodes are reached with the same user, TLS and database."""
    found = parse("rediss://u:p@seed:1/0?ssl_ca_certs=/ca.pem")
    assert found.url(("other", 7)) == "rediss://u:p@other:7/0?ssl_ca_certs=%2Fca.pem"
    assert found.url(("::1", 7)) == "rediss://u:p@[::1]:7/0?ssl_ca_certs=%2Fca.pem"


def test_our_parameters() -> None:
    """The store's own parameters."""
    found = parse("redis://h?prefix=a&shards=4&durability=everysec&eviction=never&timeout=2.5")
    assert (found.prefix, found.shards, found.durable, found.keeps, found.timeout) == (
        "a",
        4,
        False,
        True,
        2.5,
    )
    assert (parse("redis://h").durable, parse("redis://h").keeps) == (True, False)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://u:hidden@a:1,b:2/0", "several hosts; name one"),
        ("redis://u:hidden@h:x", "port is no number"),
        ("redis://u:hidden@h:0", "port is no number"),
        ("redis://u:hidden@::1", "in brackets"),
        ("redis://u:hid/den@h", "%2F"),
        ("redis://u:hidden@h/x", "database"),
        ("redis://u:hidden@h?timeout=soon", "timeout are numbers"),
        ("redis://u:hidden@h?db", "no value"),
        ("redis://u:hidden@h?socket_timeout=1", r"\?socket_timeout= is unknown; there are prefix"),
        ("redis://u:hidden@h?durability=never", "aof and everysec"),
        ("redis://u:hidden@h?eviction=always", "checked and never"),
        ("redis://u:hidden@h?prefix={a}", "braces"),
        ("redis://u:hidden@h?shards=0", "1 to 1024"),
    ],
)
def test_what_is_refused(url: str, message: str) -> None:
    """What is wrong is one line that names it and no password."""
    with pytest.raises(StoreMisconfigured, match=message) as caught:
        parse(url)
    assert "hidden" not in str(caught.value)
    assert "hid/den" not in str(caught.value)
