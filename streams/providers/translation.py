"""From a webhook to its event, whichever provider sent it. Pure."""

from msgspec.structs import force_setattr, replace

from tidings.storage.prediction import ABSENT
from tidings.storage.redaction import without_proofs
from tidings.streams.providers.payload import readable
from tidings.streams.providers.protocol import Provider, Webhook
from tidings.streams.rules.event import Event, OtherResource, Poison

_RAW_FIELDS = ("payload", "output", "provider_urls", "assets")
_TEXT_FIELDS = ("prompt", "error", "logs", "image_url")


def translate(provider: Provider, webhook: Webhook) -> Event:
    """What a webhook reports, without anything that proves another webhook.

    Raises:
        Poison: It makes no sense; the code says why.
        OtherResource: It is about something else than a prediction.
    """
    body = readable(webhook.body)
    if body is not webhook.body:
        webhook = replace(webhook, body=body)
    try:
        event = provider.translate(webhook)
    except (Poison, OtherResource):
        raise
    except Exception as error:
        # A fault in one mapping must not stop everybody's partition; once it is fixed, a redrive
        # brings this back.
        raise Poison(
            "translation-failed", f"{provider.name}: {type(error).__name__}: {error}"
        ) from error
    if b"webhooks" in body:
        _drop_proofs(event)
    _drop_names_with_nul(event)
    return event


def _drop_proofs(event: Event) -> None:
    """A provider repeats its order, and with it the address that it reports to.

    The token there proves a webhook.
    """
    for name in _RAW_FIELDS:
        raw = bytes(getattr(event, name))
        if raw and (shown := without_proofs(raw)) is not raw:
            force_setattr(event, name, type(ABSENT)(shown))
    for name in _TEXT_FIELDS:
        text = getattr(event, name)
        if isinstance(text, str) and (shown_text := without_proofs(text)) is not text:
            force_setattr(event, name, shown_text)


def _drop_names_with_nul(event: Event) -> None:
    """What predictions are listed by cannot hold U+0000 in every store.

    The report counts all the same.
    """
    dropped = []
    for name in ("model", "owner"):
        if "\0" in (getattr(event, name) or ""):
            force_setattr(event, name, None)
            dropped.append(name)
    if event.tags and any("\0" in tag for tag in event.tags):
        force_setattr(event, "tags", tuple(tag for tag in event.tags if "\0" not in tag))
        dropped.append("tags")
    if dropped:
        force_setattr(event, "left_out", (*event.left_out, *dropped))
