"""The key of the tokens in webhook URLs, made at the first start if one process does all."""

import os
import secrets
from pathlib import Path

from tidings.config.settings import WEBHOOK_SECRET, Settings, SettingsError, replace
from tidings.config.validators import at_least
from tidings.storage.private_files import make_folder

FILE = "webhook.key"


def with_webhook_key(settings: Settings) -> Settings:
    """The settings with a webhook key.

    The one that is set, else the one in the data folder, which is made if there is none.

    Raises:
        SettingsError: The file is there and cannot be used, or cannot be made.
    """
    if settings.webhook_key or not settings.everything:
        return settings
    if settings.log.startswith("memory://"):
        return replace(settings, webhook_key=secrets.token_hex(32))
    file = settings.data_folder / FILE
    try:
        key = _read(file) or _make(file)
    except OSError as error:
        raise _unusable(file, error) from None
    return replace(settings, webhook_key=key)


def check_webhook_key(settings: Settings) -> None:
    """Raise `SettingsError` if the key in the data folder cannot be used; none is made."""
    if not settings.webhook_key and settings.everything:
        if settings.log.startswith("memory://"):
            return  # it is made again at each start
        file = settings.data_folder / FILE
        try:
            _read(file)
        except OSError as error:
            raise _unusable(file, error) from None


def _unusable(file: Path, error: OSError) -> SettingsError:
    reason = error.strerror or error
    return SettingsError(
        f"TIDINGS_WEBHOOK_KEY: {file} cannot be used ({reason}); fix it, or set the key"
    )


def _read(file: Path) -> str | None:
    try:
        key = file.read_text(encoding="utf-8-sig", errors="replace").strip()
    except FileNotFoundError:
        return None
    if not key:
        raise SettingsError(f"TIDINGS_WEBHOOK_KEY: {file} is empty; remove it, or set the key")
    try:
        at_least(WEBHOOK_SECRET)(key)
    except ValueError as error:
        raise SettingsError(f"TIDINGS_WEBHOOK_KEY: {file} {error}") from None
    return key


def _make(file: Path) -> str:
    """Write the file whole under another name, and link it.

    So of two processes one wins, and none reads half a key.
    """
    make_folder(file.parent)
    key = secrets.token_hex(32)
    draft = file.with_name(f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as out:
            out.write(key + "\n")
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            return _read(file) or key
    finally:
        draft.unlink(missing_ok=True)
    return key
