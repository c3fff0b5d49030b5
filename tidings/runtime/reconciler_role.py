"""Providers at work for the service: submitting, looking up, canceling, as the settings say."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import quote, urlsplit

from tidings.config.settings import Settings
from tidings.gateway.api.webhooks import url_token
from tidings.observability.metric_tables import ProviderSources
from tidings.runtime.resources import Resources
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.streams.changes.codec import Change
from tidings.streams.changes.feed import ChangeListener
from tidings.streams.lifecycle.answer_delivery import AnswerDelivery
from tidings.streams.lifecycle.deadlines import Deadlines
from tidings.streams.lifecycle.follow_ups import FollowUps
from tidings.streams.lifecycle.groups import Groups
from tidings.streams.lifecycle.retries import Retries, may_be_retried
from tidings.streams.log.protocol import LogError
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import job_api_of
from tidings.streams.providers.registry import manifest
from tidings.streams.rules.event import Archive
from tidings.streams.rules.large_fields import whole
from tidings.streams.rules.timeouts import DefaultTimeouts
from tidings.streams.submission.event_publisher import EventPublisher
from tidings.streams.submission.http import HttpCalls
from tidings.streams.submission.reconcile_policy import Timeouts
from tidings.streams.submission.reconciler import Reconciler, may_be_late, remember_unfinished
from tidings.streams.submission.status_client import StatusClient
from tidings.streams.submission.submitter import ChangeWaiter, Load, Submitter, WebhookUrl
from tidings.streams.submission.text_readers import TextReaders
from tidings.streams.submission.thin_webhooks import ThinWebhookReader
from tidings.streams.submission.throttle import Limits, ProviderThrottle

CONCURRENCY = 16
"""Calls to a provider at once, if its settings do not say."""

READY_SOON = 5.0
"""Seconds within which the reconciler must go round to count as ready."""

logger = get_logger(__name__)


def webhook_url_of(settings: Settings, port: int) -> WebhookUrl | None:
    """The addresses that providers report to; None: nobody has said where they reach this service.

    Args:
        settings: With a webhook key.
        port: The one that is served; a public URL with port 0 means this one.
    """
    if settings.public_url is None or not settings.webhook_key:
        return None
    parts = urlsplit(settings.public_url)
    base = (
        parts._replace(netloc=f"{parts.hostname}:{port}").geturl()
        if parts.port == 0
        else settings.public_url
    )
    key = settings.webhook_key.encode()

    def webhook_url(provider: str, prediction_id: str) -> str:
        path = f"/api/webhooks/{quote(provider, safe='')}/{quote(prediction_id, safe='')}"
        return f"{base.rstrip('/')}{path}?token={url_token(key, prediction_id)}"

    return webhook_url


def limits_of(settings: Settings, provider: str) -> Limits:
    """What is in force for calls to a provider."""
    own = settings.providers.get(provider, Configuration())
    known = manifest(own.kind or provider).creates_a_minute
    return Limits(own.concurrency or CONCURRENCY, own.rate or known)


def owes(encoded: bytes) -> bool:
    """Whether something may still be owed of what has failed or was canceled."""
    return may_be_late(encoded) or may_be_retried(encoded)


class ProviderWork:
    """What a process has for working with providers.

    Args:
        settings: As checked.
        resources: What is open.
        port: The one that is served.
        load: Reads records past any cache that may be behind; None: the store does.
        timeouts: How long is waited; None: as the settings say.
        reached: See `Submitter`.
    """

    def __init__(
        self,
        settings: Settings,
        resources: Resources,
        port: int,
        *,
        load: Load | None = None,
        timeouts: Timeouts | None = None,
        reached: Callable[[int, str], None] | None = None,
    ) -> None:
        self._resources, self._reached = resources, reached
        self._load = load or resources.store.load
        self.timeouts = timeouts or Timeouts(silence=max(1, int(settings.reconcile_after * 1000)))
        self.calls = HttpCalls()
        self.throttles = {
            name: ProviderThrottle(name, self.calls.send, limits_of(settings, name))
            for name, provider in resources.providers.items()
            if job_api_of(provider) is not None
        }
        self.publisher = EventPublisher(resources.log, Archive(settings.archive))
        self.webhook_url = webhook_url_of(settings, port)
        self.status_client = StatusClient(
            resources.providers,
            self.throttles,
            self.publisher,
            self.webhook_url,
            strict=resources.policy.strict,
        )
        self.submissions: Submitter | None = None
        self.reconciler: Reconciler | None = None
        self.deadlines: Deadlines | None = None
        self.retries: Retries | None = None
        self.groups: Groups | None = None
        self.answers: AnswerDelivery | None = None
        objects = resources.objects
        self.follow_ups = FollowUps(
            self.publisher, objects.get, objects.shown, (settings.webhook_key or "").encode()
        )
        self.default_timeouts = DefaultTimeouts.parse(settings.timeouts)
        self.thin: ThinWebhookReader | None = None
        self.texts: TextReaders | None = None
        self._reread = asyncio.Event()
        self.surveyed = asyncio.Event()
        """What is unfinished was read once."""

    def submitting(self, waiter: ChangeWaiter) -> Submitter:
        """What submits predictions; `waiter` sees their changes."""
        if self.submissions is None:
            self.submissions = Submitter(
                self._resources.providers,
                self.throttles,
                self.publisher,
                self._load,
                waiter,
                self.webhook_url,
                timeouts=self.timeouts,
                whole=partial(whole, self._resources.objects.get, self._resources.objects.shown),
                reached=self._reached,
            )
        return self.submissions

    async def close(self) -> None:
        """Let calls under way end, and let go of the connections."""
        if self.submissions is not None:
            await self.submissions.close(limit=2)
        await self.calls.close()

    # ---- the reconciler ----

    def notice(self, changes: Sequence[Change]) -> None:
        """Tell the reconciler of changes."""
        if self.reconciler is not None:
            self.reconciler.notice(changes)
        if self.deadlines is not None:
            self.deadlines.notice(changes)
        if self.retries is not None:
            self.retries.notice(changes)
        if self.groups is not None:
            self.groups.notice(changes)
        if self.texts is not None:
            self.texts.notice(changes)
        if self.answers is not None:
            self.answers.notice(changes)

    def missed(self) -> None:
        """Changes were missed: what is unfinished is to be read again."""
        self._reread.set()

    async def _remember(self) -> None:
        """Let the reconciler watch what is unfinished, now and whenever changes were missed."""
        assert self.reconciler is not None
        while True:
            self._reread.clear()
            try:
                count = await remember_unfinished(
                    self.reconciler,
                    self._resources.store,
                    self._resources.log,
                    owes=owes,
                    also=[
                        one.remember
                        for one in (
                            self.deadlines,
                            self.retries,
                            self.groups,
                            self.texts,
                            self.answers,
                        )
                        if one is not None
                    ],
                )
            except (StorageError, LogError) as error:
                logger.warning("reconciler.unfinished_unread", error=str(error))
                await asyncio.sleep(1)
            else:
                logger.info("reconciler.watching", predictions=count)
                self.surveyed.set()
                await self._reread.wait()

    @asynccontextmanager
    async def reconciling(self, watch_changes: bool) -> AsyncIterator[Sequence[asyncio.Task[None]]]:
        """Reconcile until the block ends; gives the tasks that do.

        Args:
            watch_changes: Follow the changes here, because no gateway in this process does.
        """
        watch = (
            ChangeListener(self._resources.log, self.notice, self.missed) if watch_changes else None
        )
        submissions = self.submitting(watch) if watch is not None else self.submissions
        self.thin = ThinWebhookReader(
            self._resources.log, self._resources.providers, self.status_client, self._load
        )
        self.reconciler = Reconciler(
            self._load, self.status_client, submissions, timeouts=self.timeouts, mine=self.thin.mine
        )
        self.deadlines = Deadlines(
            self.publisher, defaults=self.default_timeouts, mine=self.thin.mine
        )
        self.groups = self._groups(self.reconciler, self.thin.mine)
        self.retries = self._retries(self.reconciler, self.groups, self.thin.mine)
        self.texts = TextReaders(
            self._load,
            self._resources.providers,
            self.throttles,
            self.calls.stream,
            self.publisher,
            mine=self.thin.mine,
        )
        self.answers = self._answers(self.thin.mine)
        work = [
            self.answers.run(),
            self.texts.run(),
            self.thin.run(),
            self.reconciler.run(),
            self._remember(),
            self.deadlines.run(),
            self.retries.run(),
            self.groups.run(),
        ]
        if watch is not None:
            await watch.start()
            work.append(watch.run())
        tasks = [asyncio.create_task(one, name="reconciler") for one in work]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=4)

    def _answers(self, mine: Callable[[Collection[int]], bool]) -> AnswerDelivery:
        return AnswerDelivery(
            self._load,
            self._resources.providers,
            self.throttles,
            self.publisher,
            self._resources.objects.get,
            self.webhook_url,
            mine=mine,
        )

    def _groups(self, reconciler: Reconciler, mine: Callable[[Collection[int]], bool]) -> Groups:
        return Groups(self._load, self.follow_ups, reconciler.expect, mine=mine)

    def _retries(
        self, reconciler: Reconciler, groups: Groups, mine: Callable[[Collection[int]], bool]
    ) -> Retries:
        def expect(prediction_id: str, group: str | None) -> None:
            reconciler.expect(prediction_id)
            if group is not None:
                groups.adopt(group)

        return Retries(
            self._load,
            self.follow_ups,
            expect,
            retention=self._resources.expiry.retention,
            mine=mine,
        )

    async def once(self, *, everything: bool = False) -> dict[str, int]:
        """One pass of the reconciler, without the webhooks that a running one reads.

        Args:
            everything: Whatever is unfinished, overdue or not.

        Returns:
            By what was done: how often. `left`: predictions whose provider could not say, or for
                which the store or
            the log was away.

        Raises:
            StorageError, LogError: What is unfinished cannot be read.
        """
        watch = ChangeListener(self._resources.log, self.notice)
        await watch.start()
        following = asyncio.create_task(watch.run())
        submissions = self.submitting(watch)
        passed = Deadlines(self.publisher, defaults=self.default_timeouts)
        try:
            reconciler = self.reconciler = Reconciler(
                self._load, self.status_client, submissions, timeouts=self.timeouts
            )
            groups = self._groups(reconciler, lambda _partitions: True)
            retries = self._retries(reconciler, groups, lambda _partitions: True)
            answers = self._answers(lambda _partitions: True)
            unfinished = await remember_unfinished(
                reconciler,
                self._resources.store,
                self._resources.log,
                owes=owes,
                also=[passed.remember, retries.remember, groups.remember, answers.remember],
                at_once=everything,
                settled=True,
            )
            while (
                await passed.once()
                or await retries.once()
                or await groups.once()
                or await answers.once()
            ):
                pass
            left = await reconciler.once()
            await submissions.idle()
        finally:
            following.cancel()
            await asyncio.wait([following])
        return {
            "unfinished": unfinished,
            "lookedUp": reconciler.done["look"] + reconciler.done["find"],
            "canceled": reconciler.done["cancel"],
            "submitted": submissions.submitted,
            "deadlines": passed.told,
            "retried": retries.asked + retries.created,
            "answered": answers.taken,
            "reported": self.status_client.reported,
            "gone": self.status_client.gone + self.status_client.unknown,
            "left": left + submissions.interrupted + submissions.unknown,
        }

    def last_alive(self) -> float:
        """When the reading of thin webhooks went round last, on the monotonic clock.

        Only while it reconciles.
        """
        assert self.thin is not None
        return self.thin.last_alive

    async def ready(self) -> str | None:
        """What is in the way of reconciling; None: nothing."""
        silent = time.monotonic() - self.last_alive()
        return (
            None if silent < READY_SOON else f"the reconciler has not gone round for {silent:.0f} s"
        )

    def sources(self) -> ProviderSources:
        """What the metrics of this work are read from."""
        return ProviderSources(
            self.throttles,
            lambda: self.submissions,
            lambda: self.reconciler,
            lambda: self.deadlines,
            lambda: self.retries,
            lambda: self.groups,
            lambda: self.texts,
        )

    def figures(self) -> dict[str, object]:
        """For `/api/stats`."""
        throttles = {
            name: {
                "calls": throttle.calls,
                "failed": throttle.failed,
                "throttled": throttle.throttled,
                "leftAlone": throttle.closed_for,
            }
            for name, throttle in self.throttles.items()
        }
        found: dict[str, object] = {
            "providers": throttles,
            "reported": self.status_client.reported,
            "gone": self.status_client.gone,
        }
        if self.submissions is not None:
            waiting, done = self.submissions.waiting, self.submissions.submitted
            found["submissions"] = {
                "waiting": waiting,
                "submitted": done,
                "refused": self.submissions.refused,
            }
        if self.reconciler is not None:
            found["watched"], found["met"] = len(self.reconciler), dict(self.reconciler.done)
        if self.deadlines is not None:
            found["deadlines"] = {"waiting": len(self.deadlines), "told": self.deadlines.told}
        if self.retries is not None:
            found["retries"] = {"asked": self.retries.asked, "created": self.retries.created}
        if self.texts is not None:
            found["texts"] = {"read": len(self.texts), "appended": self.texts.appended}
        if self.answers is not None:
            found["answers"] = {"owed": len(self.answers), "taken": self.answers.taken}
        if self.groups is not None:
            found["groups"] = {"unfinished": len(self.groups), "created": self.groups.created}
        return found
