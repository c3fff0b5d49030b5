"""URLs as hosters, libpq and other drivers' users write them mean here what they mean there, or say why not."""

import ctypes
import ctypes.util
import ssl
from pathlib import Path

import pytest

from tidings.storage.errors import StoreMisconfigured
from tidings.storage.postgres import address
from tidings.storage.postgres.address import Host, parse

KNOWN = address.PASSED_ON | address.TRANSLATED | address.LEFT_OUT | address.REFUSED

LIBPQ_18 = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "require_auth",
    "channel_binding",
    "connect_timeout",
    "client_encoding",
    "options",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "replication",
    "gssencmode",
    "sslmode",
    "requiressl",
    "sslnegotiation",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslkeylogfile",
    "sslpassword",
    "sslcertmode",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "requirepeer",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "min_protocol_version",
    "max_protocol_version",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "target_session_attrs",
    "load_balance_hosts",
    "oauth_issuer",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_scope",
]


class _Option(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label")),
        ("dispchar", ctypes.c_char_p),
        ("dispsize", ctypes.c_int),
    ]


@pytest.mark.parametrize("name", LIBPQ_18)
def test_every_parameter_of_libpq_is_judged(name: str) -> None:
    """Each of libpq's key words is passed on, translated, left out or refused.

    None reaches the server by accident.
    """
    assert name in KNOWN
    if name in address.REFUSED:
        with pytest.raises(StoreMisconfigured, match=name):
            parse(f"postgresql://u:p@h/d?{name}=1")


def test_the_library_on_this_machine_has_no_other_parameters() -> None:
    """Where libpq is installed its own list is the measure, so that a newer one is noticed."""
    path = ctypes.util.find_library("pq")
    if path is None:
        pytest.skip("no libpq here")
    library = ctypes.CDLL(path)
    library.PQconndefaults.restype = ctypes.POINTER(_Option)
    options = library.PQconndefaults()
    names: list[str] = []
    while options[len(names)].keyword is not None:
        names.append(options[len(names)].keyword.decode())
    # Only debug builds and replication clients know these two.
    assert set(names) - KNOWN - {"authtype", "tty"} == set()


@pytest.mark.parametrize(
    ("url", "mode", "statements"),
    [
        # Neon
        (
            "postgresql://u:npg_a@ep-x-pooler.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
            "require",
            100,
        ),
        ("postgresql://u:p@ep-x.neon.tech/neondb?channel_binding=require", "require", 100),
        # Supabase, with and without the words for Prisma and Vercel
        ("postgresql://postgres.ref:p@aws-0-eu.pooler.supabase.com:5432/postgres", "", 100),
        (
            "postgres://postgres.ref:p@x.pooler.supabase.com:6543/postgres?pgbouncer=true&connection_limit=1&supa=x",
            "",
            0,
        ),
        (
            "postgres://u:p@h:6543/d?workaround=supabase-pooler.vercel&sslmode=require",
            "require",
            100,
        ),
        # Heroku, as node-postgres has it
        (
            "postgres://u:p@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d9?sslmode=no-verify",
            "require",
            100,
        ),
        # RDS
        (
            "postgresql://u:p@x.rds.amazonaws.com/d?sslmode=verify-full&sslrootcert=/global-bundle.pem&connect_timeout=10",
            "verify-full",
            100,
        ),
        # Azure
        (
            "postgresql://u%40server:p@server.postgres.database.azure.com:5432/d?sslmode=require",
            "require",
            100,
        ),
        (
            "postgresql://u:p@h/d?ssl=true&gssencmode=disable&keepalives=1&keepalives_idle=30",
            "require",
            100,
        ),
        # Cloud SQL, by its socket
        ("postgresql://u:p@/d?host=/cloudsql/project:region:instance", "", 100),
        # JDBC, Rails
        ("postgresql://u:p@h/d?prepareThreshold=0&ssl=true", "require", 0),
        ("postgresql://u:p@h/d?prepared_statements=false", "", 0),
    ],
)
def test_what_hosters_hand_out(url: str, mode: str, statements: int) -> None:
    """Nothing that only another client understands is left for the server to refuse.

    What it means is kept.
    """
    found = parse(url)
    assert found.settings == {"application_name": "tidings"}
    assert (f"sslmode={mode}" in found.dsn) == bool(mode)
    assert found.statements == statements
    assert "channel_binding" not in found.dsn


@pytest.mark.parametrize(
    ("url", "hosts", "shown"),
    [
        ("postgresql://u:p@a:1,b:2/d", [("a", 1), ("b", 2)], "postgresql://a:1,b:2/d"),
        ("postgresql://u:p@a,b/d?port=6", [("a", 6), ("b", 6)], "postgresql://a:6,b:6/d"),
        ("postgresql://u:p@a,b:7/d", [("a", None), ("b", 7)], "postgresql://a,b:7/d"),
        ("postgresql:///d?host=a,b&port=1,2", [("a", 1), ("b", 2)], "postgresql://a:1,b:2/d"),
        ("postgresql://u@[::1]:5433/d", [("::1", 5433)], "postgresql://[::1]:5433/d"),
        (
            "postgresql://[fe80::1],h/d",
            [("fe80::1", None), ("h", None)],
            "postgresql://[fe80::1],h/d",
        ),
        (
            "postgresql://%2Frun%2Fpostgresql/d",
            [("/run/postgresql", None)],
            "postgresql:///run/postgresql/d",
        ),
        (
            "postgresql:///d?host=/run/postgresql",
            [("/run/postgresql", None)],
            "postgresql:///run/postgresql/d",
        ),
        ("postgresql:///d?hostaddr=10.0.0.1", [("10.0.0.1", None)], "postgresql://10.0.0.1/d"),
        ("postgresql://h/d?hostaddr=10.0.0.1", [("h", None)], "postgresql://h/d"),
        ("postgresql://", [], "postgresql://localhost/"),
    ],
)
def test_hosts(url: str, hosts: list[tuple[str, int | None]], shown: str) -> None:
    """Several hosts, IPv6, sockets, and hosts among the parameters.

    With several a writable one is wanted.
    """
    found = parse(url)
    assert found.hosts == tuple(Host(*one) for one in hosts)
    assert found.shown == shown
    assert found.attributes == ("read-write" if len(hosts) > 1 else "any")
    assert (
        parse(url + ("&" if "?" in url else "?") + "target_session_attrs=primary").attributes
        == "primary"
    )


@pytest.mark.parametrize(
    ("password", "escaped"),
    [("a+b", "a+b"), ("a@b/c:d?e#f", "a%40b%2Fc%3Ad%3Fe%23f"), ("ü 100%", "%C3%BC%20100%25")],
)
def test_passwords(password: str, escaped: str) -> None:
    """Whatever a password consists of reaches the driver as it is, and no line shows it."""
    from urllib.parse import unquote

    found = parse(f"postgresql://us%40er:{escaped}@h/d")
    user, _, sent = found.dsn.removeprefix("postgresql://").partition("@")[0].partition(":")
    assert (unquote(user), unquote(sent)) == ("us@er", password)
    assert password not in found.shown
    in_query = parse(f"postgresql://h/d?user=u&password={escaped.replace('+', '%2B')}")
    assert unquote(in_query.dsn.partition("password=")[2].partition("&")[0]) == password


def test_settings_of_the_server() -> None:
    """The application's name, `options` and the server's own settings go to the server, where `+` is a plus."""
    found = parse("postgresql://h/d?options=endpoint%3Dep-x&TimeZone=UTC%2B1&application_name=mine")
    assert found.settings == {
        "application_name": "mine",
        "options": "endpoint=ep-x",
        "TimeZone": "UTC+1",
    }
    assert parse("postgresql://h/d?fallback_application_name=other").settings == {
        "application_name": "other"
    }
    assert (
        parse("postgresql://h/d?options=-csearch_path=a+b").settings["options"]
        == "-csearch_path=a+b"
    )


def test_limits() -> None:
    """The store's own parameters, and libpq's time for connecting; 0 there means the default."""
    found = parse(
        "postgresql://h/d?schema=s&pool=3&timeout=2.5&statement_cache_size=7&connect_timeout=9"
    )
    assert (found.schema, found.pool, found.timeout, found.statements) == ("s", 3, 2.5, 7)
    assert found.connect_timeout == 9
    assert parse("postgresql://h/d?connect_timeout=0&connection_limit=2").pool == 2
    assert parse("postgresql://h/d?connect_timeout=0").connect_timeout == address.TIMEOUT


def test_the_systems_certificates(tmp_path: Path) -> None:
    """`sslrootcert=system` checks the host's name against what the machine trusts, as libpq 16 does."""
    from tidings.storage.postgres.connector import _system_context

    found = parse("postgresql://h/d?sslrootcert=system")
    assert found.system_roots
    assert "sslmode=verify-full" in found.dsn
    context = _system_context(found)
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    own = parse(
        f"postgresql://h/d?sslrootcert=system&sslcert={tmp_path}/c&sslkey={tmp_path}/k&sslpassword=p"
    )
    assert own.certificate == (f"{tmp_path}/c", f"{tmp_path}/k", "p")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u:hidden@h:x/d", "no host:port"),
        ("postgresql://u:hidden@h:99999/d", "99999 is no port"),
        ("postgresql://u:hidden@a,b,c/d?port=1,2", "3 hosts and 2 ports"),
        ("postgresql://u:hidden@h/d?sslmode", "no value"),
        ("postgresql://u:hid/den@h/d", "%2F"),
        ("postgresql://u:hidden@h/d?pool=many", "pool=many is no number"),
        ("postgresql://u:hidden@h/d?pool=0", "above 0"),
        ("postgresql://u:hidden@h/d?timeout=-1", "above 0"),
        ("postgresql://u:hidden@h/d?target_session_attrs=writable", "there are any, primary"),
        ("postgresql://u:hidden@h/d?gssencmode=require", "gssencmode=require"),
        ("postgresql://u:hidden@h/d?replication=database", "replication"),
        (
            "postgresql://u:hidden@h/d?sslrootcert=system&sslmode=require",
            "verify-full, not with require",
        ),
    ],
)
def test_what_is_refused(url: str, message: str) -> None:
    """What is wrong, or cannot be kept, is one line that names it and no password."""
    with pytest.raises(StoreMisconfigured, match=message) as caught:
        parse(url)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)
