"""Undoing a server's compression, piece by piece and within bounds. Pure.

Files are asked for as they are, and some servers compress all the same. What grows out of all proportion is a bomb.
"""

import zlib
from collections.abc import Iterator

PIECE = 256 * 1024
"""Bytes that come out at most at once."""
RATIO = 100
"""Times that content may grow. Deflate reaches 1,032 (RFC 1951); texts stay below 20, pictures below 2."""
ALLOWANCE = 4 * 1024 * 1024
"""Bytes that may come out whatever the ratio."""
ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
"""Of RFC 9110, 8.4.1, those that are undone."""

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_MEMBER = b"\x1f"
"""How another member of a gzip file begins (RFC 1952, 2.3.1)."""


class Undecodable(ValueError):
    """It is not what its server says, or a bomb; the message says which."""


class Decompressor:
    """Takes gzip (several members too) or zlib as it comes, and gives what was in it."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._taken = 0
        self._given = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out of the next piece, in pieces.

        Raises:
            Undecodable: It cannot be decompressed, or grows too much.
        """
        self._taken += len(data)
        full = False
        while data or full:
            if self._inner.eof:
                if not data.startswith(_MEMBER):
                    return  # padding behind the end, which says nothing
                self._inner = zlib.decompressobj(_GZIP_OR_ZLIB)
            try:
                piece = self._inner.decompress(data, PIECE)
            except zlib.error as error:
                raise Undecodable(f"it cannot be decompressed: {error}") from None
            self._given += len(piece)
            if self._given > ALLOWANCE and self._given > RATIO * self._taken:
                raise Undecodable(f"it grows to more than {RATIO} times its size when decompressed")
            data = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
            full = (
                len(piece) == PIECE and not self._inner.eof
            )  # more may be ready though all was taken in
            if piece:
                yield piece

    @property
    def whole(self) -> bool:
        """Whether it ended where it said that it would."""
        return self._inner.eof
