"""The service inside another program."""

import signal
from pathlib import Path

import pytest

import tidings


async def test_a_program_runs_the_service_in_its_own_loop(tmp_path: Path) -> None:
    """Within the block the service serves; it takes over nothing of the process; afterwards the port is free."""
    handler = signal.getsignal(signal.SIGTERM)
    settings = tidings.Settings(
        port=0,
        log=f"sqlite:///{tmp_path}/log.db",
        store=f"sqlite:///{tmp_path}/store.db",
        assets=f"file://{tmp_path}/assets",
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
