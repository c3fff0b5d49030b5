"""A FastAPI application of fifteen lines under the servers that people use, beside folders named as ours are."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.support.conditions import eventually
from tests.support.tidings_process import environment
from tests.support.webhooks import SECRET, report, signed

APPLICATION = """
import tidings
from fastapi import FastAPI

predictions = tidings.asgi()
app = FastAPI(lifespan=predictions.lifespan)
app.mount("/predictions", predictions)


@app.get("/")
async def home():
    return {"mine": True}
"""

SERVERS = {
    "uvicorn": ("uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}"),
    "hypercorn": ("hypercorn", "app:app", "--bind", "127.0.0.1:{port}"),
    "granian": ("granian", "--interface", "asgi", "--port", "{port}", "app:app"),
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize("server", SERVERS)
async def test_ctrl_c_ends_everything(server: str, tmp_path: Path) -> None:
    """With a WebSocket and an event stream open, Ctrl-C tells both, ends the process in order, and loses nothing."""
    assert len(APPLICATION.strip().splitlines()) <= 15
    (tmp_path / "app.py").write_text(APPLICATION)
    for name in ("storage", "gateway"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('raise ImportError("the project\'s own")\n')
    port = free_port()
    command = [part.format(port=port) for part in SERVERS[server]]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command,
        cwd=tmp_path,
        env=environment({"TIDINGS_REPLICATE_SECRET": SECRET}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:

            async def up() -> bool:
                try:
                    return (await http.get("/predictions/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(up, 60)
            assert (await http.get("/")).json() == {"mine": True}
            body = report("p1")
            sent = await http.post(
                "/predictions/api/webhooks/replicate", content=body, headers=signed(body)
            )
            assert sent.status_code == 200
            async with (
                connect(f"ws://127.0.0.1:{port}/predictions/api/ws", proxy=None) as socket_,
                http.stream("GET", "/predictions/api/events?all=true") as stream,
            ):
                assert '"welcome"' in str(await socket_.recv())
                lines = stream.aiter_lines()
                while (await anext(lines)) != "event: synced":
                    pass
                process.send_signal(signal.SIGINT)
                async with asyncio.timeout(15):
                    await socket_.wait_closed()
        async with asyncio.timeout(20):
            said = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode in (0, -signal.SIGINT), said
    # hypercorn cancels a stream after its 3 s of grace, of which Python 3.11 prints a traceback.
    traces = said.split("Traceback")[1:]
    assert server == "hypercorn" or not traces, said
    assert not [trace for trace in traces if "/tidings/" in trace], said
    assert (tmp_path / "data" / "store.db").is_file()
