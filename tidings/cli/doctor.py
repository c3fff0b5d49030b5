"""`tidings doctor`: what is in force, and whether each part works."""

import asyncio
import json
import sys
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from msgspec import Struct

from tidings.cli.support import command, output, token_check, webhook_check
from tidings.cli.support.store_check import Warned, examined, new_file, writable
from tidings.cli.support.webhook_check import WebhookFailed
from tidings.config.checks import check_serving, short_secrets
from tidings.config.settings import NAMES, WEBHOOK_SECRET, Settings, SettingsError
from tidings.storage.redaction import Redactor

_PLACES = frozenset({"TIDINGS_LOG", "TIDINGS_STORE", "TIDINGS_ASSETS"})
_WORST_FIRST = ("failed", "warning", "ok")

WITHIN = 8.0
"""Seconds that one part may take to answer."""


class Finding(Struct, frozen=True):
    """What was found out about one part."""

    part: str
    state: str
    """`ok`, `warning` or `failed`."""
    says: str
    ms: float = 0.0


def register(commands: command.Commands) -> None:
    """Add the command."""
    about = (
        "Print the settings in force, secrets masked, and try each part.\n\n"
        "With --webhook a signed test goes through the whole path of a running service, and its "
        "record is removed again.\n\n"
        "With --token it says what a client's token gives, and why not more."
    )
    parser = command.parser(commands, "doctor", run, about, "tidings doctor --webhook replicate")
    parser.add_argument(
        "--webhook",
        metavar="PROVIDER",
        help="send a signed test webhook of this provider, and time it",
    )
    parser.add_argument(
        "--url", metavar="URL", help="the running service, for --webhook; else host and port as set"
    )
    parser.add_argument(
        "--token",
        metavar="T",
        help="a client's token: what it gives here, and why not more; - reads it from the input",
    )
    parser.add_argument(
        "--all", action="store_true", help="print every setting, those at their defaults too"
    )
    command.add_places(parser)
    command.add_config(parser)
    command.add_json(parser)


def run(arguments: Namespace) -> int:
    """Print, try, and tell by the exit code whether all of it works."""
    settings = command.settings(arguments, "log", "store")
    rows = list(in_force(settings))
    token = sys.stdin.read() if arguments.token == "-" else arguments.token  # noqa: S105 - no password
    findings = command.run_loop(examine(settings, arguments.webhook, arguments.url, token))
    if arguments.as_json:
        found = [
            {name: getattr(finding, name) for name in finding.__struct_fields__}
            for finding in findings
        ]
        shown = {name: {"value": value, "from": origin} for name, value, origin in rows}
        output.print_line(json.dumps({"settings": shown, "parts": found}, default=str))
    else:
        _print_findings(findings)
        output.print_line("")
        _print_settings(rows, every=arguments.all)
    return (
        command.FAILED if any(finding.state == "failed" for finding in findings) else command.DONE
    )


def _print_findings(findings: list[Finding]) -> None:
    """What is wrong first."""
    width = max(len(finding.part) for finding in findings)
    for finding in sorted(findings, key=lambda one: _WORST_FIRST.index(one.state)):
        output.print_line(
            f"{finding.state:<7}  {finding.part:<{width}}  {finding.says}  [{finding.ms:.0f} ms]"
        )


def _print_settings(rows: list[tuple[str, Any, str]], *, every: bool) -> None:
    """Those that were set, and where the data is; `every`: all of them."""
    shown = [row for row in rows if every or row[2] != "default" or row[0] in _PLACES]
    width = max((len(name) for name, _, _ in shown), default=0)
    for name, value, origin in shown:
        output.print_line(
            f"{name:<{width}}  {_text(value)}" + (f"  ({origin})" if origin != "default" else "")
        )
    if left := len(rows) - len(shown):
        output.print_line(f"{left} settings are at their defaults; --all shows them")


def in_force(settings: Settings) -> list[tuple[str, Any, str]]:
    """Name in the environment, value as it may be shown, and where it was set."""
    from tidings.config.loader import env_name

    rows = [
        (env_name(name), settings.shown(name), settings.origins.get(name, "default"))
        for name in settings.__struct_fields__
        if name in NAMES
    ]
    for key, origin in settings.origins.items():
        if key not in settings.__struct_fields__:
            rows.append((env_name(key), "set", origin))
    return rows


def _text(value: Any) -> str:
    if value is None or value == ():
        return "-"
    return ",".join(str(one) for one in value) if isinstance(value, tuple) else str(value)


async def examine(
    settings: Settings,
    webhook: str | None = None,
    url: str | None = None,
    token: str | None = None,
) -> list[Finding]:
    """Try every part, at the same time; and then by itself, because it is timed, a webhook's way.

    Args:
        settings: In force.
        webhook: The provider of a test webhook; None: none is sent.
        url: Of the running service that it is sent to; None: as set.
        token: A client's, to say what it gives; None: none.
    """
    parts: list[tuple[str, Callable[[Settings], Awaitable[str]]]] = [
        ("access", _access),
        ("limits", _limits),
        ("providers", _providers),
        ("log", _log),
        ("store", _store),
        ("assets", _assets),
    ]
    if settings.traces is not None:
        parts.append(("traces", _traces))
    if settings.notify_secret:
        parts.append(("notifications", _notifications))
    others = {
        "fallback": settings.store_fallback,
        "split": split[0] if (split := settings.split_arm) else None,
    }
    parts += [(name, partial(examined, url=url)) for name, url in others.items() if url is not None]
    found = list(await asyncio.gather(*(_try(name, part, settings) for name, part in parts)))
    if webhook is not None:
        way = partial(webhook_check.through, name=webhook, url=url)
        found.append(await _try("webhook", way, settings, webhook_check.WITHIN * 2))
    if token is not None:
        said = await token_check.explained(settings, token.strip())
        found += [Finding(one.part, one.state, one.says) for one in said]
    return found


async def _try(
    name: str,
    part: Callable[[Settings], Awaitable[str]],
    settings: Settings,
    within: float = WITHIN,
) -> Finding:
    from tidings.storage.errors import StorageError
    from tidings.streams.log.protocol import LogError
    from tidings.streams.providers.configuration import BadConfiguration

    start = time.perf_counter()
    state = "failed"
    try:
        async with asyncio.timeout(within):
            says = await part(settings)
        state = "ok"
    except Warned as warning:
        state, says = "warning", str(warning)
    except TimeoutError:
        says = f"no answer within {within:.0f} s; is it running, and reachable from here?"
    except (
        SettingsError,
        StorageError,
        LogError,
        BadConfiguration,
        WebhookFailed,
        OSError,
    ) as error:
        says = str(error)
    except Exception as error:  # whatever a part does, the others are told of
        says = f"{type(error).__name__}: {error}"
    says = Redactor(settings.secrets()).text(" ".join(says.split()))
    return Finding(name, state, says, (time.perf_counter() - start) * 1000)


async def _access(settings: Settings) -> str:
    from tidings.config.webhook_key import check_webhook_key

    check_serving(settings)
    check_webhook_key(settings)
    if short := short_secrets(settings):
        raise Warned(
            f"{', '.join(short)}: fewer than {WEBHOOK_SECRET} bytes; make a longer one: openssl "
            "rand -hex 32"
        )
    if settings.jwks_url and not (settings.jwt_issuer or settings.jwt_audience):
        raise Warned(
            "TIDINGS_JWKS_URL: whatever its keys sign is taken, other applications' tokens too; set "
            "TIDINGS_JWT_ISSUER and TIDINGS_JWT_AUDIENCE"
        )
    of_issuers = any(issuer.role_scopes for issuer in settings.issuers)
    if settings.role_claims and not settings.role_scopes and not of_issuers:
        raise Warned(
            "TIDINGS_ROLE_CLAIMS: gives nothing without TIDINGS_ROLE_SCOPES, such as "
            "editor=read:all write"
        )
    if not settings.authenticates:
        where = (
            "on loopback alone" if not settings.anonymous else "TIDINGS_ANONYMOUS lets everybody in"
        )
        return f"nobody has to say who they are: {where}"
    kinds = {
        "JWT secret": settings.jwt_secret,
        "JWKS": settings.jwks_url,
        "issuers": settings.issuers,
        "API keys": settings.api_keys,
    }
    return (
        f"clients are authenticated by {', '.join(name for name, value in kinds.items() if value)}"
    )


async def _limits(settings: Settings) -> str:
    from tidings.runtime import limits

    if "gateway" not in settings.roles:
        return "this process serves no clients"
    if found := limits.warnings_of(settings):
        raise Warned("; ".join(found))
    behind = (
        "the one that a trusted proxy forwards"
        if settings.trusted_proxies
        else "the one that connects"
    )
    return (
        f"an address ({behind}; loopback has no limit) may have {settings.address_connections} "
        "WebSockets and "
        f"{settings.address_streams} streams, an owner {settings.owner_connections} connections, a "
        "session "
        f"{settings.session_subscriptions} subscriptions; {limits.open_files()} files may be open"
    )


async def _providers(settings: Settings) -> str:
    from tidings.streams.providers.job_api import submission_api_of
    from tidings.streams.providers.registry import open_providers

    opened = open_providers(settings.providers)
    idle = sorted(set(settings.providers) - set(opened))
    if idle:
        raise Warned(
            f"{', '.join(idle)}: set, but without a secret its webhooks are answered with 404"
        )
    if not opened:
        raise Warned(
            "none is configured: every webhook is answered with 404; set TIDINGS_REPLICATE_SECRET, "
            "for example"
        )
    says = f"webhooks are taken from {', '.join(sorted(opened))}"
    submitting = sorted(
        name for name, provider in opened.items() if submission_api_of(provider) is not None
    )
    if not submitting:
        return f"{says}; no token is set, so nothing is submitted"
    if settings.public_url is None:
        return f"{says}; to submit to {', '.join(submitting)}, set TIDINGS_PUBLIC_URL"
    return f"{says}, and predictions submitted to {', '.join(submitting)}"


async def _log(settings: Settings) -> str:
    from tidings.runtime.resources import log_of
    from tidings.streams.log.protocol import EVENTS, TopicMissing
    from tidings.streams.processing.processor import GROUP

    if settings.log.startswith("memory://"):
        return "in memory: gone when the service ends"
    if settings.log.startswith("sqlite://") and (says := new_file(settings.log)) is not None:
        return says
    try:
        log = await log_of(settings, create=False)
    except TopicMissing as missing:
        raise Warned(f"the broker answers; {missing}") from None
    try:
        bounds = await log.bounds(EVENTS)
        await log.committed(EVENTS, GROUP)  # needs a right on the group, as the processor does
        kept = sum(end - first for first, end in bounds.values())
        return f"{log.name}, {await log.identity()}: {len(bounds)} partitions, {kept} records kept"
    finally:
        await log.close()


async def _notifications(settings: Settings) -> str:
    from tidings.runtime.resources import log_of
    from tidings.streams.log.protocol import TopicMissing
    from tidings.streams.notifications.delivery_index import DeliveryIndex

    if settings.log.startswith("memory://"):
        return "in memory: only the service itself knows what waits"
    if settings.log.startswith("sqlite://") and (says := new_file(settings.log)) is not None:
        return says
    try:
        log = await log_of(settings, create=False)
    except TopicMissing as missing:
        raise Warned(str(missing)) from None
    try:
        index = DeliveryIndex(log)
        await index.refresh()
    finally:
        await log.close()
    waiting = ", ".join(f"{count:,} for {host}" for host, count in index.waiting.items())
    says = f"webhooks that wait: {waiting or 'none'}"
    if off := index.switched_off:
        hosts = "; ".join(f"{one.host} ({one.reason})" for one in off[:5])
        raise Warned(
            f"{len(off)} addresses are switched off: {hosts}; once they are well, "
            f"tidings dead-letters redrive --reason webhook-off turns them on; {says}"
        )
    return says


async def _store(settings: Settings) -> str:
    from tidings.runtime.resources import check_stores, unshared_store

    check_stores(settings)
    if (doubt := unshared_store(settings)) is not None:
        raise Warned(doubt)
    return await examined(settings, settings.store)


async def _assets(settings: Settings) -> str:
    from tidings.runtime.resources import data_open_to_others
    from tidings.storage.object_storage import ObjectStorage

    if found := data_open_to_others(settings):
        names = " ".join(str(place) for place in found)
        raise Warned(f"other users of this machine can read {names}; chmod go= {names}")

    objects = ObjectStorage(settings.assets)
    if (folder := objects.local_path("")) is not None:
        writable(folder)
        return f"{folder} can be written"
    await objects.check()
    return f"{objects.shown}: an object was put, read and removed"


async def _traces(settings: Settings) -> str:
    from tidings.observability.traces import tracing

    async with tracing(settings) as traces:
        wrong = await traces.check() if traces is not None else None
    if wrong is not None:
        raise Warned(f"{settings.shown('traces')} takes no spans, and they are lost: {wrong}")
    return (
        f"{settings.shown('traces')} takes spans; of webhooks {settings.trace_sample:.2%} are "
        "traced"
    )
