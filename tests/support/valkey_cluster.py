"""A real Valkey cluster on loopback: three primaries, and replicas where a test asks for them."""

import atexit
import time
from functools import cache
from typing import Any

import redis

from tests.support.servers import Valkey

SLOTS = 16_384


class ValkeyCluster:
    """Started by `start`; nodes can be killed one by one.

    Args:
        primaries: Each gets an equal part of the slots.
        replicas: Of the first primary.
    """

    def __init__(self, primaries: int = 3, replicas: int = 0) -> None:
        options = ("--cluster-node-timeout", "2000", "--cluster-replica-validity-factor", "0")
        self.primaries = [Valkey(*options, cluster=True) for _ in range(primaries)]
        self.replicas = [Valkey(*options, cluster=True) for _ in range(replicas)]

    @property
    def nodes(self) -> list[Valkey]:
        """All of them."""
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        """Of the last primary, as `TIDINGS_STORE` takes it."""
        return self.primaries[-1].url

    def start(self) -> None:
        """Start the nodes, share out the slots, and return when all know of all."""
        for node in self.nodes:
            node.start()
        share = SLOTS // len(self.primaries)
        for number, node in enumerate(self.primaries):
            last = SLOTS - 1 if number == len(self.primaries) - 1 else (number + 1) * share - 1
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            ask(node, "CLUSTER", "ADDSLOTSRANGE", number * share, last)
        for node in self.nodes[1:]:
            ask(node, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus)
        _until(lambda: all(self._whole(node) for node in self.nodes))
        first = ask(self.primaries[0], "CLUSTER", "MYID").decode()
        for node in self.replicas:
            ask(node, "CLUSTER", "REPLICATE", first)
        _until(
            lambda: all(
                b"master_link_status:up" in _info(node, "replication") for node in self.replicas
            )
        )

    def _whole(self, node: Valkey) -> bool:
        said = ask(node, "CLUSTER", "INFO")
        text = (
            said
            if isinstance(said, dict)
            else dict(line.split(":") for line in said.decode().split())
        )
        return text["cluster_state"] == "ok" and int(text["cluster_known_nodes"]) == len(self.nodes)

    def move(self, slot: int, to: Valkey) -> None:
        """Move a slot with its keys at once, as Valkey 9 does it by itself."""
        (owner,) = (node for node in self.primaries if slot in _slots(node))
        target = ask(to, "CLUSTER", "MYID").decode()
        ask(owner, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target)
        _until(lambda: slot in _slots(to))

    def has(self, node: Valkey, slot: int) -> bool:
        """Whether a slot is the node's, by its own word."""
        return slot in _slots(node)

    def close(self) -> None:
        """Kill all and remove their data. Idempotent."""
        for node in self.nodes:
            node.close()


def ask(node: Valkey, *command: Any) -> Any:
    """The answer of one node to one command."""
    with redis.Redis(port=node.port, socket_timeout=20) as direct:
        return direct.execute_command(*command)


def _info(node: Valkey, section: str) -> bytes:
    with redis.Redis(port=node.port, socket_timeout=20) as direct:
        return "\n".join(f"{name}:{value}" for name, value in direct.info(section).items()).encode()


def _slots(node: Valkey) -> set[int]:
    """The slots that a node has, by its own word."""
    found: set[int] = set()
    with redis.Redis(port=node.port, socket_timeout=20) as direct:
        direct.response_callbacks.clear()
        text = direct.execute_command("CLUSTER NODES")
    for line in text.decode().splitlines():
        flags, parts = line.split()[2], line.split()[8:]
        if "myself" in flags:
            for part in parts:
                if not part.startswith("["):
                    first, _, last = part.partition("-")
                    found.update(range(int(first), int(last or first) + 1))
    return found


def _until(condition: Any, within: float = 60) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"the cluster is not so after {within} s"
        time.sleep(0.05)


@cache
def shared() -> ValkeyCluster:
    """The cluster of the run, started when first asked for."""
    cluster = ValkeyCluster()
    atexit.register(cluster.close)
    cluster.start()
    return cluster
