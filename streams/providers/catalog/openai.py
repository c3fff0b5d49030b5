"""OpenAI: Standard Webhooks around an event that names a response or a batch and no more.

Pure. The event tells what is final without a result, to a record that stands; a fetched response or batch, which comes
in its own shape, tells the rest, and by its metadata whose it is. Source: OpenAI's documentation of webhooks and of the response and batch objects.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.catalog.openai_api import URL, OpenAIApi
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import Notice
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.standard_webhooks import StandardWebhooks, open_keys
from tidings.streams.rules.event import Event

STATUSES = {
    "queued": Status.STARTING,
    "validating": Status.STARTING,
    "in_progress": Status.PROCESSING,
    "finalizing": Status.PROCESSING,
    "cancelling": Status.PROCESSING,
    "completed": Status.SUCCEEDED,
    "failed": Status.FAILED,
    "incomplete": Status.FAILED,
    "expired": Status.FAILED,
    "cancelled": Status.CANCELED,
}

NAMED_ERRORS = frozenset({"incomplete", "expired"})
"""Kinds of failure that are their own reason."""


class _Data(Struct, frozen=True, gc=False):
    id: str | None = None


class _Event(Struct, frozen=True, gc=False):
    """An event (`object: event`), or a response or batch as fetched."""

    object: str | None = None
    id: str | None = None
    type: str | None = None
    data: _Data | None = None
    status: str | None = None
    model: str | None = None
    input: Raw = ABSENT
    output: Raw = ABSENT
    output_file_id: Raw = ABSENT
    error: Raw = ABSENT
    errors: Raw = ABSENT
    incomplete_details: Raw = ABSENT


_event = msgspec.json.Decoder(_Event)


class OpenAI(Struct, frozen=True):
    """OpenAI's webhooks."""

    keys: StandardWebhooks
    name: str = "openai"
    api: OpenAIApi | None = None
    """For submitting; None without a token."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By Standard Webhooks; the delivery's id is `webhook-id`."""
        return self.keys.verify(headers, body, now)

    def prediction_id(self, body: bytes) -> str | None:
        """`data.id`: the response's or batch's own."""
        found = bodies.peek(_event, body)
        if found is None:
            return None
        return found.data.id if found.data is not None else found.id

    def thin(self, body: bytes) -> Notice | None:
        """The response or batch that is to be fetched, where the body is an event alone."""
        found = bodies.peek(_event, body)
        if found is None or found.data is None or not found.data.id:
            return None
        word = (found.type or "").rpartition(".")[2]
        status = STATUSES.get(word)
        error = word if word in NAMED_ERRORS else None
        return Notice(found.data.id, status=status, error=error) if status is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """An event says how it failed or that it was canceled; a success waits for its result."""
        found = bodies.decode(_event, webhook.body)
        if found.data is not None:
            word = (found.type or "").rpartition(".")[2]
            status = bodies.status(STATUSES, word, self.name)
            return bodies.event(
                webhook,
                self.name,
                found.data.id,
                request_id=found.id,
                status=status if status in (Status.FAILED, Status.CANCELED) else None,
                error=word if word in NAMED_ERRORS else None,
                notice=True,
            )
        output = bodies.given(found.output) or bodies.given(found.output_file_id)
        return bodies.event(
            webhook,
            self.name,
            found.id,
            status=bodies.status(STATUSES, found.status, self.name),
            model=found.model,
            payload=bodies.given(found.input),
            prompt=bodies.string(found.input),
            output=output,
            error=_error(found),
        )


def _error(found: _Event) -> str | None:
    reasons = (
        bodies.text(found.error),
        bodies.text(found.errors),
        bodies.text(found.incomplete_details),
    )
    reason = next((one for one in reasons if one is not None), None)
    if found.status in NAMED_ERRORS:
        return found.status if reason is None else f"{found.status}: {reason}"
    return reason


def open_provider(name: str, configuration: Configuration) -> OpenAI | None:
    """OpenAI as configured; a secret without `whsec_` is the key's bytes themselves. None without a secret."""
    keys = open_keys(name, configuration, plain=True)
    api = (
        OpenAIApi(configuration.token, (configuration.url or URL).rstrip("/"))
        if configuration.token
        else None
    )
    return OpenAI(keys, name, api) if keys is not None else None
