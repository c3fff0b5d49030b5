"""Cursors that tell nothing about the records that their holder may not see."""

import base64
import binascii
import hmac
import os
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


class CursorSeal:
    """Hides cursors of stores from callers who see a part of a page alone.

    A store's cursor names the last record of its page, which may be a stranger's.

    Args:
        key: The same in every gateway, so that a cursor may go to any of them; None: one of this
            process.
    """

    def __init__(self, key: bytes | None) -> None:
        derived = hmac.new(key or os.urandom(32), b"tidings cursor", sha256).digest()
        self._key = base64.urlsafe_b64encode(derived)

    @cached_property
    def _fernet(self) -> "Fernet":
        from cryptography.fernet import (
            Fernet,  # 5 MB that a service has no use for before its first long list
        )

        return Fernet(self._key)

    def seal(self, cursor: str) -> str:
        """The cursor as the caller gets it."""
        return self._fernet.encrypt(cursor.encode()).decode()

    def unseal(self, sealed: str) -> str:
        """The store's cursor; raises ValueError if it is none that was given out."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except (InvalidToken, binascii.Error, UnicodeError):
            raise ValueError("not a cursor") from None
