"""Who is told about which change.

Pure: no I/O, no clock. Keys name what is watched: `prediction:ID`, `owner:O`, `tag:T`, `model:M`, `all`. The changes of
one batch are joined per set of keys, so that all sinks that match alike share one bytes object and get it in one write.
No record is decoded: a change's headers say all that routing needs.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from tidings.streams.changes.codec import Change

REMEMBERED = 100_000
"""How many predictions' last sent versions are kept, so that repeats of the log are not repeated to clients."""

SLICE = 500
"""Writes between two yields of a fan-out: about 3 ms on one core, so that the event loop never stalls longer."""

Render = Callable[[Change], bytes]


class Announced:
    """A change on its way, with its rendering made once for all who get it."""

    __slots__ = ("_rendered", "change", "order")

    def __init__(self, change: Change, order: int = 0) -> None:
        self.change = change
        self.order = order
        """Its place within the batch."""
        self._rendered: dict[Render, bytes] = {}

    def rendered(self, render: Render) -> bytes:
        """The change as `render` gives it, called once."""
        data = self._rendered.get(render)
        if data is None:
            data = self._rendered[render] = render(self.change)
        return data


class Delivery:
    """What a sink gets out of one batch, in order, each change once; shared by all sinks that match alike."""

    __slots__ = ("_joined", "deletes", "items")

    def __init__(self, items: Sequence[Announced]) -> None:
        self.items = items
        self.deletes = any(item.change.deleted for item in items)
        self._joined: dict[Render, bytes] = {}

    def joined(self, render: Render) -> bytes:
        """All changes rendered and joined, made once for all sinks with the same rendering."""
        data = self._joined.get(render)
        if data is None:
            data = self._joined[render] = b"".join([item.rendered(render) for item in self.items])
        return data


class Sink(Protocol):
    """A subscriber. Hashed by identity."""

    def deliver(self, delivery: Delivery) -> None:
        """Take the changes of one batch. Called often: it must not block, and what it raises goes to `on_error`."""


def _ignore(sink: Sink, error: Exception) -> None:
    """Without an observer a failing sink is only taken out."""


class Hub:
    """Maps keys to sinks and hands each batch of changes to those that match.

    Args:
        remembered: How many predictions' last sent versions are kept.
        on_error: Told of a sink whose `deliver` raised; the sink has been taken out of the hub by then.
    """

    def __init__(
        self, remembered: int = REMEMBERED, on_error: Callable[[Sink, Exception], None] = _ignore
    ) -> None:
        self._sinks: dict[str, Sink | set[Sink]] = {}
        self._kinds = {"prediction": 0, "owner": 0, "tag": 0, "model": 0, "all": 0}
        self._sent: OrderedDict[str, int] = OrderedDict()
        self._remembered = remembered
        self._under_way: frozenset[str] = frozenset()
        """The predictions of a fan-out that pauses: some sinks have not got their changes yet."""
        self._on_error = on_error
        self.deliveries = 0
        """Changes handed to sinks so far, one for each sink that got it."""

    def subscribe(self, key: str, sink: Sink) -> None:
        """Let the sink have what matches the key from now on. Idempotent."""
        there = self._sinks.get(key)
        if there is None:
            self._sinks[key] = sink
            self._kinds[_kind(key)] += 1
        elif type(there) is set:
            there.add(sink)
        elif there is not sink:
            self._sinks[key] = {there, sink}  # type: ignore[arg-type]  # the one sink, not a set of them

    def unsubscribe(self, key: str, sink: Sink) -> None:
        """Undo `subscribe`. Idempotent."""
        there = self._sinks.get(key)
        if type(there) is set:
            there.discard(sink)
            if len(there) == 1:
                self._sinks[key] = there.pop()
        elif there is sink:
            del self._sinks[key]
            self._kinds[_kind(key)] -= 1

    def watched(self, key: str) -> int:
        """How many sinks watch a key."""
        there = self._sinks.get(key)
        return len(there) if isinstance(there, set) else there is not None

    def watchers(self, change: Change) -> int:
        """How many sinks a change is for; one that it reaches through several keys counts as often."""
        return sum(self.watched(key) for key in self._keys(change))

    def version(self, prediction_id: str) -> int:
        """The last version that went out to everybody, deletions included.

        0 where none did, where it is no longer remembered, or where a fan-out of the prediction is under way.
        """
        return 0 if prediction_id in self._under_way else self._sent.get(prediction_id, 0)

    def publish(self, changes: Sequence[Change]) -> None:
        """Hand the changes to all who watch them, at once. `fan_out` is for many sinks."""
        for _ in self.fan_out(changes):
            pass

    def fan_out(self, changes: Sequence[Change], slice: int = SLICE) -> Iterator[None]:
        """Hand the changes to all who watch them, pausing after every `slice` sinks.

        Only one fan-out may be under way at a time: the order of versions depends on it.
        """
        by_key = self._route(changes)
        if not by_key:
            return
        deliveries: dict[str | tuple[str, ...], Delivery] = {}
        try:
            for count, (sink, matched) in enumerate(list(self._match(by_key)), 1):
                keys = self._standing(sink, matched) if self._under_way else matched
                if not keys:
                    continue
                delivery = deliveries.get(keys)
                if delivery is None:
                    delivery = deliveries[keys] = _merge(by_key, keys)
                try:
                    sink.deliver(delivery)
                except Exception as error:
                    self._take_out(sink)
                    self._on_error(sink, error)
                else:
                    self.deliveries += len(delivery.items)
                if count % slice == 0:
                    self._under_way = self._under_way or _named(by_key)
                    yield
        finally:
            self._under_way = frozenset()

    def _route(self, changes: Sequence[Change]) -> dict[str, list[Announced]]:
        """Per watched key the changes that are news, in order."""
        by_key: dict[str, list[Announced]] = {}
        sinks = self._sinks
        for order, change in enumerate(changes):
            announced: Announced | None = None
            for key in self._keys(change):
                if key not in sinks:
                    continue
                if announced is None:
                    if change.version <= self._sent.get(change.prediction_id, 0):
                        break
                    self._remember(change)
                    announced = Announced(change, order)
                there = by_key.get(key)
                if there is None:
                    by_key[key] = [announced]
                else:
                    there.append(announced)
        return by_key

    def _keys(self, change: Change) -> list[str]:
        kinds = self._kinds
        keys = ["prediction:" + change.prediction_id]
        if kinds["all"]:
            keys.append("all")
        if kinds["owner"] and change.owner is not None:
            keys.append("owner:" + change.owner)
        if kinds["model"] and change.model is not None:
            keys.append("model:" + change.model)
        if kinds["tag"] and change.tags:
            keys.extend(["tag:" + tag for tag in dict.fromkeys(change.tags)])
        return keys

    def _remember(self, change: Change) -> None:
        sent = self._sent
        sent[change.prediction_id] = change.version
        sent.move_to_end(change.prediction_id)
        if len(sent) > self._remembered:
            sent.popitem(last=False)

    def _match(
        self, by_key: dict[str, list[Announced]]
    ) -> Iterable[tuple[Sink, str | tuple[str, ...]]]:
        """Each sink once, with the key or keys through which it matches."""
        if len(by_key) == 1:
            (key,) = by_key
            return [(sink, key) for sink in self._at(key)]
        matched: dict[Sink, str | list[str]] = {}
        for key in by_key:
            for sink in self._at(key):
                there = matched.get(sink)
                if there is None:
                    matched[sink] = key
                elif isinstance(there, list):
                    there.append(key)
                else:
                    matched[sink] = [there, key]
        return [
            (sink, keys if isinstance(keys, str) else tuple(keys)) for sink, keys in matched.items()
        ]

    def _at(self, key: str) -> Iterable[Sink]:
        there = self._sinks.get(key)
        if there is None:
            return ()
        return there if isinstance(there, set) else (there,)

    def _standing(self, sink: Sink, keys: str | tuple[str, ...]) -> str | tuple[str, ...] | None:
        """Those of the keys that the sink still watches: it may have left while the fan-out paused."""
        if isinstance(keys, str):
            return keys if sink in self._at(keys) else None
        left = tuple(key for key in keys if sink in self._at(key))
        return left[0] if len(left) == 1 else left or None

    def _take_out(self, sink: Sink) -> None:
        for key in [key for key in self._sinks if sink in self._at(key)]:
            self.unsubscribe(key, sink)


def _kind(key: str) -> str:
    return key.partition(":")[0]


def _named(by_key: dict[str, list[Announced]]) -> frozenset[str]:
    """The predictions of a batch."""
    return frozenset(item.change.prediction_id for items in by_key.values() for item in items)


def _merge(by_key: dict[str, list[Announced]], keys: str | tuple[str, ...]) -> Delivery:
    """The changes of all these keys, each once, in the order of the batch."""
    if isinstance(keys, str):
        return Delivery(by_key[keys])
    once = {item.order: item for key in keys for item in by_key[key]}
    return Delivery([once[order] for order in sorted(once)])
