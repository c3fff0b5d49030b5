"""Settings: where they come from, what they may say, and what a wrong one is answered with."""

import stat
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tidings.config.checks import check_serving
from tidings.config.loader import env_name, load_settings
from tidings.config.settings import FIELDS, NAMES, Settings, SettingsError, sqlite_path
from tidings.config.validators import masked_url
from tidings.config.webhook_key import with_webhook_key
from tidings.storage.errors import StoreMisconfigured
from tidings.storage.legacy_environment import selected_url
from tidings.storage.proxies import is_loopback

KEY = "a-key-of-more-than-thirty-two-bytes"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def error(environ: dict[str, str] | None = None, **more: object) -> str:
    """The one line that these settings are refused with."""
    given: Any = {"folder": Path("/nowhere"), **more}
    with pytest.raises(SettingsError) as caught:
        load_settings(given.pop("flags", None), environ=environ or {}, **given)
    line = str(caught.value)
    assert "\n" not in line
    return line


def given(environ: dict[str, str]) -> Settings:
    return load_settings(environ=environ, folder=Path("/nowhere"))


def test_defaults() -> None:
    """With nothing set, everything runs in one process on SQLite under `data`, on loopback."""
    settings = given({})
    assert (settings.host, settings.port, settings.everything) == ("127.0.0.1", 8080, True)
    assert (settings.log, settings.store) == ("sqlite:///data/log.db", "sqlite:///data/store.db")
    assert (settings.ttl, settings.ttl_running, settings.retention, settings.partitions) == (
        3600,
        604800,
        604800,
        12,
    )
    assert (settings.max_body, settings.record_max, settings.strict) == (10485760, 524288, False)
    assert (settings.cache_ttl, settings.cache_records, settings.cache_bytes) == (
        30,
        100000,
        67108864,
    )
    assert (settings.assets, settings.archive, settings.assets_ttl) == (
        "file:///data/assets",
        "after",
        0,
    )
    assert settings.data_folder == Path("data")
    check_serving(settings)


def test_every_setting_can_be_set_by_its_variable() -> None:
    """Each field of the settings has a variable that is taken."""
    values = {
        "role": "gateway",
        "log": "kafka://a:9092",
        "store": "memory://",
        "store_fallback": "memory://",
        "store_split": "memory://=10",
        "assets": "file:///x",
        "archive": "off",
        "prediction_storage_provider": "do",
        "allowed_origins": "https://a.example",
        "trusted_proxies": "10.0.0.0/8",
        "assets_allow": "localhost:9",
        "anonymous": "1",
        "strict": "on",
        "require_strong_consistency": "true",
        "optimize_for_throughput": "false",
        "jwt_secret": "s" * 32,
        "webhook_key": "k" * 24,
        "traces": "http://a:4318",
        "trace_sample": "0.5",
        "text_flush": "0.2",
        "timeouts": "replicate=600,*=3600",
        "notify": "https://a.example/hook",
        "notify_secret": "whsec_" + "QUJD" * 8,
        "notify_events": "failed",
        "log_operations": "1",
        "notify_allow": "localhost:9",
        "role_scopes": "editor=write",
        "issuers": '[{"issuer": "https://a.example/", "jwks_url": "https://a.example/keys"}]',
    }
    numbers = {name for name, field in FIELDS.items() if field.type in (int, float)}
    for name in NAMES:
        text = values.get(
            name,
            "2048" if name in numbers else "https://a.example" if name.endswith("url") else "x",
        )
        assert (
            getattr(given({env_name(name): text, "TIDINGS_STORE": values["store"]}), name) != ()
        ), name


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Of several places the flag counts first, then the variable, then the file, then the default."""
    file = tmp_path / "tidings.toml"
    file.write_text('port = 1\nhost = "localhost"\nttl = 5\nlog-epoch = 3\n')
    settings = load_settings(
        {"port": "3", "host": None},
        environ={"TIDINGS_PORT": "2", "TIDINGS_TTL": "7"},
        folder=tmp_path,
    )
    assert (settings.port, settings.ttl, settings.host, settings.log_epoch, settings.max_body) == (
        3,
        7,
        "localhost",
        3,
        10485760,
    )
    assert settings.origins == {
        "port": "--port",
        "ttl": "TIDINGS_TTL",
        "host": f"{file}: host",
        "log_epoch": f"{file}: log-epoch",
    }


def test_a_named_file_is_read_instead(tmp_path: Path) -> None:
    """`--config` names the file; the one in the working folder is left alone then."""
    (tmp_path / "tidings.toml").write_text("port = 1\n")
    other = tmp_path / "other.toml"
    other.write_text(
        f'port = 9\n[jwt]\nsecret = "{KEY}"\n[providers.replicate]\nsecret = ["{SECRET}"]\ntolerance = 60\n'
    )
    settings = load_settings(environ={}, config=other, folder=tmp_path)
    assert (settings.port, settings.jwt_secret) == (9, KEY)
    assert settings.providers["replicate"].secret == (SECRET,)
    assert settings.providers["replicate"].tolerance == 60


def test_lists_and_provider_names() -> None:
    """Comma lists are lists; a provider's variables land with that provider, several secrets among them."""
    settings = given(
        {
            "TIDINGS_ROLE": "gateway, processor",
            "TIDINGS_API_KEYS": "a,b,,c",
            "TIDINGS_ALLOWED_ORIGINS": "https://A.example:443/,capacitor://localhost,null",
            "TIDINGS_TRUSTED_PROXIES": "10.0.0.1, fd00::/8",
            "TIDINGS_REPLICATE_SECRET": f"{SECRET},{SECRET.rstrip('=')}",
            "TIDINGS_REPLICATE_TOKEN": "r8",
            "TIDINGS_REPLICATE_URL": "http://127.0.0.1:9/",
        }
    )
    assert settings.roles == {"gateway", "processor"}
    assert settings.api_keys == ("a", "b", "c")
    assert settings.allowed_origins == ("https://a.example", "capacitor://localhost", "null")
    assert settings.trusted_proxies == ("10.0.0.1/32", "fd00::/8")
    replicate = settings.providers["replicate"]
    assert (len(replicate.secret), replicate.token, replicate.url) == (
        2,
        "r8",
        "http://127.0.0.1:9",
    )


def test_providers_that_the_file_describes(tmp_path: Path) -> None:
    """A table may describe a sender of one's own; its secret may come from the environment under its name."""
    (tmp_path / "tidings.toml").write_text(
        '[providers.my-shop]\nkind = "generic"\nproof = "sha256"\n[providers.my-shop.fields]\nid = "order.id"\n'
        '[assemblyai]\nheader = "x-mine"\nsecret = "s"\n'
    )
    settings = load_settings(environ={"TIDINGS_MY_SHOP_SECRET": "quiet"}, folder=tmp_path)
    mine = settings.providers["my-shop"]
    assert (mine.kind, mine.secret) == ("generic", ("quiet",))
    assert mine.options == {"proof": "sha256", "fields": {"id": "order.id"}}
    assert settings.providers["assemblyai"].options == {"header": "x-mine"}


def test_test_names_and_empty_values_are_ignored() -> None:
    """`TIDINGS_TEST_*` is for tests, an empty variable is as good as none, and so are other programs' variables."""
    environ = {
        "TIDINGS_TEST_KAFKA": "x",
        "TIDINGS_PORT": "",
        "TIDINGS_NONSENSE": "",
        "PORT": "1",
        "tidings_port": "1",
    }
    assert given(environ) == given({})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TIDINGS_PROT", "1", "did you mean TIDINGS_PORT?"),
        ("TIDINGS_REPLICAET_SECRET", "x", "did you mean TIDINGS_REPLICATE_SECRET?"),
        ("TIDINGS_XYZZY", "x", "tidings doctor"),
        ("TIDINGS_PORT", "abc", "'abc' does not fit; expected a whole number"),
        ("TIDINGS_PORT", "65536", "<= 65535"),
        ("TIDINGS_PARTITIONS", "0", ">= 1"),
        ("TIDINGS_TTL", "-1", ">= 0"),
        ("TIDINGS_OWNER_MESSAGES", "0", ">= 1"),
        ("TIDINGS_ADDRESS_CONECTIONS", "5", "did you mean TIDINGS_ADDRESS_CONNECTIONS?"),
        ("TIDINGS_TRACES", "collector:4318", "is not a URL"),
        ("TIDINGS_TRACES", "grpc://collector:4317", "use one of https://, http://"),
        ("TIDINGS_TRACE_SAMPLE", "1.5", "<= 1"),
        ("TIDINGS_ROLE", "gatway", "gateway, processor, archiver, reconciler, notifier"),
        ("TIDINGS_ROLE", "all,gateway", "name it alone"),
        ("TIDINGS_ARCHIVE", "later", "after, before, off"),
        ("TIDINGS_STRICT", "maybe", "neither on nor off"),
        ("TIDINGS_LOG", "data/log.db", "is not a URL"),
        ("TIDINGS_LOG", "rabbit://x", "sqlite://, kafka://, memory://"),
        ("TIDINGS_LOG", "kafka://", "names no broker"),
        ("TIDINGS_LOG", "kafka://a:9092,b", "'b' is not a broker's host:port"),
        ("TIDINGS_LOG", "kafka://a:99999", "not a broker's host:port"),
        ("TIDINGS_LOG", "sqlite://data/log.db", "sqlite:///data/log.db"),
        ("TIDINGS_LOG", "sqlite:///data/", "names no file"),
        ("TIDINGS_STORE", "sqlite:///data/log.db", "give the store its own"),
        ("TIDINGS_STORE", "postgrs://h/x", "postgresql://"),
        ("TIDINGS_STORE", "redis://", "names no host"),
        ("TIDINGS_STORE", "redis://h:port", "port"),
        ("TIDINGS_STORE", "cloudflare-kv://account", "ACCOUNT/NAMESPACE"),
        ("TIDINGS_STORE_SPLIT", "memory://", "URL=10"),
        ("TIDINGS_STORE_SPLIT", "memory://=101", "URL=10"),
        ("TIDINGS_PUBLIC_URL", "example.com", "is not a URL"),
        ("TIDINGS_ASSETS", "file://data", "three slashes"),
        ("TIDINGS_ALLOWED_ORIGINS", "https://a.example/path", "https://a.example"),
        ("TIDINGS_ALLOWED_ORIGINS", "a.example", "capacitor://localhost"),
        ("TIDINGS_TRUSTED_PROXIES", "10.0.0.0/99", "network"),
        ("TIDINGS_ASSETS_ALLOW", "localhost", "host:port"),
        ("TIDINGS_REPLICATE_TOLERANCE", "soon", "expected a number"),
        ("TIDINGS_REPLICATE_SECRET", "whsec_", "TIDINGS_REPLICATE_SECRET"),
        ("TIDINGS_REPLICATE_SECRET", "whsec_n!ot-base64", "TIDINGS_REPLICATE_SECRET"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, says: str) -> None:
    """What is wrong stops the start with one line that names the setting and says what would be right."""
    line = error({name: value})
    assert name.removesuffix("_SECRET") in line or "TIDINGS_STORE" in line
    assert says in line


def test_a_secret_is_never_repeated() -> None:
    """Neither a message nor a `repr` shows a secret, a token, or a password in a URL."""
    assert "n!ot" not in error({"TIDINGS_REPLICATE_SECRET": "whsec_n!ot-base64"})
    assert "hidden" not in error({"TIDINGS_STORE": "postgrs://u:hidden@h/x"})
    settings = given(
        {
            "TIDINGS_STORE": "postgresql://u:hidden@h/x",
            "TIDINGS_LOG": "kafka://u:hidden@h:1?sasl_plain_password=hidden&security_protocol=SSL",
            "TIDINGS_JWT_SECRET": "hidden" * 6,
            "TIDINGS_API_KEYS": "hidden,hidden2",
            "TIDINGS_WEBHOOK_KEY": "hidden" * 6,
            "TIDINGS_CLOUDFLARE_TOKEN": "hidden",
            "TIDINGS_WORKER_TOKEN": "hidden",
            "TIDINGS_REPLICATE_TOKEN": "hidden",
            "TIDINGS_REPLICATE_SECRET": "hidden" * 6,
        }
    )
    assert "hidden" not in repr(settings)
    assert "security_protocol=SSL" in repr(settings)


def test_masking_leaves_the_rest_of_a_url_alone() -> None:
    """Only the secret part of a URL is struck out."""
    assert masked_url("sqlite:///data/store.db") == "sqlite:///data/store.db"
    assert masked_url("sqlite:////abs/x.db") == "sqlite:////abs/x.db"
    assert (
        masked_url("redis://:pw@h:1/0?a=b&token=x") == "redis://:********@h:1/0?a=b&token=********"
    )


def test_file_faults_are_named(tmp_path: Path) -> None:
    """A missing file, one that is no TOML, and an unknown key in it are each named with the file."""
    assert "missing.toml cannot be read" in error(config=tmp_path / "missing.toml")
    file = tmp_path / "tidings.toml"
    for content, says in [
        ("port = = 1", "is not TOML"),
        ("prot = 1", "prot: is not a setting; did you mean port?"),
        ("[jwt]\nsecrt = 'x'", "jwt_secrt: is not a setting; did you mean jwt_secret?"),
        (
            "[providers.replicate]\nsecrt = 'x'",
            "providers.replicate.secrt: is not a setting; a provider has",
        ),
        ("[replicate]\nsecret = 'x'\n[providers.replicate]\nsecret = 'x'", "keep one of them"),
        ("[providers.replicate]\nkind = 1", "takes the name of a provider"),
        ("[providers.mine]\nkind = 'nobody'", "mine.kind: there is no provider 'nobody'"),
        ("[providers.nobody]\nsecret = 'x'", "there is no provider 'nobody'"),
        ("port = [1]", "port: [1] does not fit"),
        ("role = [1]", "takes a list of texts"),
        ("providers = 1", "takes a table for each provider"),
    ]:
        file.write_text(content)
        line = error(config=file)
        assert str(file) in line
        assert says in line


def test_the_original_selection() -> None:
    """Where no store is set, the original design's variables choose: provider, development, consistency, throughput."""
    account = {
        "TIDINGS_CLOUDFLARE_ACCOUNT": "a",
        "TIDINGS_CLOUDFLARE_NAMESPACE": "n",
        "TIDINGS_CLOUDFLARE_TOKEN": "t",
    }
    worker = {"TIDINGS_WORKER_URL": "https://w.example"}
    kv, do = "cloudflare-kv://a/n", "durable-objects://w.example"
    for chosen, store in [
        ({"PREDICTION_STORAGE_PROVIDER": "kv", "REQUIRE_STRONG_CONSISTENCY": "true"}, kv),
        ({"PREDICTION_STORAGE_PROVIDER": "do", "TIDINGS_ENV": "development"}, do),
        ({"TIDINGS_ENV": "development", "REQUIRE_STRONG_CONSISTENCY": "true"}, kv),
        ({"TIDINGS_ENV": "production", "REQUIRE_STRONG_CONSISTENCY": "true"}, do),
        ({"TIDINGS_ENV": "production"}, kv),
        ({"OPTIMIZE_FOR_THROUGHPUT": "true"}, kv),
        ({"REQUIRE_STRONG_CONSISTENCY": "true", "OPTIMIZE_FOR_THROUGHPUT": "true"}, do),
        ({"REQUIRE_STRONG_CONSISTENCY": "false"}, kv),
        ({}, "sqlite:///data/store.db"),
        ({"TIDINGS_STORE": "memory://", "PREDICTION_STORAGE_PROVIDER": "do"}, "memory://"),
    ]:
        assert given({**chosen, **account, **worker}).store == store, chosen
    assert (
        given({"TIDINGS_ENV": "x", "TIDINGS_WORKER_URL": "http://l:8"}).store
        == "cloudflare-kv+worker+http://l:8"
    )
    assert "TIDINGS_WORKER_URL" in error({"PREDICTION_STORAGE_PROVIDER": "do"})
    assert "TIDINGS_CLOUDFLARE_ACCOUNT" in error({"TIDINGS_ENV": "production"})
    assert "TIDINGS_CLOUDFLARE_TOKEN" in error({"TIDINGS_STORE": "cloudflare-kv://a/n"})
    assert "PREDICTION_STORAGE_PROVIDER" in error({"PREDICTION_STORAGE_PROVIDER": "s3"})


def test_the_library_selects_as_the_settings_do() -> None:
    """Whatever the original design's names say, the library's function and the settings come out at the same store."""
    choices: dict[str, tuple[str, ...]] = {
        "PREDICTION_STORAGE_PROVIDER": ("", "kv", "DO", "s3"),
        "REQUIRE_STRONG_CONSISTENCY": ("", " true", "off", "maybe"),
        "OPTIMIZE_FOR_THROUGHPUT": ("", "1", "maybe"),
        "TIDINGS_ENV": ("", "Development", "production"),
        "TIDINGS_CLOUDFLARE_ACCOUNT": ("", "a"),
        "TIDINGS_CLOUDFLARE_NAMESPACE": ("n",),
        "TIDINGS_WORKER_URL": ("", "https://w.example/", "http://127.0.0.1:8/space"),
    }
    stores = set()
    for values in product(*choices.values()):
        environ = dict(zip(choices, values, strict=True))
        try:
            store = selected_url(environ)
        except StoreMisconfigured:
            error({**environ, "TIDINGS_CLOUDFLARE_TOKEN": "t"})
        else:
            assert given({**environ, "TIDINGS_CLOUDFLARE_TOKEN": "t"}).store == (
                store or Settings().store
            ), environ
            stores.add(store)
    assert len(stores) == 6


def test_serving_everybody_has_to_be_asked_for() -> None:
    """Without authentication only loopback is served, unless `TIDINGS_ANONYMOUS` allows it."""
    for host in ("0.0.0.0", "::", "192.168.1.1", "tidings.example.com"):
        with pytest.raises(SettingsError, match=r"TIDINGS_HOST.*TIDINGS_ANONYMOUS=1"):
            check_serving(given({"TIDINGS_HOST": host}))
        check_serving(given({"TIDINGS_HOST": host, "TIDINGS_ANONYMOUS": "1"}))
        check_serving(given({"TIDINGS_HOST": host, "TIDINGS_JWT_SECRET": "s" * 32}))
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
        check_serving(given({"TIDINGS_HOST": host}))


def test_the_opaque_origin_needs_authentication() -> None:
    """Any page can be of the origin null: it is allowed only where tokens say who is there."""
    allowed = {"TIDINGS_ALLOWED_ORIGINS": "null"}
    with pytest.raises(SettingsError, match="TIDINGS_ALLOWED_ORIGINS"):
        check_serving(given(allowed))
    check_serving(given({**allowed, "TIDINGS_JWT_SECRET": "s" * 32}))


def test_roles_need_a_shared_key_and_a_shared_log() -> None:
    """Several processes need the same webhook key, and a log that all of them see."""
    with pytest.raises(SettingsError, match="TIDINGS_WEBHOOK_KEY"):
        check_serving(given({"TIDINGS_ROLE": "gateway"}))
    check_serving(given({"TIDINGS_ROLE": "gateway", "TIDINGS_WEBHOOK_KEY": "k" * 24}))
    assert "memory://" in error({"TIDINGS_ROLE": "gateway", "TIDINGS_LOG": "memory://"})
    assert "--workers" in error(flags={"workers": "2"})
    workers = {"workers": "2", "log": "kafka://localhost:9092"}
    assert load_settings(workers, environ={}, folder=Path("/nowhere")).workers == 2
    assert error(flags={**workers, "health_port": "0"}).startswith("--health-port: with --workers")


def test_the_webhook_key_is_made_once(tmp_path: Path) -> None:
    """The first start makes a key that only its user can read; later starts find the same."""
    settings = given({"TIDINGS_LOG": f"sqlite:///{tmp_path}/data/log.db"})
    first = with_webhook_key(settings).webhook_key
    assert first is not None
    assert len(first) == 64
    assert with_webhook_key(settings).webhook_key == first
    files = list((tmp_path / "data").iterdir())
    assert [file.name for file in files] == ["webhook.key"]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert with_webhook_key(given({"TIDINGS_WEBHOOK_KEY": "mine" * 6})).webhook_key == "mine" * 6
    files[0].write_text("k")
    with pytest.raises(SettingsError, match=r"webhook\.key is too short"):
        with_webhook_key(settings)
    files[0].write_text("")
    with pytest.raises(SettingsError, match=r"webhook\.key is empty"):
        with_webhook_key(settings)


def test_paths_of_sqlite_urls() -> None:
    """Three slashes are relative to the working folder, four absolute."""
    assert sqlite_path("sqlite:///data/x.db") == Path("data/x.db")
    assert sqlite_path("sqlite:////srv/x.db") == Path("/srv/x.db")
