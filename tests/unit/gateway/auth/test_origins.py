"""Origins of pages and packaged apps: equal by scheme, host and port, however they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.gateway.auth.origins import canonical_origin, names_host
from tidings.gateway.auth.rate_limits import TrustedProxies
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Problem


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("https://münchen.example", "https://xn--mnchen-3ya.example"),
        ("https://straße.example:8443", "https://xn--strae-oqa.example:8443"),
        ("http://[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("file://", "file://"),
        ("null", "null"),
        ("https://", None),
        ("https://a.example/path", None),
        ("https://a.example:0", None),
        ("https://a.example:65536", None),
        ("https://user@a.example", None),
        ("https://a.example, https://b.example", None),
        ("https://[::1", None),
        ("https://[nonsense]", None),
        ("a.example", None),
        ("1https://a.example", None),
        ("", None),
    ],
)
def test_an_origin_has_one_way_to_be_written(text: str, canonical: str | None) -> None:
    """Default ports go, names are in lower case and as browsers send them; what is none is told."""
    assert canonical_origin(text) == canonical
    if canonical is not None:
        assert canonical_origin(canonical) == canonical


@given(st.text(max_size=40))
def test_any_text_is_read_without_an_error(text: str) -> None:
    """Whatever a client sends as its origin or host is an origin or is not: nothing raises."""
    for origin in (text, f"https://{text}", f"https://[{text}]:443"):
        found = canonical_origin(origin)
        assert found is None or canonical_origin(found) == found
    names_host("https://app.example", text)


@pytest.mark.parametrize(
    ("host", "origin", "same"),
    [
        ("app.example", "https://app.example", True),
        ("app.example:443", "https://app.example", True),
        ("app.example:80", "http://app.example", True),
        ("app.example", "https://app.example:443", True),
        ("App.Example", "https://app.example", True),
        ("münchen.example", "https://xn--mnchen-3ya.example", True),
        ("[::1]:8080", "http://[0::1]:8080", True),
        ("app.example:8443", "https://app.example", False),
        ("app.example:443", "http://app.example", False),
        ("localhost", "capacitor://localhost", False),
        ("null", "null", False),
        ("", "file://", False),
        ("app.example.evil.example", "https://app.example", False),
    ],
)
def test_a_page_of_the_service_itself(host: str, origin: str, same: bool) -> None:
    """A page may use the service that it came from; one of another scheme, host or port may not."""
    assert refused(RequestGuard(allowed_hosts=None), {"host": host, "origin": origin}) is not same


def refused(guard: RequestGuard, headers: dict[str, str], peer: str = "192.0.2.1") -> bool:
    judged = guard.admit_websocket(headers, peer)
    assert not isinstance(judged, Problem) or judged.code == "foreign-origin"
    return isinstance(judged, Problem)


def test_a_trusted_proxy_tells_the_host() -> None:
    """`X-Forwarded-Host` counts from a trusted proxy alone, over IPv6 too; the first of a list."""
    guard = RequestGuard(allowed_hosts=None, trusted_proxies=TrustedProxies(["fd00::/8"]))
    forwarded = {
        "host": "inner:8080",
        "origin": "https://app.example",
        "x-forwarded-host": "app.example:443, inner",
    }
    assert not refused(guard, forwarded, "fd00::7")
    assert refused(guard, forwarded, "2001:db8::7")


@pytest.mark.parametrize(
    "origin", ["capacitor://localhost", "null", "file://", "https://münchen.example:443"]
)
def test_an_allowed_origin(origin: str) -> None:
    """What the settings name may use the service, as its browser writes it; nothing else may."""
    guard = RequestGuard(allowed_origins=frozenset({origin}), allowed_hosts=None)
    sent = canonical_origin(origin)
    assert sent is not None
    assert not refused(guard, {"host": "tidings.example", "origin": sent})
    assert guard.allows_origin(sent)
    assert refused(guard, {"host": "tidings.example", "origin": "https://other.example"})
    assert not guard.allows_origin("https://other.example")


def test_the_host_of_a_packaged_app_opens_no_name() -> None:
    """In open mode an app's origin lets no page elsewhere reach the service under the app's name."""
    guard = RequestGuard(allowed_origins=frozenset({"app://obsidian.md", "https://app.example"}))
    foreign = guard.admit_websocket({"host": "obsidian.md"}, "127.0.0.1")
    assert isinstance(foreign, Problem)
    assert foreign.code == "foreign-host"
    assert guard.admit_websocket({"host": "app.example"}, "127.0.0.1") is None
