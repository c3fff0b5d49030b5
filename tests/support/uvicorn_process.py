"""An application of somebody's own behind uvicorn, as a process."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.support.broker import free_port
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.tidings_process import environment


@asynccontextmanager
async def uvicorn(
    application: str,
    source: Path,
    folder: Path,
    settings: Mapping[str, str],
    *options: str,
    python: Path | None = None,
) -> AsyncIterator[str]:
    """The address of an application, from when it answers until it has ended by SIGTERM.

    Args:
        application: `module:name`.
        source: The folder of the module.
        folder: Its working folder.
        settings: Its environment; `{url}` in a value is its address.
        options: More of uvicorn's.
        python: The interpreter of an environment with Tidings installed; None: this one, with the checkout.
    """
    url = f"http://127.0.0.1:{(port := free_port())}"
    given = {name: value.format(url=url) for name, value in settings.items()}
    output = folder / "uvicorn.txt"
    with output.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            *(python or sys.executable, "-m", "uvicorn", application, "--app-dir", str(source)),
            *("--port", str(port), *options),
            cwd=folder,
            env=environment(given if python else {"PYTHONPATH": str(ROOT), **given}),
            stdout=written,
            stderr=written,
        )
    try:
        async with httpx.AsyncClient(trust_env=False) as http:

            async def answers() -> bool:
                assert process.returncode is None, output.read_text()
                with contextlib.suppress(httpx.TransportError):
                    await http.get(f"{url}/")
                    return True
                return False

            await eventually(answers, 30)
        yield url
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
