"""Any other sender, described in `tidings.toml`.

How it proves itself, where its fields stand, what its words mean.

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

from tidings.storage.prediction import ABSENT, CURRENCY, Status, Usage
from tidings.streams.providers import payload as bodies
from tidings.streams.providers import usage as usages
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import (
    ByAddress,
    check_hex_hmac,
    hex_hmac,
    open_secrets,
    required,
)
from tidings.streams.providers.signatures.standard_webhooks import (
    StandardWebhooks,
    header_bytes,
    open_keys,
    signed_headers,
)
from tidings.streams.rules.event import Event, Poison
from tidings.streams.rules.questions import question_of

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
    "input_tokens",
    "output_tokens",
    "seconds",
    "images",
    "cost",
    "question",
    "question_id",
)

_step = re.compile(r"([^.\[\]]+)|\[(\d{1,6})\]")
_path = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[\d{1,6}\])*")
_object = msgspec.json.Decoder(dict[str, Raw])
_array = msgspec.json.Decoder(list[Raw])
_numbers = msgspec.json.Decoder(int | float, strict=False)

Path = tuple[str | int, ...]


class _Options(Struct, frozen=True, forbid_unknown_fields=True):
    """The provider's own table."""

    proof: Literal["standard", "sha256", "address"] = "standard"
    header: str = "x-signature"
    statuses: dict[str, Status] = {}
    fields: dict[Literal[FIELDS], str] = {}  # type: ignore[valid-type]
    currency: str | None = None
    """Of what stands at `cost`."""


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
    currency: str | None = None

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
            return bodies.text(self._at("id", bodies.members(bodies.readable(body))))
        except Poison:
            return None

    def translate(self, webhook: Webhook) -> Event:
        """What stands at the configured places."""
        body = bodies.members(webhook.body)
        word = bodies.text(self._at("status", body))
        payload = self._at("payload", body)
        progress = _number(self._at("progress", body), 1)
        generation_time = _number(self._at("generation_time", body), 1e12)
        left_out = [
            name
            for name, value in (("progress", progress), ("generation_time", generation_time))
            if value is None and self._at(name, body)
        ]
        asked = self._question(body) if webhook.questions else ABSENT
        return bodies.event(
            webhook,
            self.name,
            bodies.text(self._at("id", body)),
            waiting=True if asked else None,
            question=asked,
            question_id=bodies.text(self._at("question_id", body)) if asked else None,
            left_out=tuple(left_out),
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
            progress=progress,
            generation_time=generation_time,
            usage=self._usage(body) if webhook.usage else None,
        )

    def _question(self, body: Mapping[str, Raw]) -> Raw:
        """What it asks: a question as it is, anything else as the text of one."""
        found = self._at("question", body)
        try:
            question_of(found)
        except (msgspec.DecodeError, RecursionError):
            text = bodies.text(found)
            return Raw(msgspec.json.encode(text)) if text else ABSENT
        return found

    def _usage(self, body: Mapping[str, Raw]) -> Usage | None:
        return usages.usage(
            input_tokens=self._at("input_tokens", body),
            output_tokens=self._at("output_tokens", body),
            seconds=usages.seconds(self._at("seconds", body)),
            images=self._at("images", body),
            cost=self._at("cost", body),
            currency=self.currency,
        )

    def _at(self, field: str, body: Mapping[str, Raw]) -> Raw:
        """What stands at a field's place; absent if the way there ends early."""
        path = self.fields.get(field)
        if path is None:
            return ABSENT
        value = body.get(str(path[0]), ABSENT)
        for step in path[1:]:
            start = bytes(value).lstrip()[:1]
            if isinstance(step, int):
                items = _array.decode(value) if start == b"[" else []
                value = items[step] if step < len(items) else ABSENT
            else:
                value = _object.decode(value).get(step, ABSENT) if start == b"{" else ABSENT
        return bodies.given(value)

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """Signed with the first secret; id and success stand where the settings say."""
        said: Any = {}
        word = next(
            (word for word, status in self.statuses.items() if status is Status.SUCCEEDED),
            "succeeded",
        )
        for field, value in (("id", prediction_id), ("status", word)):
            if (path := self.fields.get(field)) is not None:
                said = _with(said, path, value)
        body = msgspec.json.encode(said)
        if self.keys is not None:
            return SampleWebhook(body, signed_headers(self.name, self.keys, body, now))
        return SampleWebhook(body, {self.header: f"sha256={hex_hmac(self.secrets[0], body)}"})


class GenericByAddress(ByAddress, Generic, frozen=True):
    """The same for a sender that signs nothing."""

    def _sample_body(self, prediction_id: str) -> bytes:
        return Generic.sample(self, prediction_id, 0).body


def _number(raw: Raw, most: float) -> float | None:
    """A number from 0 to `most`, which may be written as text; None: it is none."""
    try:
        number = _numbers.decode(raw) if raw else None
    except msgspec.DecodeError:
        return None
    return number if number is not None and 0 <= number <= most else None


def _with(said: Any, path: Path, value: Any) -> Any:
    """The same with a value at this path; what is missing on the way there is made."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        items = list(said) if isinstance(said, list) else []
        items += [None] * (step + 1 - len(items))
        items[step] = _with(items[step], rest, value)
        return items
    members = dict(said) if isinstance(said, dict) else {}
    members[step] = _with(members.get(step), rest, value)
    return members


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
    if ("cost" in options.fields) is not (options.currency is not None):
        raise BadConfiguration(
            f"[providers.{name}] needs `currency` and `cost` in its fields, or neither"
        )
    if options.currency is not None and re.search(CURRENCY, options.currency) is None:
        raise BadConfiguration(
            f"`currency` in [providers.{name}] is no code of three capital letters, such as USD"
        )
    fields = {
        field: _parse(path)
        for field, path in ({"id": "id", "status": "status"} | options.fields).items()
    }
    statuses = {status.value: status for status in Status} | options.statuses
    keys = open_keys(name, configuration) if options.proof == "standard" else None
    secrets = () if keys is not None else open_secrets(name, configuration)
    kind = GenericByAddress if options.proof == "address" else Generic
    return kind(name, keys, secrets, options.header.lower(), statuses, fields, options.currency)


MANIFEST = Manifest(
    open=open_provider,
    configured_by="a table in `tidings.toml`, see below",
    proof="Standard Webhooks, HMAC-SHA256 in hex, or a token in the address",
    options=None,
    translates_unconfigured=False,
)
