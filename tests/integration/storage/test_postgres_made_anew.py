"""Tables that go and come back under a running process.

Nothing is poured into them before they are whole.
"""

import uuid

import asyncpg
import pytest

from tests.support.servers import postgres
from tests.support.storage.samples import creation
from tidings.storage.errors import StoreUnavailable
from tidings.storage.postgres.store import PostgresStore


async def test_tables_made_anew_are_not_written_before_they_are_filled() -> None:
    """Reads and writes wait while the tables are gone, writes until somebody says that all is there again."""
    schema = f"anew_{uuid.uuid4().hex[:8]}"
    url = f"{postgres()}?schema={schema}"
    running = await PostgresStore.open(url)
    assert await running.write([creation("p1")]) == [None]
    connection = await asyncpg.connect(postgres())
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    with pytest.raises(StoreUnavailable, match="tidings replay"):
        await running.load(["p1"])
    with pytest.raises(StoreUnavailable, match="tidings replay"):
        await running.write([creation("p2")])

    rebuilding = await PostgresStore.open(url)
    assert await rebuilding.write([creation("p1")]) == [None]
    with pytest.raises(StoreUnavailable, match="made again"):
        await running.write([creation("p2")])
    assert set(await running.load(["p1", "p2"])) == {"p1"}
    await rebuilding.mark_filled()
    assert await running.write([creation("p2")]) == [None]
    assert set(await rebuilding.load(["p1", "p2"])) == {"p1", "p2"}

    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.close()
    await running.close()
    await rebuilding.close()
