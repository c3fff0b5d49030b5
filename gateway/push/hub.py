"""Who gets which change.

Pure: no I/O, no clock. Keys name what is subscribed to: `prediction:ID`, `owner:O`, `tag:T`,
`model:M`, `all`. The changes of one batch are joined per set of keys, so that all subscribers that
match alike share one bytes object and get it in one write. No record is decoded: a change's headers
say all that routing needs.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from tidings.gateway.push.growing_text import GrowingText
from tidings.streams.changes.codec import Change

REMEMBERED = 100_000
"""Predictions whose last announced version is kept: a repeat of the log is told to nobody."""

SLICE = 500
"""Writes between two yields of a fan-out: about 3 ms of one core, the longest stall of the loop."""

Render = Callable[[Change], bytes]


class RoutedChange:
    """A change on its way, rendered once for all who get it."""

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
    """What a subscriber gets of one batch, each change once; shared by all that match alike."""

    __slots__ = ("_joined", "deletes", "items")

    def __init__(self, items: Sequence[RoutedChange]) -> None:
        self.items = items
        self.deletes = False
        for item in items:  # a plain loop: this runs for every change that somebody watches
            if not item.change.value:
                self.deletes = True
        self._joined: dict[Render, bytes] = {}

    def joined(self, render: Render) -> bytes:
        """All changes rendered and joined, made once for all who want the same rendering."""
        data = self._joined.get(render)
        if data is None:
            items = self.items
            data = (
                items[0].rendered(render)
                if len(items) == 1
                else b"".join([item.rendered(render) for item in items])
            )
            self._joined[render] = data
        return data


class RoutedText:
    """A text that has grown, on its way."""

    __slots__ = ("order", "text")

    def __init__(self, text: GrowingText, order: int) -> None:
        self.text = text
        self.order = order
        """Its place among those that have grown."""


class Subscriber(Protocol):
    """Whoever changes are delivered to. Hashed by identity."""

    def deliver(self, delivery: Delivery) -> None:
        """Take the changes of one batch, without blocking. What it raises goes to `on_error`."""


class TextSubscriber(Protocol):
    """A subscriber that growing texts are delivered to in pieces."""

    def deliver(self, delivery: Delivery) -> None:
        """As every subscriber's."""

    def deliver_texts(self, grown: Sequence[RoutedText]) -> None:
        """Take one step of these texts, as `deliver` does of changes."""


def _ignore(subscriber: Subscriber, error: Exception) -> None:
    """Without an observer a failing subscriber is only taken out."""


class Hub:
    """Maps keys to subscribers and delivers each batch of changes to those that match.

    Args:
        remembered: How many predictions' last announced versions are kept.
        on_error: Told of a subscriber whose `deliver` raised; by then it is out of the hub.
    """

    def __init__(
        self,
        remembered: int = REMEMBERED,
        on_error: Callable[[Subscriber, Exception], None] = _ignore,
    ) -> None:
        self._subscribers: dict[str, Subscriber | set[Subscriber]] = {}
        self._appended_to: dict[Subscriber, TextSubscriber] = {}
        """Those of the subscribers that get pieces of texts."""
        self._kinds = {"prediction": 0, "owner": 0, "tag": 0, "model": 0, "all": 0}
        self._sent: OrderedDict[str, int] = OrderedDict()
        self._remembered = remembered
        self._under_way: frozenset[str] = frozenset()
        """The predictions of a fan-out that pauses: some subscribers have not got them yet."""
        self._on_error = on_error
        self.expect_expiry: Callable[[str, int], None] = lambda _prediction_id, _expires_at: None
        """Called when somebody is shown a record that will be hidden, with the time (ms)."""
        self._left = 0
        """How many subscriptions have ended: who leaves during a fan-out gets nothing more of it."""
        self.deliveries = 0
        """Changes delivered so far, counted once for each subscriber that got it."""

    def subscribe(self, key: str, subscriber: Subscriber) -> None:
        """Deliver what matches the key from now on. Idempotent."""
        there = self._subscribers.get(key)
        if there is None:
            self._subscribers[key] = subscriber
            self._kinds[_kind(key)] += 1
        elif type(there) is set:
            there.add(subscriber)
        elif there is not subscriber:
            # mypy: by now `there` is one subscriber, not a set of them
            self._subscribers[key] = {there, subscriber}  # type: ignore[arg-type]

    def unsubscribe(self, key: str, subscriber: Subscriber) -> None:
        """Undo `subscribe`. Idempotent."""
        self._left += 1
        there = self._subscribers.get(key)
        if type(there) is set:
            there.discard(subscriber)
            if len(there) == 1:
                self._subscribers[key] = there.pop()
        elif there is subscriber:
            del self._subscribers[key]
            self._kinds[_kind(key)] -= 1

    def append_to(self, subscriber: TextSubscriber) -> None:
        """Deliver pieces of texts to this subscriber, too."""
        self._appended_to[subscriber] = subscriber

    def append_no_more(self, subscriber: Subscriber) -> None:
        """Undo `append_to`. Idempotent."""
        self._appended_to.pop(subscriber, None)

    @property
    def appends(self) -> bool:
        """Whether anybody gets pieces of texts."""
        return bool(self._appended_to)

    def watched(self, key: str) -> int:
        """How many subscribers a key has."""
        there = self._subscribers.get(key)
        return len(there) if isinstance(there, set) else there is not None

    def watchers(self, change: Change) -> int:
        """How many subscribers a change has, counted once for each key that matches."""
        return sum(self.watched(key) for key in self._keys(change))

    def version(self, prediction_id: str) -> int:
        """The last version that everybody was told, deletions included.

        0 if there is none, if it is forgotten, or while its fan-out is under way. A floor dropped
        during a fan-out would let the same version through to sessions that have yet to get it.
        """
        return 0 if prediction_id in self._under_way else self._sent.get(prediction_id, 0)

    def may_be_watched(self, prediction_id: str) -> bool:
        """Whether somebody watches this prediction, or more than single ones."""
        kinds = self._kinds
        wide = kinds["all"] or kinds["owner"] or kinds["model"] or kinds["tag"]
        return bool(wide) or "prediction:" + prediction_id in self._subscribers

    def expire(self, change: Change) -> None:
        """Tell all who watch a prediction that it is hidden by now."""
        delivery = Delivery((RoutedChange(change),))
        found = {one for key in self._keys(change) for one in self._at(key)}
        for subscriber in found:
            try:
                subscriber.deliver(delivery)
            except Exception as error:
                self._take_out(subscriber)
                self._on_error(subscriber, error)

    def publish(self, changes: Sequence[Change]) -> None:
        """Deliver the changes to all subscribers at once; with many, use `fan_out`."""
        for _ in self.fan_out(changes):
            pass

    def fan_out(self, changes: Sequence[Change], slice: int = SLICE) -> Iterator[None]:
        """Deliver the changes to all subscribers, pausing after every `slice` of them.

        Only one fan-out may be under way at a time: with two, a subscriber late in the first could
        get its older version after the newer one of the second.
        """
        by_key = self._route(changes)
        if not by_key:
            return
        left, delivered, written = self._left, 0, 0
        try:
            for matched, subscribers in self._match(by_key):
                delivery = shared = _delivery(by_key, matched)
                for subscriber in subscribers:
                    if left != self._left:  # somebody has left, during a pause or just now
                        keys = self._still_matching(subscriber, matched)
                        if not keys:
                            continue
                        delivery = shared if keys == matched else _delivery(by_key, keys)
                    try:
                        subscriber.deliver(delivery)
                    except Exception as error:
                        self._take_out(subscriber)
                        self._on_error(subscriber, error)
                    else:
                        delivered += len(delivery.items)
                    written += 1
                    if written == slice:
                        self._under_way = self._under_way or _named(by_key)
                        self.deliveries += delivered
                        delivered = written = 0
                        yield
        finally:
            self.deliveries += delivered
            self._under_way = frozenset()

    def fan_out_texts(self, texts: Sequence[GrowingText], slice: int = SLICE) -> Iterator[None]:
        """Deliver one step of these texts, under the same terms as `fan_out`."""
        by_key: dict[str, list[RoutedText]] = {}
        for order, text in enumerate(texts):
            routed = RoutedText(text, order)
            for key in self._keys(text):
                if key in self._subscribers:
                    by_key.setdefault(key, []).append(routed)
        appended_to, delivered, written = self._appended_to, 0, 0
        try:
            for matched, subscribers in self._match(by_key):
                grown = by_key[matched] if isinstance(matched, str) else _merged(by_key, matched)
                for subscriber in subscribers:
                    taker = appended_to.get(subscriber)
                    if taker is None:
                        continue
                    try:
                        taker.deliver_texts(grown)
                    except Exception as error:
                        self._take_out(subscriber)
                        self._on_error(subscriber, error)
                    else:
                        delivered += len(grown)
                    written += 1
                    if written == slice:
                        self.deliveries += delivered
                        delivered = written = 0
                        yield
        finally:
            self.deliveries += delivered

    def watches(self, text: GrowingText) -> bool:
        """Whether anybody watches the prediction of this text."""
        return any(key in self._subscribers for key in self._keys(text))

    def _route(self, changes: Sequence[Change]) -> dict[str, list[RoutedChange]]:
        """Per key with a subscriber the changes that are news, in order."""
        by_key: dict[str, list[RoutedChange]] = {}
        subscribers, sent = self._subscribers, self._sent
        for order, change in enumerate(changes):
            announced: RoutedChange | None = None
            for key in self._keys(change):
                if key not in subscribers:
                    continue
                if announced is None:
                    if change.version <= sent.get(change.prediction_id, 0):
                        break
                    sent[change.prediction_id] = change.version
                    sent.move_to_end(change.prediction_id)
                    if len(sent) > self._remembered:
                        sent.popitem(last=False)
                    announced = RoutedChange(change, order)
                there = by_key.get(key)
                if there is None:
                    by_key[key] = [announced]
                else:
                    there.append(announced)
        return by_key

    def _keys(self, change: Change | GrowingText) -> list[str]:
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

    def _match(
        self, by_key: Mapping[str, Sequence[RoutedChange | RoutedText]]
    ) -> Iterable[tuple[str | tuple[str, ...], Sequence[Subscriber]]]:
        """Each subscriber once, with all that match through the same key or keys."""
        if len(by_key) == 1:
            (key,) = by_key
            return [(key, tuple(self._at(key)))]
        matched: dict[Subscriber, str | list[str]] = {}
        for key in by_key:
            for subscriber in self._at(key):
                there = matched.get(subscriber)
                if there is None:
                    matched[subscriber] = key
                elif isinstance(there, list):
                    there.append(key)
                else:
                    matched[subscriber] = [there, key]
        alike: dict[str | tuple[str, ...], list[Subscriber]] = {}
        for subscriber, keys in matched.items():
            through = keys if isinstance(keys, str) else tuple(keys)
            found = alike.get(through)
            if found is None:
                alike[through] = [subscriber]
            else:
                found.append(subscriber)
        return alike.items()

    def _at(self, key: str) -> Iterable[Subscriber]:
        there = self._subscribers.get(key)
        if there is None:
            return ()
        return there if isinstance(there, set) else (there,)

    def _still_matching(
        self, subscriber: Subscriber, keys: str | tuple[str, ...]
    ) -> str | tuple[str, ...] | None:
        """Those of the keys that it still subscribes to: it may have left during a pause."""
        if isinstance(keys, str):
            return keys if subscriber in self._at(keys) else None
        left = tuple(key for key in keys if subscriber in self._at(key))
        return left[0] if len(left) == 1 else left or None

    def _take_out(self, subscriber: Subscriber) -> None:
        self.append_no_more(subscriber)
        for key in [key for key in self._subscribers if subscriber in self._at(key)]:
            self.unsubscribe(key, subscriber)


def _kind(key: str) -> str:
    return key.partition(":")[0]


def _delivery(
    by_key: Mapping[str, Sequence[RoutedChange]], keys: str | tuple[str, ...]
) -> Delivery:
    """What all get that match through these keys."""
    return Delivery(by_key[keys] if isinstance(keys, str) else _merged(by_key, keys))


def _named(by_key: dict[str, list[RoutedChange]]) -> frozenset[str]:
    """The predictions of a batch."""
    return frozenset(item.change.prediction_id for items in by_key.values() for item in items)


Routed = TypeVar("Routed", RoutedChange, RoutedText)


def _merged(by_key: Mapping[str, Sequence[Routed]], keys: tuple[str, ...]) -> list[Routed]:
    """The items of all these keys, each once, in the order of the batch."""
    once = {item.order: item for key in keys for item in by_key[key]}
    return [once[order] for order in sorted(once)]
