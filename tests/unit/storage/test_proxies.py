"""Proxies of the environment: none to this machine, the one that it names to any other."""

import pytest

from tidings.storage.proxies import by_way_of, calls_this_machine, is_loopback, proxy_for

PROXY = "http://user:pass-word@proxy.example:3128"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/x",
        "https://127.9.9.9",
        "http://localhost:1",
        "http://LOCALHOST.",
        "http://app.localhost",
        "http://[::1]:8080",
        "http://[::ffff:127.0.0.1]:80",
    ],
)
def test_this_machine_is_called_directly(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Whatever the environment names, a loopback address is called without a proxy."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, PROXY)
    assert calls_this_machine(url)
    assert proxy_for(url) is None
    assert by_way_of(url) == ""


@pytest.mark.parametrize(
    ("names", "url", "proxy"),
    [
        ({"HTTP_PROXY": PROXY}, "http://example.com", PROXY),
        ({"http_proxy": "proxy:1"}, "http://example.com", "http://proxy:1"),
        ({"HTTP_PROXY": PROXY}, "https://example.com", None),
        ({"HTTPS_PROXY": PROXY}, "https://example.com", PROXY),
        ({"ALL_PROXY": PROXY}, "https://example.com", PROXY),
        ({"ALL_PROXY": PROXY, "NO_PROXY": "example.com"}, "https://api.example.com", None),
        ({"ALL_PROXY": PROXY, "NO_PROXY": "*"}, "https://example.com", None),
        ({}, "https://example.com", None),
        ({"ALL_PROXY": PROXY}, "http://[not-an-address", None),
    ],
)
def test_others_are_called_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, names: dict[str, str], url: str, proxy: str | None
) -> None:
    """`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` count as other programs take them."""
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy
    said = by_way_of(url)
    assert bool(said) == (proxy is not None)
    assert "pass-word" not in said


def test_names_that_are_not_this_machine() -> None:
    """A name that only looks like the machine's own is another one."""
    assert not any(map(is_loopback, ("localhost.example", "127.0.0.1.example", "0.0.0.0", "")))
