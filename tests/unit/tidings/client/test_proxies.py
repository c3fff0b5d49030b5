"""The Python client where the environment names a proxy."""

from pathlib import Path

import pytest

from tests.support.tidings_process import serving
from tidings import Client, Unreachable

NAMES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY")


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "no proxy at all"])
async def test_a_service_on_this_machine_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """Requests and watches go to a loopback address directly, whatever proxy the environment names."""
    async with serving(tmp_path, {}) as service:
        for name in NAMES:
            monkeypatch.setenv(name, proxy)
        async with Client(service.url, timeout=5, patience=5) as client:
            assert (await client.list()).data == []
            async with client.watch("p1") as watch:
                await watch._connect()
                assert watch.connected


async def test_a_failure_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a call goes through a proxy and fails, the error says so, without the proxy's password."""
    for name in NAMES:
        monkeypatch.setenv(name, "http://user:pass-word@127.0.0.1:9")
    async with Client("http://tidings.invalid", timeout=2, patience=0) as client:
        with pytest.raises(Unreachable, match=r"by way of the proxy .*127\.0\.0\.1:9") as request:
            await client.get("p1")
        with pytest.raises(Unreachable, match="by way of the proxy") as watch:
            await anext(client.watch("p1"))
    assert "pass-word" not in f"{request.value} {watch.value}"
