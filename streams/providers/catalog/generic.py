"""Any other sender, described in `tidings.toml`: how it proves itself, where its fields stand, what its words mean.

Pure. An example:

    [providers.acme]
    kind = "generic"
    secret = "..."
    proof = "sha256"                 # or "standard", "address"
    header = "x-acme-signature"      # for sha256: `sha256=<hex>` or the bare hex
    [providers.acme.statuses]
    done = "succeeded"
    [providers.acme.fields]
    id = "job.id"
    status = "job.state"
    output = "job.results[0].url"
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import (
    ByAddress,
    check_hex_hmac,
    open_secrets,
    required,
)
from tidings.streams.providers.signatures.standard_webhooks import (
    StandardWebhooks,
    header_bytes,
    open_keys,
)
from tidings.streams.rules.event import Event, Poison

FIELDS = (
    "id",
    "status",
    "payload",
    "prompt",
    "model",
    "output",
    "error",
    "logs",
    "progress",
    "generation_time",
)

_step = re.compile(r"([^.\[\]]+)|\[(\d{1,6})\]")
_path = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[\d{1,6}\])*")
_object = msgspec.json.Decoder(dict[str, Raw])
_array = msgspec.json.Decoder(list[Raw])

Path = tuple[str | int, ...]


class _Options(Struct, frozen=True, forbid_unknown_fields=True):
    """The provider's own table."""

    proof: Literal["standard", "sha256", "address"] = "standard"
    header: str = "x-signature"
    statuses: dict[str, Status] = {}
    fields: dict[Literal[FIELDS], str] = {}  # type: ignore[valid-type]


class Generic(Struct, frozen=True):
    """Webhooks of a sender that the settings describe."""

    name: str
    keys: StandardWebhooks | None
    """For `standard`."""
    secrets: tuple[bytes, ...]
    """For `sha256` and `address`."""
    header: str
    statuses: Mapping[str, Status]
    fields: Mapping[str, Path]

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Generic({self.name})"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """By the proof that is configured."""
        if self.keys is not None:
            return self.keys.verify(headers, body, now)
        value = header_bytes(required(headers, self.header))
        check_hex_hmac(self.secrets, body, [value.removeprefix(b"sha256=")])
        return None

    def prediction_id(self, body: bytes) -> str | None:
        """What stands at `fields.id`."""
        try:
            return bodies.text(self._at("id", Raw(body)))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None

    def translate(self, webhook: Webhook) -> Event:
        """What stands at the configured places."""
        body = Raw(webhook.body)
        bodies.decode(_object, webhook.body)
        word = bodies.text(self._at("status", body))
        payload = self._at("payload", body)
        return bodies.event(
            webhook,
            self.name,
            bodies.text(self._at("id", body)),
            status=bodies.status(self.statuses, word, self.name)
            if "status" in self.fields
            else None,
            payload=payload,
            prompt=bodies.text(self._at("prompt", body))
            if "prompt" in self.fields
            else bodies.prompt(payload),
            model=bodies.text(self._at("model", body)),
            output=self._at("output", body),
            error=bodies.text(self._at("error", body)),
            logs=bodies.text(self._at("logs", body)),
            progress=_number(self._at("progress", body), "progress", 1),
            generation_time=_number(self._at("generation_time", body), "generation_time", 1e12),
        )

    def _at(self, field: str, value: Raw) -> Raw:
        """What stands at a field's place; absent where the way there ends early."""
        path = self.fields.get(field)
        if path is None:
            return ABSENT
        for step in path:
            start = bytes(value).lstrip()[:1]
            if isinstance(step, int):
                items = _array.decode(value) if start == b"[" else []
                value = items[step] if step < len(items) else ABSENT
            else:
                value = _object.decode(value).get(step, ABSENT) if start == b"{" else ABSENT
        return bodies.given(value)


class GenericByAddress(ByAddress, Generic, frozen=True):
    """The same for a sender that signs nothing."""


def _number(raw: Raw, name: str, most: float) -> float | None:
    if not raw:
        return None
    try:
        number = msgspec.json.decode(raw, type=int | float)
    except msgspec.DecodeError:
        number = -1.0
    if not 0 <= number <= most:
        raise Poison("wrong-type", f"{name} is no number from 0 to {most:g}")
    return number


def _parse(path: str) -> Path:
    return tuple(int(index) if index else name for name, index in _step.findall(path))


def open_provider(name: str, configuration: Configuration) -> Generic | None:
    """The sender as described; None without a secret.

    Raises:
        BadConfiguration: The description cannot be followed.
    """
    if not configuration.secret:
        return None
    table: dict[str, Any] = dict(configuration.options)
    try:
        options = msgspec.convert(table, _Options)
    except msgspec.ValidationError as error:
        raise BadConfiguration(f"the table [providers.{name}] of tidings.toml: {error}") from None
    for field, path in options.fields.items():
        if not _path.fullmatch(path):
            raise BadConfiguration(
                f"`{field}` in [providers.{name}.fields] is no path such as job.results[0].url"
            )
    fields = {
        field: _parse(path)
        for field, path in ({"id": "id", "status": "status"} | options.fields).items()
    }
    statuses = {status.value: status for status in Status} | options.statuses
    keys = open_keys(name, configuration) if options.proof == "standard" else None
    secrets = () if keys is not None else open_secrets(name, configuration)
    kind = GenericByAddress if options.proof == "address" else Generic
    return kind(name, keys, secrets, options.header.lower(), statuses, fields)
