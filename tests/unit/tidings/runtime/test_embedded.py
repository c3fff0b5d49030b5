"""The service inside another program."""

import signal
import socket
from pathlib import Path

import pytest

import tidings
from tests.support.command import tidings as tidings_command


async def test_a_program_runs_the_service_in_its_own_loop(tmp_path: Path) -> None:
    """Within the block the service serves; it takes over nothing of the process; afterwards the port is free."""
    handler = signal.getsignal(signal.SIGTERM)
    settings = tidings.Settings(
        port=0,
        log=f"sqlite:///{tmp_path}/log.db",
        store=f"sqlite:///{tmp_path}/store.db",
        assets=f"file:///{tmp_path}/assets",
    )
    async with tidings.service(settings) as running:
        assert signal.getsignal(signal.SIGTERM) is handler
        async with tidings.Client(f"http://127.0.0.1:{running.port}") as client:
            with pytest.raises(tidings.PredictionNotFound):
                await client.get("p1")
    async with tidings.Client(f"http://127.0.0.1:{running.port}") as client:
        with pytest.raises(tidings.Unreachable):
            await client.get("p1")


async def test_settings_that_do_not_go_together_are_refused() -> None:
    """What `tidings serve` refuses is refused here too, in the same words."""
    with pytest.raises(tidings.SettingsError, match="TIDINGS_HOST"):
        async with tidings.service(tidings.Settings(host="0.0.0.0", log="memory://")):
            pass


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_in_use_is_named(tmp_path: Path, workers: int) -> None:
    """A port that another program serves stops the start with one line that says which and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = {"TIDINGS_LOG": "kafka://127.0.0.1:9"} if workers > 1 else {}
        arguments = ("serve", "--port", str(port), "--workers", str(workers))
        ended = await tidings_command(tmp_path, *arguments, settings=settings)
    assert ended.code == 1
    assert ended.line == (
        f"tidings: port {port} of 127.0.0.1 is in use by another program; end that one, or choose "
        "another (--port, --health-port; 0: any that is free)"
    )
    assert not (tmp_path / "data" / "log.db").exists()


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("192.0.2.1", "192.0.2.1 is no address of this machine; set TIDINGS_HOST"),
        ("tidings.invalid", "tidings.invalid is neither an address nor a name"),
    ],
)
async def test_an_address_of_another_machine_is_named(tmp_path: Path, host: str, says: str) -> None:
    """An address that cannot be listened on stops the start with one line, and no traceback."""
    settings = {"TIDINGS_HOST": host, "TIDINGS_ANONYMOUS": "1"}
    ended = await tidings_command(tmp_path, "serve", settings=settings)
    assert ended.code == 1
    assert says in ended.line
