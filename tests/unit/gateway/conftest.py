"""The gateway runs on uvloop, so its tests do, and through both doors."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from tests.support.gateway.doors import DOORS, Door, door


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of every asynchronous test here."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what goes over a port through both doors, unless it is about the bytes of our own."""
    if metafunc.definition.get_closest_marker(
        "doors"
    ) and not metafunc.definition.get_closest_marker("lean"):
        metafunc.parametrize("through", DOORS, indirect=True)


@pytest.fixture(autouse=True)
def through(request: pytest.FixtureRequest) -> Iterator[None]:
    """Put the door of this test in force."""
    chosen: Door = getattr(request, "param", "lean")
    before = door.set(chosen)
    yield
    door.reset(before)
