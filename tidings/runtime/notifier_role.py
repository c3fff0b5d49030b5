"""The notifier of a process, put together from the settings: word to other servers."""

import asyncio
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import Struct

from tidings.config.settings import Settings, SettingsError
from tidings.observability.health import HealthMonitor
from tidings.runtime.resources import Resources
from tidings.streams.notifications.address import AddressBook, BadAddress
from tidings.streams.notifications.dispatcher import Dispatcher
from tidings.streams.notifications.notifier import Notifier, Target
from tidings.streams.notifications.sender import WebhookSender

READY_SOON = 5.0
"""Seconds within which it must go round to count as ready."""


class NotifierRole(Struct, frozen=True):
    """A notifier at work."""

    notifier: Notifier
    task: asyncio.Task[None]

    async def ready(self) -> str | None:
        """What is in the way; None: nothing."""
        if not self.notifier.started:
            return "the notifier has not noted yet where it begins"
        silent = time.monotonic() - self.notifier.last_alive
        return (
            None if silent < READY_SOON else f"the notifier has not gone round for {silent:.0f} s"
        )

    def figures(self) -> dict[str, object]:
        """For `/api/stats`."""
        dispatcher = self.notifier.dispatcher
        return {
            "delivered": dispatcher.delivered,
            "failed": dispatcher.failed,
            "givenUp": dispatcher.given_up,
            "waiting": dispatcher.waiting,
            "switchedOff": [
                {"host": off.host, "at": off.at, "reason": off.reason}
                for off in dispatcher.switched_off.values()
            ],
        }


def address_book_of(settings: Settings) -> AddressBook | None:
    """What seals the addresses of webhooks; None: none are set up."""
    if not settings.notify_secret or not settings.webhook_key:
        return None
    return AddressBook(settings.webhook_key.encode(), settings.notify_allow)


@asynccontextmanager
async def notifier_role(
    settings: Settings, resources: Resources, book: AddressBook
) -> AsyncIterator[NotifierRole]:
    """Tell other servers until the block ends.

    Raises:
        SettingsError: An address of the settings is none that may be told.
    """
    wanted = frozenset(settings.notify_events)
    try:
        targets = [Target(book.seal(url), wanted) for url in settings.notify]
    except BadAddress as error:
        raise SettingsError(
            f"TIDINGS_NOTIFY: {error}; a private or http address is named in TIDINGS_NOTIFY_ALLOW"
        ) from None
    secrets = [b64decode(secret.removeprefix("whsec_")) for secret in settings.notify_secret]
    sender = WebhookSender(secrets, settings.notify_allow)
    dispatcher = Dispatcher(resources.log, sender.send, book, at_once=settings.notify_concurrency)
    notifier = Notifier(resources.log, dispatcher, book, targets)
    task = asyncio.create_task(notifier.run(), name="notifier")
    try:
        yield NotifierRole(notifier, task)
    finally:
        notifier.stop()
        try:
            await asyncio.wait([task], timeout=4)
        finally:
            task.cancel()
            await sender.close()


async def open_notifier(
    settings: Settings,
    resources: Resources,
    health: HealthMonitor,
    watch: Callable[[asyncio.Task[None]], None],
    stack: AsyncExitStack,
) -> NotifierRole | None:
    """Tell other servers until the stack ends; None if that is not set up, or not done here."""
    book = address_book_of(settings)
    if "notifier" not in settings.roles or book is None:
        return None
    role = await stack.enter_async_context(notifier_role(settings, resources, book))
    watch(role.task)
    health.observe_notifier(role.notifier)
    health.observe_rounds("notifier", lambda: role.notifier.last_alive)
    return role
