"""What one client subscribes to, what it may see, and which versions it has already.

Pure. While nothing has to be decided change by change the state passes through: the client gets
each batch as it is. Three things end the pass-through until they are settled: a snapshot under way,
a right that depends on the record, and a floor. A floor is a version that the client has before the
hub announces it.

Every operation costs what it names, never what else is subscribed: a client with 10,000
subscriptions that unsubscribes from one must not walk through all of them.
"""

from collections.abc import Iterable

from tidings.gateway.auth.permissions import NOBODY, Permissions
from tidings.gateway.push.hub import Hub, Subscriber
from tidings.streams.changes.codec import Change

PREDICTION = "prediction:"

FEW = 16
"""Subscriptions among which floors are searched; with more an index is kept, at 200 bytes."""

FLOORS = 100_000
"""Floors kept beside the subscriptions, as many as the hub remembers versions; the oldest go."""


class SubscriptionState:
    """The state of one client's subscriptions.

    Args:
        hub: Where its keys are subscribed, and which versions were announced.
    """

    __slots__ = (
        "_claimed",
        "_floored",
        "_floored_index",
        "_floors",
        "_hub",
        "_shared",
        "_snapshots",
        "_unverified",
        "_wide",
        "keys",
        "passes_through",
        "permissions",
    )

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.permissions: Permissions = NOBODY
        self.keys: dict[str, int] | None = None
        """What it subscribes to, as the hub's keys; for a prediction its floor (0: none)."""
        self._wide = 0
        """How many of the keys name no single prediction."""
        self._shared = 0
        """How many of the keys are tags and models that records of nobody may carry, too: each
        change must be checked."""
        self._floored = 0
        """How many of the keys have a floor."""
        self._floored_index: set[str] | None = None
        """Which predictions those are, if there are more than a few keys."""
        self._floors: dict[str, int] | None = None
        """Floors of predictions without a key of their own: a wide subscription brings them."""
        self._claimed: set[str] | None = None
        """Those of them that the client itself named in `known`: their number is limited."""
        self._unverified: set[str] | None = None
        """Subscribed predictions of which it is unknown whether the client may see them."""
        self._snapshots = 0
        """Snapshots under way."""
        self.passes_through = True
        """Whether every change of a subscribed key goes to the client unseen, deletions apart."""

    @property
    def count(self) -> int:
        """How many subscriptions there are."""
        return len(self.keys or ())

    @property
    def claims(self) -> int:
        """How many predictions the client said to know, beside those it subscribes to by id."""
        return len(self._claimed or ())

    def subscribe(
        self, keys: tuple[str, ...], known: dict[str, int], subscriber: Subscriber
    ) -> None:
        """Subscribe to these keys; of what is known only newer versions are wanted."""
        if self.keys is None:
            self.keys = {}
        for key in keys:
            if key.startswith(PREDICTION):
                self._check_again(key.removeprefix(PREDICTION))
            elif key not in self.keys:
                self._wide += 1
                self._shared += key.startswith(("tag:", "model:"))
            if key not in self.keys:
                self.keys[key] = 0
                self._hub.subscribe(key, subscriber)
        for prediction_id, version in known.items():
            raised = self.raise_floor(prediction_id, version)
            if raised and PREDICTION + prediction_id not in self.keys:
                self._claimed = self._claimed or set()
                self._claimed.add(prediction_id)
        if self._floored and self._floored_index is None and len(self.keys) > FEW:
            self._floored_index = self._floored_keys()
        self.update_pass_through()

    def unsubscribe(self, keys: Iterable[str], subscriber: Subscriber) -> None:
        """End the subscriptions to these keys."""
        if self.keys is None:
            return
        for key in keys:
            if key not in self.keys:
                continue
            prediction_id = key.removeprefix(PREDICTION)
            if key.startswith(PREDICTION):
                self._drop_floor_of_key(prediction_id)
                self.verified(prediction_id)
            else:
                self._wide -= 1
                self._shared -= key.startswith(("tag:", "model:"))
            del self.keys[key]
            self._hub.unsubscribe(key, subscriber)
        self._drop_floors_beside()
        self.update_pass_through()

    def clear(self, subscriber: Subscriber) -> None:
        """End every subscription."""
        for key in self.keys or ():
            self._hub.unsubscribe(key, subscriber)
        self.keys = self._floored_index = self._floors = self._claimed = self._unverified = None
        self._wide = self._shared = self._floored = 0

    def apply(self, permissions: Permissions, subscriber: Subscriber) -> list[str]:
        """Go on under other permissions; each prediction subscribed to by id is checked again.

        Returns:
            The wide keys that they do not cover: those subscriptions have ended.
        """
        same = permissions.grants_like(self.permissions)
        self.permissions = permissions
        if same:
            return []  # a renewed token with the same rights: nothing to check
        ended = []
        for key in self.keys or ():
            if key.startswith(PREDICTION):
                self._check_again(key.removeprefix(PREDICTION))
            elif not permissions.may_watch_key(key):
                ended.append(key)
        self.unsubscribe(ended, subscriber)
        return ended

    def accept(self, change: Change) -> bool:
        """Whether the client gets this change: it is news, and may be seen. Asked once for each."""
        prediction_id = change.prediction_id
        floor = self.floor(prediction_id)
        if change.version + change.expired <= floor or not self._may_see(change):
            return False
        if self._snapshots:
            # The snapshot under way may have read an older version: sent after this one it would
            # take the client back. With the floor it is left out.
            self.raise_floor(prediction_id, change.version)
        else:
            self._drop_floor(prediction_id)
        if change.deleted and self.keys is not None and PREDICTION + prediction_id in self.keys:
            self._check_again(prediction_id)  # whoever creates it again may be somebody else
        return True

    def wants(self, change: Change) -> bool:
        """Whether a change that waits is still subscribed to, and may still be seen."""
        keys = self.keys or {}
        subscribed = (
            "all" in keys
            or PREDICTION + change.prediction_id in keys
            or (change.owner is not None and "owner:" + change.owner in keys)
            or (change.model is not None and "model:" + change.model in keys)
            or any("tag:" + tag in keys for tag in change.tags)
        )
        return subscribed and self._covers(change)

    def may_want(self, prediction_id: str) -> bool:
        """As `wants`, by the id alone; in doubt True: the record decides once it is read."""
        return self._wide > 0 or PREDICTION + prediction_id in (self.keys or {})

    def _may_see(self, change: Change) -> bool:
        unverified = self._unverified
        asked = unverified is not None and change.prediction_id in unverified
        if not asked and not self._checks_each:
            return True
        if not self._covers(change):
            return False
        self.verified(change.prediction_id)
        return True

    def _covers(self, change: Change) -> bool:
        """Whether the permissions cover it; decoded only if it tries again what they name."""
        return self.permissions.may_watch(
            change.prediction_id, change.owner, change.model, change.tags
        ) or self.permissions.covers_attempt(change.value)

    @property
    def _checks_each(self) -> bool:
        """Whether each change must be checked: a tag or model may also be on nobody's record."""
        return self._shared > 0 and not self.permissions.may_watch_all()

    def _check_again(self, prediction_id: str) -> None:
        """Check at the next change, unless the permissions cover the id whoever owns it."""
        if not self.permissions.may_watch(prediction_id, None, None, ()):
            self._unverified = self._unverified or set()
            self._unverified.add(prediction_id)
        else:
            self.verified(prediction_id)

    def verified(self, prediction_id: str) -> None:
        """The client may see this prediction, by its record."""
        if self._unverified is not None:
            self._unverified.discard(prediction_id)

    # Floors. A snapshot is read from the store, where a change stands before the hub announces it:
    # without a floor the client would get the change that its snapshot contains a second time.

    def raise_floor(self, prediction_id: str, version: int) -> bool:
        """Remember that the client has this version; False if it has it or a newer one."""
        floor = self.floor(prediction_id)
        if floor >= version:
            return False
        key = PREDICTION + prediction_id
        if self.keys is not None and key in self.keys:
            if not self.keys[key]:
                self._floored += 1
                if self._floored_index is None and self._floored == 1 and len(self.keys) > FEW:
                    self._floored_index = set()
                if self._floored_index is not None:
                    self._floored_index.add(prediction_id)
            self.keys[key] = version
        else:
            if self._floors is None:
                self._floors = {}
            self._floors[prediction_id] = version
            if len(self._floors) > FLOORS:
                self._drop_floor_beside(next(iter(self._floors)))
        return True

    def floor(self, prediction_id: str) -> int:
        """The version up to which nothing more is sent, as far as this client differs; or 0."""
        floor = 0
        if self._floored and self.keys is not None:
            floor = self.keys.get(PREDICTION + prediction_id, 0)
        if self._floors is not None:
            floor = max(floor, self._floors.get(prediction_id, 0))
        return floor

    def _drop_floor(self, prediction_id: str) -> None:
        if self._floors is not None:
            self._drop_floor_beside(prediction_id)
        self._drop_floor_of_key(prediction_id)

    def _drop_floor_of_key(self, prediction_id: str) -> None:
        key = PREDICTION + prediction_id
        if not self._floored or self.keys is None or not self.keys.get(key):
            return
        self.keys[key] = 0
        self._floored -= 1
        if self._floored_index is not None:
            self._floored_index.discard(prediction_id)
        if not self._floored:
            self._floored_index = None

    def _floored_keys(self) -> set[str]:
        return {key.removeprefix(PREDICTION) for key, floor in (self.keys or {}).items() if floor}

    def _drop_floor_beside(self, prediction_id: str) -> None:
        if self._floors is not None:
            self._floors.pop(prediction_id, None)
        if self._claimed is not None:
            self._claimed.discard(prediction_id)

    def _drop_floors_beside(self) -> None:
        """Without a wide subscription, keep the floors of what is subscribed to by id alone."""
        if self._floors is None or self._wide:
            return
        keys = self.keys or {}
        floors, self._floors, self._claimed = self._floors, None, None
        for prediction_id, version in floors.items():
            if PREDICTION + prediction_id in keys:
                self.raise_floor(prediction_id, version)

    def begin_snapshot(self) -> int:
        """A snapshot begins: what goes out is remembered until it ends.

        Returns:
            How many are under way now.
        """
        self._snapshots += 1
        self.passes_through = False
        return self._snapshots

    def end_snapshot(self) -> int:
        """A snapshot has ended; returns how many are still under way."""
        self._snapshots -= 1
        self._drop_floors_beside()  # the snapshot may have outlived its subscription
        self.drop_announced_floors()
        return self._snapshots

    def drop_announced_floors(self, names: Iterable[str] | None = None) -> None:
        """Drop the floors of versions that the hub itself will not announce again.

        Args:
            names: Of these predictions alone, instead of all.
        """
        if (self._floored or self._floors is not None) and not self._snapshots:
            if names is None:
                named = self._floored_keys() if self._floored_index is None else self._floored_index
                names = (*named, *(self._floors or ()))
            version = self._hub.version
            for prediction_id in names:
                if version(prediction_id) >= self.floor(prediction_id):
                    self._drop_floor(prediction_id)
        self.update_pass_through()

    def update_pass_through(self) -> None:
        """See whether anything is left that must be decided change by change."""
        if not self._floors:
            self._floors = self._claimed = None
        if not self._unverified:
            self._unverified = None
        self.passes_through = not (
            self._snapshots
            or self._floored
            or self._floors is not None
            or self._unverified is not None
            or self._checks_each
        )
