"""Where commands to Redis or Valkey go.

To the one server, or each to the node of a cluster that has its key's slot.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio as client
from redis import exceptions

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.redis.address import Node

Command = tuple[Any, ...]

_ROUNDS = 3
"""Attempts of commands whose slot has moved meanwhile."""
_CHANGED = (exceptions.MovedError, exceptions.ClusterDownError, exceptions.ReadOnlyError)
"""Answers after which the cluster should be asked again who has what."""
_DEMOTED = (exceptions.ReadOnlyError, exceptions.MasterDownError)
"""Answers of a server whose place another one may have taken."""
MAX_AGE = 300.0
"""Seconds after which connections that rest are not used again."""


class Nodes:
    """Sends commands, those of one node in one round trip.

    A node that answers that a slot has moved has not run the command, so it is sent again, to the
    new node. A redirection because a slot is just being moved (`ASK`) is not followed. Half of the
    slot's keys are on either side then, and a script would find records missing.

    Args:
        seed: The server of the store's URL.
        at: Makes a client for a node.
        topology: Makes the client that knows which node has which slot.
        clock: For the age of connections.
    """

    def __init__(
        self,
        seed: client.Redis,
        at: Callable[[Node], client.Redis],
        topology: Callable[[], client.RedisCluster],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._renewed: dict[client.Redis, float] = {}
        self._seed = seed
        self._at = at
        self._make_topology = topology
        self._topology: client.RedisCluster | None = None
        self._clients: dict[Node, client.Redis] = {}
        self._stale = False
        self._looking = asyncio.Lock()

    @property
    def clustered(self) -> bool:
        """Whether commands are spread over the nodes of a cluster."""
        return self._topology is not None

    async def spread(self) -> None:
        """From now on send to the nodes of the cluster that the seed belongs to.

        Raises what redis-py raises.
        """
        self._topology = self._make_topology()
        self._stale = True
        await self._look()

    async def each(self, *command: Any) -> list[Any]:
        """The answers of every primary node, or of the one server."""
        if self._topology is None:
            return [await self._ask(self._seed, command)]
        await self._look()
        addresses = [(str(node.host), int(node.port)) for node in self._topology.get_primaries()]
        answers = await asyncio.gather(
            *(self._ask(self._node(address), command) for address in addresses)
        )
        return list(answers)

    async def one(self, command: Command) -> Any:
        """The answer to one command with a key. Raises what the server answers."""
        if self._topology is None:
            return await self._ask(self._seed, command)
        (answer,), _ = await self._spread([command], None)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def send(
        self, commands: Sequence[Command], last: Command | None
    ) -> tuple[list[Any], list[Any]]:
        """The answers, errors among them, and those to `last`, which each node is sent after its commands.

        Raises what redis-py raises if a node cannot be reached.
        """
        if self._topology is None:
            return await self._pipeline(self._seed, commands, last)
        return await self._spread(commands, last)

    async def _spread(
        self, commands: Sequence[Command], last: Command | None
    ) -> tuple[list[Any], list[Any]]:
        answers: list[Any] = [None] * len(commands)
        lasts: list[Any] = []
        left = list(range(len(commands)))
        for _ in range(_ROUNDS):
            await self._look()
            groups: dict[Node, list[int]] = {}
            for at in left:
                groups.setdefault(self._address(_key(commands[at])), []).append(at)
            results = await asyncio.gather(
                *(
                    self._pipeline(self._node(one), [commands[at] for at in ats], last)
                    for one, ats in groups.items()
                ),
                return_exceptions=True,
            )
            for ats, result in zip(groups.values(), results, strict=True):
                if isinstance(result, BaseException):
                    self._stale = True  # that node may be gone for good, and another have its slots
                    raise result
                for at, answer in zip(ats, result[0], strict=True):
                    answers[at] = answer
                lasts += result[1]
            if any(isinstance(answers[at], _CHANGED) for at in left):
                self._stale = True
            left = [at for at in left if isinstance(answers[at], exceptions.MovedError)]
            if not left:
                break
        return answers, lasts

    def _address(self, key: str) -> Node:
        assert self._topology is not None
        node = self._topology.get_node_from_key(key)
        assert node is not None
        return str(node.host), int(node.port)

    def _node(self, address: Node) -> client.Redis:
        found = self._clients.get(address)
        if found is None:
            found = self._clients[address] = self._at(address)
        return found

    async def _look(self) -> None:
        """Ask the cluster which node has which slot, if that may have changed.

        One asks, others wait for it.
        """
        if not self._stale:
            return
        async with self._looking:
            if self._stale and self._topology is not None:
                await self._topology.aclose()
                await self._topology.initialize()
                self._stale = False

    async def _ask(self, server: client.Redis, command: Command) -> Any:
        await self._renew(server)
        try:
            return await server.execute_command(*command)  # type: ignore[no-untyped-call]
        except _DEMOTED:
            await _drop_resting(server)
            raise

    async def _pipeline(
        self, server: client.Redis, commands: Sequence[Command], last: Command | None
    ) -> tuple[list[Any], list[Any]]:
        await self._renew(server)
        pipeline = server.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        if last is not None:
            pipeline.execute_command(*last)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        if any(isinstance(answer, _DEMOTED) for answer in answers):
            await _drop_resting(server)
        return answers, [] if last is None else [answers.pop()]

    async def _renew(self, server: client.Redis) -> None:
        """A process that only reads would never notice that the address leads to another server by now."""
        now = self._clock.monotonic()
        if now - self._renewed.setdefault(server, now) >= MAX_AGE:
            self._renewed[server] = now
            await _drop_resting(server)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self._seed.aclose()
        for one in self._clients.values():
            await one.aclose()
        if self._topology is not None:
            await self._topology.aclose()


def _key(command: Command) -> str:
    """The first key of a command: all of its keys share a hash tag."""
    return str(command[3] if command[0] in {"EVALSHA", "EVAL"} else command[1])


async def _drop_resting(server: client.Redis) -> None:
    """Use none of the connections that rest again.

    The address may lead to another server than they do.

    Who keeps connections to a server that was demoted meets it again and again, although the
    primary is there.
    """
    await server.connection_pool.disconnect(inuse_connections=False)
