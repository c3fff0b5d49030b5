"""Every store, and every wrapper, keeps the contract."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.contract.stores.contract import Reopen, StoreContract
from tests.contract.stores.factories import FACTORIES, Place
from tests.support.storage.samples import fresh
from tidings.storage.store import PredictionStore


class TestStores(StoreContract):
    @pytest.fixture(params=FACTORIES)
    def reopen(self, request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
        return partial(FACTORIES[request.param], Place(tmp_path, fresh("t").replace("-", "_")))

    @pytest.fixture
    async def store(self, reopen: Reopen) -> AsyncIterator[PredictionStore]:
        async with reopen() as store:
            yield store
