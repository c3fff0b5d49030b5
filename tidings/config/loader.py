"""Where settings come from: flags, environment and `tidings.toml`, merged into one `Settings`."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tidings.config import validators
from tidings.config.checks import check
from tidings.config.settings import (
    DERIVED,
    FIELDS,
    NAMES,
    PREFIX,
    SECRETS,
    Field,
    Settings,
    SettingsError,
    replace,
)
from tidings.config.toml import EMPTY, PARTS, ProviderTable, SettingsFile, read, underscored
from tidings.storage import legacy_environment as selection
from tidings.storage.errors import StoreMisconfigured
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.registry import built_in, known_providers, manifest, open_providers

FILE = "tidings.toml"

_UNPREFIXED = frozenset(name for name in NAMES if not FIELDS[name].setting.prefixed)


_SERVICE_LINK = re.compile(
    r"TIDINGS_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?"
    r"|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_LINKED_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://", re.IGNORECASE)


class Given(Struct, frozen=True):
    """A value as somebody gave it, and the name under which they did."""

    value: Any
    origin: str


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str],
    config: Path | None = None,
    folder: Path | None = None,
) -> Settings:
    """The settings in force.

    Args:
        flags: Flags of the command by setting's name; those that are None were not given.
        environ: The environment. Names with `TIDINGS_TEST_` are for tests, and ignored; so are
            empty values.
        config: The file to read; None: `tidings.toml` in `folder` if there is one.
        folder: The working folder.

    Raises:
        SettingsError: Something is unknown, wrong or missing.
    """
    file = config if config is not None else (folder or Path()) / FILE
    content = read(file, built_in()) if config is not None or file.is_file() else EMPTY
    names = frozenset(underscored(name) for name in content.providers) | {*built_in()}
    given = dict(_from_file(file, content, names)) | dict(_from_environment(environ, names))
    for name, value in (flags or {}).items():
        if value is not None:
            given[name] = Given(value, f"--{name.replace('_', '-')}")
    given = {name: Given(_stripped(entry.value), entry.origin) for name, entry in given.items()}
    given = {name: entry for name, entry in given.items() if entry.value not in ("", [])}
    settings = _settings(given, content.providers, names)
    if "store" not in given:
        settings = replace(settings, store=_original_store(settings, given))
    check(settings)
    _check_providers(settings)
    return settings


def _stripped(value: Any) -> Any:
    """A value without the white space that copying, `echo` and mounted files leave at its ends."""
    if isinstance(value, list):
        return [entry for part in value if (entry := _stripped(part)) != ""]
    # Neither U+FEFF nor U+200B is white space to Python, and both come along with copied text.
    return value.strip().strip("\ufeff\u200b").strip() if isinstance(value, str) else value


def _check_providers(settings: Settings) -> None:
    for name, configuration in settings.providers.items():
        kind = configuration.kind or name
        if kind not in built_in() and kind not in (known := known_providers()):
            start = f"{underscored(name)}_"
            origins = settings.origins.items()
            origin = next(
                (origin for key, origin in origins if key.startswith(start)), f"providers.{name}"
            )
            raise SettingsError(
                f"{origin}: there is no provider {kind!r}; there are {', '.join(known)}"
            )
    try:
        open_providers(settings.providers)
    except BadConfiguration as error:
        raise SettingsError(str(error)) from None


def env_name(name: str) -> str:
    """The environment's name of a setting (or of a provider's part: `replicate_secret`)."""
    field = FIELDS.get(name)
    return field.variable if field is not None else PREFIX + name.upper()


def _from_environment(
    environ: Mapping[str, str], providers: frozenset[str]
) -> Iterator[tuple[str, Given]]:
    for variable, value in environ.items():
        if variable.startswith(PREFIX):
            name = variable[len(PREFIX) :].lower()
            if not value or name.startswith("test_") or _is_service_link(variable, value):
                continue
            if name in _UNPREFIXED or variable != variable.upper() or not _known(name, providers):
                raise SettingsError(_unknown(variable, name, providers, env_name))
        elif variable.lower() in _UNPREFIXED and variable.isupper():
            name = variable.lower()
        else:
            continue
        yield name, Given(value, variable)


def _is_service_link(variable: str, value: str) -> bool:
    """Whether Kubernetes has put a variable there for a Service called `tidings` or `tidings-...`.

    Its names are those of Docker's links (Kubernetes, "Service", environment variables): of a
    Service `tidings` `TIDINGS_SERVICE_HOST`, `TIDINGS_PORT=tcp://10.0.0.7:8080` and their kin.
    """
    return bool(_SERVICE_LINK.fullmatch(variable)) or (
        variable.endswith("_PORT") and bool(_LINKED_ADDRESS.match(value))
    )


def _from_file(
    file: Path, content: SettingsFile, providers: frozenset[str]
) -> Iterator[tuple[str, Given]]:
    for key, value in content.plain.items():
        name = underscored(key).removeprefix("tidings_")
        if not _known(name, providers):
            raise SettingsError(_unknown(f"{file}: {key}", name, providers, str))
        yield name, Given(value, f"{file}: {key}")
    for provider, table in content.providers.items():
        if table.kind is not None:
            yield f"{underscored(provider)}_kind", Given(table.kind, f"{file}: {table.label}.kind")
        for part, value in table.settings.items():
            yield f"{underscored(provider)}_{part}", Given(value, f"{file}: {table.label}.{part}")


def _known(name: str, providers: frozenset[str]) -> bool:
    return name in NAMES or _provider_part(name, providers) is not None


def _provider_part(name: str, providers: frozenset[str]) -> tuple[str, str] | None:
    """Provider and part in `replicate_secret`."""
    for part in PARTS:
        provider = name.removesuffix(f"_{part}")
        if provider == name or (part == "jwks_url" and not _takes_jwks_url(provider)):
            continue
        if provider in providers or provider in {underscored(known) for known in known_providers()}:
            return provider, part
    return None


def _takes_jwks_url(provider: str) -> bool:
    return provider not in built_in() or manifest(provider).takes_jwks_url


def _unknown(
    origin: str, name: str, providers: Iterable[str], spelled: Callable[[str], str]
) -> str:
    candidates = [
        *NAMES,
        *(f"{provider}_{part}" for provider in providers for part in PARTS if part != "jwks_url"),
    ]
    close = difflib.get_close_matches(name, sorted(candidates), n=1, cutoff=0.6)
    hint = (
        f"did you mean {spelled(close[0])}?"
        if close
        else "tidings doctor lists the settings that there are"
    )
    return f"{origin}: is not a setting; {hint}"


def _settings(
    given: Mapping[str, Given], tables: Mapping[str, ProviderTable], names: frozenset[str]
) -> Settings:
    """Bring every value into its type, then convert the whole."""
    plain: dict[str, Any] = {}
    providers: dict[str, dict[str, Any]] = {
        provider: {"kind": table.kind, "options": table.options}
        for provider, table in tables.items()
    }
    for name, entry in given.items():
        try:
            if name in FIELDS:
                plain[name] = _checked(FIELDS[name], entry.value)
            elif (found := _provider_part(name, names)) is not None:
                provider, part = _spelled(found[0], tables), found[1]
                providers.setdefault(provider, {})[part] = _checked_part(part, entry.value)
        except ValueError as error:
            raise SettingsError(f"{entry.origin}: {error}") from None
    plain["providers"] = providers
    plain["origins"] = {name: entry.origin for name, entry in given.items()}
    try:
        return msgspec.convert(plain, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(_named(error, plain, providers, given)) from None


def _spelled(name: str, tables: Mapping[str, ProviderTable]) -> str:
    """The provider whose name is this one with underscores."""
    for known in (*tables, *built_in()):
        if underscored(known) == name:
            return known
    # Last, because looking for what others have installed takes longer than all other settings do.
    return next((known for known in known_providers() if underscored(known) == name), name)


def _checked(field: Field, value: Any) -> Any:
    check, read = field.setting.check, field.setting.read
    if read is not None:
        return read(value)
    if field.is_list:
        entries = _entries(value)
        return entries if check is None else tuple(check(entry) for entry in entries)
    if isinstance(value, str):
        validators.without_controls(value)
        if field.type is bool and field.name in NAMES:
            return selection.truth(value)
        if field.choices:
            return value.lower() if not field.setting.prefixed else value
        if check is not None:
            check(value)
    return value


def _checked_part(part: str, value: Any) -> Any:
    if part == "secret":
        entries = [value] if isinstance(value, str) else _entries(value)
        secrets = tuple(one for entry in entries for one in validators.webhook_secrets(entry))
        for secret in secrets:
            validators.without_controls(secret)
        return secrets
    if part == "token" and isinstance(value, str):
        return validators.header_value(value)
    return validators.http_url(value) if part.endswith("url") and isinstance(value, str) else value


def _entries(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        validators.without_controls(value)
        return validators.words(value)
    if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    raise ValueError("takes a list of texts, or one text with commas")


def _named(
    error: msgspec.ValidationError,
    plain: Mapping[str, Any],
    providers: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Given],
) -> str:
    """Which setting it was that did not convert, and why, without repeating a secret."""
    for name, value in plain.items():
        if name in DERIVED:
            continue
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as found:
            entry = given[name]
            shown = "the value" if name in SECRETS else repr(entry.value)
            return f"{entry.origin}: {shown} does not fit; {_reason(name, found)}"
    for provider, parts in providers.items():
        for part, value in parts.items():
            try:
                msgspec.convert({part: value}, Configuration, strict=False)
            except msgspec.ValidationError as found:
                source = given.get(f"{underscored(provider)}_{part}")
                origin = source.origin if source is not None else f"providers.{provider}.{part}"
                return f"{origin}: the value does not fit; {_reason(part, found)}"
    return str(error)


def _reason(name: str, error: msgspec.ValidationError) -> str:
    if name in FIELDS and (choices := FIELDS[name].choices):
        return f"it is one of {choices}"
    if name in FIELDS and (takes := FIELDS[name].setting.takes):
        return f"it takes {takes}"
    text = str(error).partition(" - at ")[0].partition(", got ")[0]
    for word, meaning in (("int", "a whole number"), ("float", "a number"), ("str", "a text")):
        text = text.replace(f"`{word} | null`", meaning).replace(f"`{word}`", meaning)
    return text[:1].lower() + text[1:]


def _original_store(settings: Settings, given: Mapping[str, Given]) -> str:
    """The store if `TIDINGS_STORE` is not set.

    As the original design's names choose it, else the default.
    """
    names = {env_name(name): entry for name, entry in given.items()}
    chosen = {name: names[name] for name in (*selection.NAMES, *selection.PLACES) if name in names}
    environment = {name: str(entry.value) for name, entry in chosen.items()}
    try:
        url = selection.selected_url(
            environment, {name: entry.origin for name, entry in chosen.items()}
        )
    except StoreMisconfigured as error:
        raise SettingsError(str(error)) from None
    return settings.store if url is None else url
