"""What one client watches, what it may see, and which versions it has already.

Pure. A watcher that has nothing to check is `plain`: it gets a batch as it is. Anything that has to be looked at
change by change (a snapshot under way, a version that the client has before the hub announces it, a right that hangs
on the record) makes it not plain until that is settled.
"""

from collections.abc import Iterable

from tidings.gateway.auth.permissions import NOBODY, Permissions
from tidings.gateway.push.hub import Hub, Sink
from tidings.streams.changes.codec import Change

PREDICTION = "prediction:"

FLOORS = 100_000
"""Floors kept beside the subscriptions, as many as the hub remembers versions; beyond it the oldest go first."""


class Watcher:
    """The state of one client's subscriptions.

    Args:
        hub: Where its keys are subscribed, and which versions went out.
    """

    __slots__ = (
        "_checked",
        "_claimed",
        "_floored",
        "_floors",
        "_hub",
        "_syncing",
        "_unproven",
        "keys",
        "permissions",
        "settled",
    )

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.permissions: Permissions = NOBODY
        self.keys: dict[str, int] | None = None
        """What it watches, as the hub's keys; of a prediction its floor: a version that the client has, or was sent,
        while the hub has not announced it yet (0: none)."""
        self._floored = 0
        """How many of the keys have a floor."""
        self._floors: dict[str, int] | None = None
        """Floors of predictions that are not watched by name: a wide subscription brings them."""
        self._claimed: set[str] | None = None
        """Those of them that the client itself has named: how many there are is up to it."""
        self._unproven: set[str] | None = None
        """Watched predictions of which it is not known yet whether the client may see them."""
        self._checked = False
        """Each change must be asked about: it watches a tag or a model that also nobody's records may carry."""
        self._syncing = 0
        self.settled = True
        """Whether every change of a watched key goes to the client as it is, deletions apart."""

    @property
    def count(self) -> int:
        """How many subscriptions there are."""
        return len(self.keys or ())

    @property
    def claims(self) -> int:
        """How many predictions, beside those that it watches by name, the client said it knows."""
        return len(self._claimed or ())

    def watch(self, keys: tuple[str, ...], known: dict[str, int], sink: Sink) -> None:
        """Subscribe to these keys; of what is known only newer versions are wanted."""
        if self.keys is None:
            self.keys = {}
        for key in keys:
            if key not in self.keys:
                self.keys[key] = 0
                self._hub.subscribe(key, sink)
            if key.startswith(PREDICTION):
                self._distrust(key.removeprefix(PREDICTION))
        for prediction_id, version in known.items():
            if self.has(prediction_id, version) and PREDICTION + prediction_id not in self.keys:
                if self._claimed is None:
                    self._claimed = set()
                self._claimed.add(prediction_id)
        if len(keys) == 1 and not keys[0].startswith(PREDICTION):
            self._check_wide()
        self.settle()

    def drop(self, keys: tuple[str, ...], sink: Sink) -> None:
        """End the subscriptions to these keys."""
        if self.keys is None:
            return
        for key in keys:
            if key not in self.keys:
                continue
            if self.keys.pop(key):
                self._floored -= 1
            self._hub.unsubscribe(key, sink)
            if self._unproven is not None:
                self._unproven.discard(key.removeprefix(PREDICTION))
        self._forget_unwatched()
        self._check_wide()
        self.settle()

    def leave(self, sink: Sink) -> None:
        """End everything."""
        for key in self.keys or ():
            self._hub.unsubscribe(key, sink)
        self.keys = self._floors = self._claimed = self._unproven = None
        self._floored = 0

    def narrow(self, permissions: Permissions, sink: Sink) -> list[str]:
        """Go on under other rights: ask again about what is watched by name, end what else they do not cover.

        Returns:
            The keys that were ended.
        """
        self.permissions = permissions
        ended = []
        for key in self.keys or ():
            if key.startswith(PREDICTION):
                self._distrust(key.removeprefix(PREDICTION))
            elif not self.may(key):
                ended.append(key)
        self.drop(tuple(ended), sink)
        return ended

    def may(self, key: str) -> bool:
        """Whether the client may watch by this owner, tag, model or everything."""
        kind, _, name = key.partition(":")
        permissions = self.permissions
        if kind == "owner":
            return permissions.may_watch_owner(name)
        if kind == "tag":
            return permissions.may_watch_tag(name)
        if kind == "model":
            return permissions.may_watch_model(name)
        return permissions.may_watch_all()

    def admits(self, change: Change) -> bool:
        """Whether the client gets this change: it is news to it, and it may see it. To be asked once for each."""
        prediction_id = change.prediction_id
        if change.version <= self.floor(prediction_id) or not self._sees(change):
            return False
        if self._syncing:
            self.has(prediction_id, change.version)
        else:
            self._forget_floor(prediction_id)
        if change.deleted and self.keys is not None and PREDICTION + prediction_id in self.keys:
            self._distrust(prediction_id)  # whoever creates it again may be somebody else
        return True

    def covers(self, change: Change) -> bool:
        """Whether a change that waits is still watched, and may still be seen."""
        keys = self.keys or {}
        watched = (
            "all" in keys
            or PREDICTION + change.prediction_id in keys
            or (change.owner is not None and "owner:" + change.owner in keys)
            or (change.model is not None and "model:" + change.model in keys)
            or any("tag:" + tag in keys for tag in change.tags)
        )
        return watched and self.permissions.may_watch(
            change.prediction_id, change.owner, change.model, change.tags
        )

    def covers_id(self, prediction_id: str) -> bool:
        """As `covers`, where only the id is left; in doubt the record decides when it is read."""
        keys = self.keys or {}
        return PREDICTION + prediction_id in keys or any(
            not key.startswith(PREDICTION) for key in keys
        )

    def _sees(self, change: Change) -> bool:
        unproven = self._unproven
        asked = unproven is not None and change.prediction_id in unproven
        if not asked and not self._checked:
            return True
        if not self.permissions.may_watch(
            change.prediction_id, change.owner, change.model, change.tags
        ):
            return False
        self.proven(change.prediction_id)
        return True

    def _distrust(self, prediction_id: str) -> None:
        """Ask about this prediction at its next change, unless the rights cover it whoever owns it."""
        if not self.permissions.may_watch(prediction_id, None, None, ()):
            if self._unproven is None:
                self._unproven = set()
            self._unproven.add(prediction_id)

    def proven(self, prediction_id: str) -> None:
        """The client may see this prediction, by its record."""
        if self._unproven is not None:
            self._unproven.discard(prediction_id)

    def has(self, prediction_id: str, version: int) -> bool:
        """Remember that the client has this version; False where it has it, or a newer one, already."""
        floor = self.floor(prediction_id)
        if floor >= version:
            return False
        key = PREDICTION + prediction_id
        if self.keys is not None and key in self.keys:
            self.keys[key] = version
            self._floored += not floor
        else:
            if self._floors is None:
                self._floors = {}
            self._floors[prediction_id] = version
            if len(self._floors) > FLOORS:
                self._forget_beside(next(iter(self._floors)))
        return True

    def floor(self, prediction_id: str) -> int:
        """The version up to which nothing more is sent, as far as it must be remembered for this client alone."""
        floor = 0
        if self._floored and self.keys is not None:
            floor = self.keys.get(PREDICTION + prediction_id, 0)
        if self._floors is not None:
            floor = max(floor, self._floors.get(prediction_id, 0))
        return floor

    def _forget_floor(self, prediction_id: str) -> None:
        if self._floors is not None:
            self._forget_beside(prediction_id)
        if self._floored and self.keys is not None:
            key = PREDICTION + prediction_id
            if self.keys.get(key):
                self.keys[key] = 0
                self._floored -= 1

    def _forget_beside(self, prediction_id: str) -> None:
        if self._floors is not None:
            self._floors.pop(prediction_id, None)
        if self._claimed is not None:
            self._claimed.discard(prediction_id)

    def _forget_unwatched(self) -> None:
        """Without a wide subscription, keep the floors of what is watched by name alone."""
        keys = self.keys or {}
        if self._floors is None or any(not key.startswith(PREDICTION) for key in keys):
            return
        floors, self._floors, self._claimed = self._floors, None, None
        for prediction_id, version in floors.items():
            if PREDICTION + prediction_id in keys:
                self.has(prediction_id, version)

    def begin_sync(self) -> int:
        """A snapshot begins: the versions that go out are remembered until it ends. Returns how many run now."""
        self._syncing += 1
        self.settled = False
        return self._syncing

    def end_sync(self) -> int:
        """A snapshot has ended. Returns how many still run."""
        self._syncing -= 1
        self._forget_unwatched()  # the snapshot may have outlived its subscription
        self.forget_announced()
        return self._syncing

    def forget_announced(self, names: Iterable[str] | None = None) -> None:
        """Forget the floors of versions that the hub itself will not announce again.

        Args:
            names: Of these predictions alone, instead of all.
        """
        if (self._floored or self._floors is not None) and not self._syncing:
            if names is None:
                keys = self.keys if self._floored and self.keys is not None else {}
                named = [key.removeprefix(PREDICTION) for key, floor in keys.items() if floor]
                names = (*named, *(self._floors or ()))
            version = self._hub.version
            for prediction_id in names:
                if version(prediction_id) >= self.floor(prediction_id):
                    self._forget_floor(prediction_id)
        self.settle()

    def _check_wide(self) -> None:
        self._checked = not self.permissions.may_watch_all() and any(
            key.startswith(("tag:", "model:")) for key in self.keys or ()
        )

    def settle(self) -> None:
        """See whether anything is left that must be looked at change by change."""
        if not self._floors:
            self._floors = self._claimed = None
        if not self._unproven:
            self._unproven = None
        self.settled = not (
            self._syncing
            or self._checked
            or self._floored
            or self._floors is not None
            or self._unproven is not None
        )
