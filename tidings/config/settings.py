"""The settings of the service: one frozen value, read once at the edge.

Everything below takes arguments.

A setting is one field of `Settings`: its type, its default, the text beneath it, and what `Setting`
says of it. Loading, masking, error texts and docs/settings.md read all of that from the field.
`loader.load_settings` merges, in this order, the flags of the command, the environment,
`tidings.toml` and the defaults. In the file a setting has its name from the environment in lower
case without `TIDINGS_`, and a table is the beginning of a name: `[providers.replicate] secret =
"..."` is `TIDINGS_REPLICATE_SECRET`.
"""

import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, Struct

from tidings.config import validators
from tidings.config.issuers import Issuer, claim_name, read_issuers, role_scope
from tidings.config.validators import masked_url
from tidings.storage.redaction import MASK
from tidings.streams.providers.configuration import Configuration

PREFIX = "TIDINGS_"

Role = Literal["gateway", "processor", "archiver", "reconciler", "notifier"]
ROLES: frozenset[Role] = frozenset({"gateway", "processor", "archiver", "reconciler", "notifier"})


HS256_SECRET = 32
"""Bytes that a secret of HS256 has at least (RFC 7518, 3.2: as many as the hash)."""
WEBHOOK_SECRET = 24
"""Bytes that what proves a webhook, or a client, has at least (Standard Webhooks: 24 to 64)."""


class SettingsError(ValueError):
    """A setting is unknown, wrong or missing.

    The message is one line that names it and says what to do.
    """


class Setting(Struct, frozen=True, kw_only=True):
    """What is known of a setting beside its type, its default and its text."""

    check: Callable[[str], object] | None = None
    """Of a text; of a list it checks every entry and gives it back in its normal form.

    It raises ValueError with the end of a sentence that begins with the setting's name.
    """
    secret: bool = False
    """Never shown, and never repeated in an error."""
    prefixed: bool = True
    """Whether its variable begins with `TIDINGS_`; the original design's names do not."""
    source: Literal["anywhere", "flag", "process", "loader"] = "anywhere"
    """Who gives it: anybody, a flag of the command alone, one of our processes to another, the
    loader."""
    takes: str = ""
    """Its values in words, if the type does not say them."""
    read: Callable[[Any], object] | None = None
    """Makes the value out of what was given, in place of `check` and the type's own conversion."""


class Section(Struct, frozen=True):
    """A heading in docs/settings.md, at the first setting that stands below it."""

    title: str


Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0)]
Credential = Annotated[str | None, Setting(secret=True, check=validators.header_value)]
Url = Annotated[str | None, Setting(check=validators.http_url)]
StoreUrl = Setting(check=validators.store_url)
Claim = Annotated[str, Setting(check=claim_name)]
Claims = Annotated[tuple[str, ...], Setting(check=claim_name)]


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set, with its default.

    Times are seconds, sizes bytes, unless said otherwise.
    """

    host: Annotated[str, Section("The process")] = "127.0.0.1"
    """Address to listen on. Another than loopback needs authentication, or `TIDINGS_ANONYMOUS`."""
    port: Port = 8080
    """Port to listen on; 0: any, told by the line at the start and by `--port-file`."""
    role: Annotated[
        tuple[Literal["all"] | Role, ...],
        Setting(takes="all, or a comma list of gateway, processor, archiver, reconciler, notifier"),
    ] = ("all",)
    """What this process does; several with commas between."""
    log: Annotated[str, Setting(check=validators.log_url), Section("Log and store")] = (
        "sqlite:///data/log.db"
    )
    """Where reports and changes lie: `sqlite:///FILE`, `kafka://HOST:9092,HOST2:9092`, `memory://`."""
    store: Annotated[str, StoreUrl] = "sqlite:///data/store.db"
    """Where the state lies: the URL of a [store](stores.md)."""
    store_fallback: Annotated[str | None, StoreUrl] = None
    """URL of a second store, which reads use while the first does not answer."""
    store_split: Annotated[str | None, Setting(check=validators.split_arm)] = None
    """URL and per cent of a second store that holds a part of the predictions:
    `postgresql://...=10`."""
    log_operations: bool = False
    """A line in the log for each operation of a store that went well, with its time."""
    cloudflare_token: Annotated[Credential, Section("Stores at Cloudflare")] = None
    """API token of Cloudflare's REST API, for `cloudflare-kv://`."""
    cloudflare_url: Url = None
    """Another base URL of that API."""
    worker_token: Credential = None
    """Token of the Worker, for `durable-objects://` and `cloudflare-kv+worker://`."""
    prediction_storage_provider: Annotated[Literal["kv", "do"] | None, Setting(prefixed=False)] = (
        None
    )
    """Chooses a store at Cloudflare if `TIDINGS_STORE` is not set: KV or Durable Objects."""
    require_strong_consistency: Annotated[bool | None, Setting(prefixed=False)] = None
    """Chooses Durable Objects if `TIDINGS_STORE` is not set."""
    optimize_for_throughput: Annotated[bool | None, Setting(prefixed=False)] = None
    """Chooses KV if `TIDINGS_STORE` is not set."""
    env: str | None = None
    """`development` chooses KV if `TIDINGS_STORE` is not set."""
    cloudflare_account: str | None = None
    """The account of the KV namespace that was chosen so."""
    cloudflare_namespace: str | None = None
    """The namespace."""
    worker_url: Url = None
    """The Worker of the Durable Objects that were chosen so."""
    topic_prefix: Annotated[str, Section("Topics and time to live")] = ""
    """Put before the names of topics and groups (Kafka)."""
    partitions: Positive = 12
    """Of each topic that is made (Kafka)."""
    retention: Positive = 604800
    """Seconds that events are kept."""
    log_epoch: Count = 0
    """To be raised after recreating a topic: the store then belongs to another log."""
    ttl: Seconds = 3600
    """Seconds that a finished prediction stays visible after its end; 0: forever."""
    ttl_running: Seconds = 604800
    """Seconds that an unfinished one stays visible after its last change; 0: forever."""
    text_window: Seconds = 0.04
    """Seconds within which a gateway joins the pieces of a growing text; 0: each goes out at once."""
    cache_ttl: Annotated[Seconds, Section("The cache")] = 30
    """Seconds that a record is served from memory while changes are not followed closely."""
    cache_records: Count = 100000
    """Records in memory, at most."""
    cache_bytes: Count = 67108864
    """About how much memory they may take."""
    providers: Annotated[dict[str, Configuration], Setting(source="loader")] = {}
    """Per provider what is set for it; those that nothing is set for are left out."""
    public_url: Annotated[Url, Section("Predictions that are submitted here")] = None
    """Where providers and everybody else reach this service; needed to submit predictions."""
    reconcile_after: Seconds = 60
    """Without news of a prediction, after which it is looked up at its provider."""
    timeouts: Annotated[tuple[str, ...], Setting(check=validators.timeout)] = ()
    """Seconds that predictions may take if nobody says it: `replicate=600`,
    `fal:fal-ai/flux=120` for one model, `*=3600` for every provider. Whatever has not ended by then
    fails."""
    prompt_function: str | None = None
    """`module:function` that completes the input of a new prediction."""
    estimate_function: str | None = None
    """`module:function` that estimates how long a new prediction takes."""
    webhook_key: Annotated[
        str | None, Setting(secret=True, check=validators.at_least(WEBHOOK_SECRET))
    ] = None
    """Key of the tokens in webhook addresses, 24 bytes or more; made at the first start if one
    process does all, needed with roles."""
    jwt_secret: Annotated[
        str | None,
        Setting(secret=True, check=validators.at_least(HS256_SECRET)),
        Section("Clients, their rights and limits"),
    ] = None
    """Secret of clients' tokens (HS256), 32 bytes or more; turns authentication on."""
    jwks_url: Url = None
    """Where the public keys of clients' tokens are; turns authentication on."""
    jwt_audience: str | None = None
    """What a token's `aud` must name."""
    jwt_issuer: str | None = None
    """What a token's `iss` must be."""
    api_keys: Annotated[tuple[str, ...], Setting(secret=True, check=validators.header_value)] = ()
    """Keys that may watch, read and write everything, 24 bytes or more beyond loopback; turn
    authentication on."""
    allowed_origins: Annotated[tuple[str, ...], Setting(check=validators.origin)] = ()
    """Origins of pages elsewhere that may use this service from a browser."""
    trusted_proxies: Annotated[tuple[str, ...], Setting(check=validators.network)] = ()
    """Networks whose `X-Forwarded-*` headers are believed."""
    address_connections: Positive = 1000
    """WebSockets of one client address at once; address, owner and session are counted by each
    gateway process."""
    address_handshakes: Positive = 50
    """WebSockets that an address may begin, a second."""
    address_requests: Positive = 100
    """HTTP requests of an address, a second."""
    address_streams: Positive = 200
    """Event streams of an address at once."""
    owner_connections: Positive = 1000
    """WebSockets and event streams at once of one token's `sub`."""
    owner_bytes: Positive = 67108864
    """Bytes held in memory for an owner's connections together: bodies, unread answers, what waits
    to be sent."""
    owner_subscriptions: Positive = 100000
    """Subscriptions of an owner's sessions together."""
    owner_messages: Positive = 2000
    """Messages that an owner's sessions may send together, a second."""
    session_bytes: Positive = 16777216
    """Bytes held in memory for one connection."""
    session_subscriptions: Positive = 10000
    """Subscriptions of one session."""
    session_messages: Positive = 200
    """Messages that one session may send, a second."""
    anonymous: bool = False
    """Serve without authentication on an address other than loopback."""
    owner_claim: Annotated[Claim, Section("What clients' tokens say")] = "sub"
    """The claim that is the owner; `app.user_id` is a member of the claim `app`. `none` for this
    and the next ones: no claim is read."""
    scope_claims: Claims = ("scope", "scp")
    """Claims with scopes: words with spaces between, or a list. Auth0's `permissions` is another."""
    role_claims: Claims = ()
    """Claims with roles: a text or a list, such as `realm_access.roles`."""
    role_scopes: Annotated[
        tuple[str, ...], Setting(check=role_scope, takes="a comma list of ROLE=SCOPES")
    ] = ()
    """The scopes that a role gives, or a scope of another name: `editor=read:all write,boss=admin`."""
    predictions_claim: Claim = "predictions"
    """The claim that lists more predictions."""
    owners_claim: Claim = "owners"
    """The claim that lists more owners."""
    tags_claim: Claim = "tags"
    """The claim that lists tags."""
    models_claim: Claim = "models"
    """The claim that lists models."""
    audience_claim: Claim = "aud"
    """The claim that `TIDINGS_JWT_AUDIENCE` is looked for in: `client_id` for Amazon Cognito's
    access tokens, `azp` for Clerk."""
    issuers: Annotated[
        tuple[Issuer, ...], Setting(read=read_issuers, takes="tables `[[issuers]]`, or JSON")
    ] = ()
    """More issuers, each with keys, audience and claims of its own: [who signs in](../howto/sign-in/index.md)."""
    assets: Annotated[str, Setting(check=validators.assets_url), Section("Files and sizes")] = (
        "file:///data/assets"
    )
    """Where files and large fields are kept: `file:///FOLDER`, `s3://`, `gs://`, `az://`,
    `memory://`."""
    archive: Literal["after", "before", "off"] = "after"
    """When a prediction's files are stored: after its end is announced, before that, or never."""
    assets_ttl: Seconds = 0
    """Seconds that files are kept; 0: as long as their prediction."""
    assets_allow: Annotated[tuple[str, ...], Setting(check=validators.host_port)] = ()
    """`host:port` of servers that files may be fetched from although private or http."""
    held_bytes: Positive = 134217728
    """Bytes held in memory for all connections of a process; see [limits](limits.md)."""
    max_body: Positive = 10485760
    """Bytes of a webhook's body, at most."""
    record_max: Annotated[int, Meta(ge=1024)] = 524288
    """Bytes of a record, at most; fixed in a store by its first opener."""
    text_flush: Annotated[float, Meta(ge=0, le=60)] = 0.5
    """Seconds; the record of a text that grows quickly is written so often at most, and its pieces
    are announced in between. 0: every piece is a version."""
    strict: bool = False
    """Refuse a status that skips one, instead of implying the steps between; fixed in a store by
    its first opener."""
    notify_secret: Annotated[
        tuple[str, ...],
        Setting(secret=True, check=validators.signing_secret),
        Section("Word to other servers"),
    ] = ()
    """What webhooks to other servers are signed with, as Standard Webhooks has it: `whsec_` and
    24 bytes or more in base64. Several: each signs, so that one can follow another."""
    notify: Annotated[tuple[str, ...], Setting(secret=True, check=validators.http_url)] = ()
    """Addresses that are told of every prediction, beside the one that a prediction names."""
    notify_events: tuple[
        Literal["starting", "processing", "succeeded", "failed", "canceled", "waiting"], ...
    ] = ("succeeded", "failed", "canceled")
    """The statuses that they are told of; `waiting`: that a person is asked."""
    notify_allow: Annotated[tuple[str, ...], Setting(check=validators.host_port)] = ()
    """`host:port` of servers that may be told although private or http."""
    notify_concurrency: Positive = 8
    """Requests to one address at once."""
    traces: Annotated[Url, Section("Traces")] = None
    """The address of an OTLP/HTTP collector; None: no traces are made."""
    trace_sample: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """Part of the webhooks that are traced, if their sender did not decide it."""
    port_file: Annotated[Path | None, Setting(source="flag")] = None
    """Flag `--port-file`: the chosen port is written there once it is open."""
    workers: Annotated[Positive, Setting(source="flag")] = 1
    """Flag `--workers`: gateway processes on one port, or without that role so many of the other
    roles; more than one takes a log that is Kafka."""
    health_port: Annotated[Port | None, Setting(source="flag")] = None
    """Flag `--health-port`: health and metrics on a port of this process alone, beside the one that
    it shares."""
    shared_port: Annotated[bool, Setting(source="process")] = False
    """One of several gateways on one port, started by another process."""
    parent: Annotated[int | None, Setting(source="process")] = None
    """The id of the process that has started this one, which ends with it."""
    no_breaker: Annotated[bool, Setting(source="flag")] = False
    """Flag `--no-breaker`: go on processing although nearly everything is poison."""
    origins: Annotated[dict[str, str], Setting(source="loader")] = {}
    """Where each setting that is not at its default was set, by name: a flag, a variable, a key of
    the file."""

    @property
    def roles(self) -> frozenset[Role]:
        """What this process does."""
        return (
            ROLES if "all" in self.role else frozenset(role for role in self.role if role != "all")
        )

    @property
    def everything(self) -> bool:
        """Whether one process does all (no `--role`)."""
        return "all" in self.role

    @property
    def authenticates(self) -> bool:
        """Whether clients have to prove who they are."""
        return bool(self.jwt_secret or self.jwks_url or self.api_keys or self.issuers)

    @property
    def data_folder(self) -> Path:
        """Where this process keeps files of its own.

        Beside the log's file, else beside the store's, else in `data`.
        """
        for url in (self.log, self.store):
            if url.startswith("sqlite://"):
                return sqlite_path(url).parent
        return Path("data")

    @property
    def split_arm(self) -> tuple[str, float] | None:
        """URL and per cent of the B arm."""
        return None if self.store_split is None else validators.split_arm(self.store_split)

    def secrets(self) -> Iterator[str]:
        """Every secret in force by its value, for what keeps them out of the log."""
        for name in SECRETS:
            value = getattr(self, name)
            yield from (value,) if isinstance(value, str) else value or ()
        for provider in self.providers.values():
            yield from provider.secret
            if provider.token:
                yield provider.token
        for url in (self.log, self.store, self.store_fallback, self.store_split, self.assets):
            yield from validators.url_secrets(url or "")

    def shown(self, name: str) -> Any:
        """A setting as it may be shown: secrets masked, passwords in URLs struck out."""
        value = getattr(self, name)
        if name in SECRETS:
            return MASK if value else value
        if isinstance(value, str) and "://" in value:
            return masked_url(value)
        return tuple(map(str, value)) if name == "issuers" else value

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={self.shown(name)!r}' for name in self.__struct_fields__)})"

    def __rich_repr__(self) -> Any:
        for name in self.__struct_fields__:
            yield name, self.shown(name)


class Field(Struct, frozen=True):
    """A setting with all that its definition says."""

    name: str
    type: Any
    """Without annotations and None: `int`, `bool`, `tuple`, `Literal[...]`, ..."""
    default: Any
    limits: Meta | None
    setting: Setting
    section: str | None

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return (PREFIX if self.setting.prefixed else "") + self.name.upper()

    @property
    def is_list(self) -> bool:
        """Whether it takes several texts, with commas between."""
        return get_origin(self.type) is tuple

    @property
    def choices(self) -> str:
        """Its values in words, if there are only some."""
        if self.setting.takes:
            return self.setting.takes
        return ", ".join(map(str, get_args(self.type))) if get_origin(self.type) is Literal else ""


def _plain_type(hint: Any) -> tuple[Any, list[Any]]:
    """The type beneath annotations and `| None`, and the annotations."""
    notes: list[Any] = []
    while True:
        if hasattr(hint, "__metadata__"):
            notes += hint.__metadata__
            hint = hint.__origin__
        elif get_origin(hint) in {Union, types.UnionType} and type(None) in get_args(hint):
            (hint,) = (part for part in get_args(hint) if part is not type(None))
        else:
            return hint, notes


def fields_of(owner: type[Struct]) -> Mapping[str, Field]:
    """The fields of a struct of settings by name, in their order."""
    hints = get_type_hints(owner, include_extras=True)
    found: dict[str, Field] = {}
    for field in msgspec.structs.fields(owner):
        plain, notes = _plain_type(hints[field.name])
        of = {type(note): note for note in reversed(notes)}  # of two of a kind the outer one counts
        section = of.get(Section)
        found[field.name] = Field(
            field.name,
            plain,
            field.default,
            of.get(Meta),
            of.get(Setting, Setting()),
            section.title if section is not None else None,
        )
    return found


FIELDS = fields_of(Settings)
SECRETS = frozenset(name for name, field in FIELDS.items() if field.setting.secret)
NAMES = frozenset(name for name, field in FIELDS.items() if field.setting.source == "anywhere")
"""What can be set in the environment and in the file."""
DERIVED = frozenset(name for name, field in FIELDS.items() if field.setting.source == "loader")


def sqlite_path(url: str) -> Path:
    """The file of a `sqlite://` URL.

    Three slashes are relative to the working folder, four absolute; `%20` is a space.
    """
    return Path(unquote(urlsplit(url).path[1:]))


def replace(settings: Settings, **changes: Any) -> Settings:
    """The settings with some of them changed."""
    return msgspec.structs.replace(settings, **changes)
