"""Secrets as they are really pasted: what is understood, what is refused, and that none of it is shown."""

from pathlib import Path

import pytest

from tests.unit.tidings.config.test_settings import SECRET, error, given
from tidings.config.checks import check_serving, short_secrets
from tidings.config.settings import SettingsError
from tidings.storage.redaction import Redactor

LONG = "a-secret-of-more-than-thirty-two-bytes"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@pytest.mark.parametrize("provider", ["standard", "replicate", "openai", "gemini", "assemblyai"])
@pytest.mark.parametrize(
    ("pasted", "secrets"),
    [
        (f"v1,{SECRET}", (SECRET,)),
        (f"v1, {SECRET}", (SECRET,)),
        (f"v1,{SECRET}|v1,{OTHER}", (SECRET, OTHER)),
        (f"v1,{SECRET}, v1,{OTHER}", (SECRET, OTHER)),
        (f"{SECRET},v1,{OTHER}", (SECRET, OTHER)),
        (f" {SECRET}\n", (SECRET,)),
        (f"\ufeff{SECRET}\r\n", (SECRET,)),
    ],
)
def test_the_version_of_a_signature_is_no_secret(
    provider: str, pasted: str, secrets: tuple[str, ...]
) -> None:
    """`v1,whsec_...`, as Supabase hands it out, is one secret; white space at its ends does not count."""
    settings = given({f"TIDINGS_{provider.upper()}_SECRET": pasted})
    assert settings.providers[provider].secret == secrets


def test_the_file_takes_the_same_forms(tmp_path: Path) -> None:
    """In the file a list of secrets is read like the variable, and a byte-order mark is passed over."""
    from tidings.config.loader import load_settings

    text = (
        f'port = 1\njwt-secret = " {LONG}\\n"\n[replicate]\nsecret = ["v1,{SECRET} ", "{OTHER}"]\n'
    )
    (tmp_path / "tidings.toml").write_text(text, encoding="utf-8-sig")
    settings = load_settings(environ={}, folder=tmp_path)
    assert (settings.port, settings.jwt_secret) == (1, LONG)
    assert settings.providers["replicate"].secret == (SECRET, OTHER)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("TIDINGS_JWT_SECRET", "a" * 31, 32),
        ("TIDINGS_WEBHOOK_KEY", "x" * 23, 24),
        ("TIDINGS_REPLICATE_SECRET", "test", 24),
        ("TIDINGS_STANDARD_SECRET", "whsec_dGVzdA==", 24),
        ("TIDINGS_OPENAI_SECRET", "whsec_dGVzdA==", 24),
        ("TIDINGS_GEMINI_SECRET", "v1,whsec_dGVzdA==", 24),
    ],
)
def test_a_short_secret_is_refused_by_name(name: str, value: str, least: int) -> None:
    """What guards something has a least length, wherever it is served; the message does not repeat it."""
    line = error({name: value})
    assert name in line
    assert f"{least} or more" in line
    assert value not in line


@pytest.mark.parametrize(
    "name", ["TIDINGS_API_KEYS", "TIDINGS_LUMA_SECRET", "TIDINGS_OPENAI_SECRET"]
)
def test_a_short_word_is_refused_where_others_reach_it(name: str) -> None:
    """A word without a standard's least length may be short on loopback, where it is told, and nowhere else."""
    keys = {} if name == "TIDINGS_API_KEYS" else {"TIDINGS_JWT_SECRET": LONG}
    here = given({name: "word", **keys})
    assert short_secrets(here) == [name]
    check_serving(here)
    with pytest.raises(SettingsError, match=f"{name}: has a secret of fewer than 24 bytes"):
        check_serving(given({name: f"{LONG},word", **keys, "TIDINGS_HOST": "0.0.0.0"}))
    check_serving(given({name: LONG, **keys, "TIDINGS_HOST": "0.0.0.0"}))


@pytest.mark.parametrize(
    "name",
    [
        "TIDINGS_REPLICATE_TOKEN",
        "TIDINGS_CLOUDFLARE_TOKEN",
        "TIDINGS_WORKER_TOKEN",
        "TIDINGS_API_KEYS",
    ],
)
@pytest.mark.parametrize("value", ["\u201cr8_abc\u201d", "r8_a\nbc", "r8_\x00abc", "r8_äbc"])
def test_what_cannot_be_a_header_is_refused_by_name(name: str, value: str) -> None:
    """A credential that no header can carry stops the start in one line, which does not repeat it."""
    line = error({name: value})
    assert line.startswith(f"{name}: ")
    assert "r8_" not in line


@pytest.mark.parametrize("name", ["TIDINGS_JWT_SECRET", "TIDINGS_STORE", "TIDINGS_LUMA_SECRET"])
def test_a_line_break_within_a_value_is_refused(name: str) -> None:
    """A value that was copied with a line break in its middle is refused by name."""
    line = error({name: "memory://a-secret-of-more\nthan-thirty-two-bytes"})
    assert line.startswith(f"{name}: has a control character")
    assert "thirty" not in line


def test_a_log_can_know_every_secret() -> None:
    """The settings give every secret by its value, passwords in URLs among them."""
    settings = given(
        {
            "TIDINGS_STORE": "postgresql://u:pass%2Fword@h/x",
            "TIDINGS_LOG": "kafka://u:kafka-word@h:1?sasl_plain_password=plain-word",
            "TIDINGS_JWT_SECRET": LONG,
            "TIDINGS_API_KEYS": "first-key,second-key",
            "TIDINGS_WEBHOOK_KEY": LONG[::-1],
            "TIDINGS_CLOUDFLARE_TOKEN": "cloudflare-token",
            "TIDINGS_REPLICATE_TOKEN": "replicate-token",
            "TIDINGS_REPLICATE_SECRET": SECRET,
        }
    )
    secrets = set(settings.secrets())
    assert secrets >= {
        *("pass/word", "pass%2Fword", "kafka-word", "plain-word", LONG, LONG[::-1]),
        *("first-key", "second-key", "cloudflare-token", "replicate-token", SECRET),
    }
    redactor = Redactor(secrets)
    for secret in secrets:
        assert secret not in redactor.text(f"no broker takes {secret} for ever")


LINKS = {
    "SERVICE_HOST": "10.0.0.7",
    "SERVICE_PORT": "8080",
    "SERVICE_PORT_HTTP": "8080",
    "PORT": "tcp://10.0.0.7:8080",
    "PORT_8080_TCP": "tcp://10.0.0.7:8080",
    "PORT_8080_TCP_PROTO": "tcp",
    "PORT_8080_TCP_PORT": "8080",
    "PORT_8080_TCP_ADDR": "10.0.0.7",
    "PORT_53_UDP": "udp://10.0.0.7:53",
}


@pytest.mark.parametrize("service", ["TIDINGS", "TIDINGS_GATEWAY", "TIDINGS_JWT", "TIDINGS_V2_API"])
def test_links_of_kubernetes_services_are_not_settings(service: str) -> None:
    """What Kubernetes puts into the environment for a Service of our name is passed over."""
    assert given({f"{service}_{name}": value for name, value in LINKS.items()}).port == 8080


def test_other_names_are_still_unknown() -> None:
    """A misspelled setting is refused although it looks a little like a link, and so is a wrong port."""
    assert "is not a setting" in error({"TIDINGS_SERVICE_HOSTS": "x"})
    assert "is not a setting" in error({"TIDINGS_GATEWAY_PORT": "8080"})
    assert error({"TIDINGS_PORT": "tcp"}).startswith("TIDINGS_PORT: ")
