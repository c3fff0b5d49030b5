"""A broker that asks for a password and has an authorizer: what is said of refusals, and what goes on without a right."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import structlog

from tests.support.broker import Broker, free_port
from tidings.streams.log.factory import open_log
from tidings.streams.log.kafka import topics
from tidings.streams.log.kafka.settings import parse_address
from tidings.streams.log.protocol import EVENTS, LogMisconfigured

pytestmark = pytest.mark.kafka

PASSWORD = "ab+cd/ef="
LOGIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_svc="{PASSWORD}";'


class Guarded(Broker):
    """Clients log in on a port of their own; on the other port everything is allowed."""

    def __init__(self) -> None:
        inside, self.clients, controller = free_port(), free_port(), free_port()
        super().__init__(
            port=inside,
            properties=f"""
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{inside},CLIENT://127.0.0.1:{self.clients},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{inside},CLIENT://127.0.0.1:{self.clients}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.client.plain.sasl.jaas.config={LOGIN}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
""",
        )

    def url(self, password: str) -> str:
        login = f"sasl_mechanism=PLAIN&sasl_plain_username=svc&sasl_plain_password={password}"
        return f"kafka://127.0.0.1:{self.clients}?security_protocol=SASL_PLAINTEXT&{login}"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    broker = Guarded()
    broker.start()
    yield broker
    broker.close()


def test_a_plus_is_a_plus() -> None:
    """A password is taken as it is written, a `+` too; what is percent-encoded is decoded."""
    for written in ("ab+cd/ef=", "ab%2Bcd%2Fef%3D"):
        url = f"kafka://h:1?security_protocol=SASL_PLAINTEXT&sasl_plain_username=k&sasl_plain_password={written}"
        assert parse_address(urlsplit(url)).security["sasl_plain_password"] == "ab+cd/ef="


async def test_a_refused_login_is_called_that(guarded: Guarded) -> None:
    """A wrong password is said to be refused, and not that nobody answers; the password is not repeated."""
    with pytest.raises(LogMisconfigured, match="refused the login") as refused:
        await open_log(guarded.url("another-word"), partitions=1)
    assert "another-word" not in str(refused.value)


async def test_a_missing_right_is_named(guarded: Guarded) -> None:
    """Without any right the line says which, and with which command it is granted."""
    await (await open_log(f"kafka://{guarded.bootstrap}", partitions=1)).close()
    with pytest.raises(LogMisconfigured, match="Authorization"):
        await open_log(guarded.url(PASSWORD), partitions=1, create=False)


class NoRight:
    """An administrator that may not look at configurations."""

    async def describe_configs(self, resources: list[Any]) -> list[Any]:
        return [
            SimpleNamespace(
                resources=[(29, "not authorized", 2, one.name, []) for one in resources]
            )
        ]


async def test_without_describe_configs_it_starts_with_a_warning() -> None:
    """Whether a topic has room cannot be looked up without DescribeConfigs: that is said, and the start goes on."""
    with structlog.testing.capture_logs() as said:
        await topics._check_room(cast("Any", NoRight()), [EVENTS], 1000)
    [line] = said
    assert (line["event"], line["right"]) == ("log.right.missing", "DescribeConfigs")
    assert EVENTS in line["grant"]
