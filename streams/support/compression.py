"""Bodies that came compressed, whoever sent them, never made larger than is allowed. Pure."""

import zlib

GZIP = b"\x1f\x8b"
"""How gzip begins, and no JSON does."""
ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
"""Of `Content-Encoding`, in lower case, those that are understood."""
MEMBERS = 16
"""Members of one gzip file: each costs a copy of what follows it."""

_EITHER = zlib.MAX_WBITS | 32
"""zlib tells gzip from its own format by the first bytes."""


class TooLarge(ValueError):
    """It has more bytes than allowed; no more than those were made of it."""


def is_compressed(body: bytes, encoding: str | None) -> bool:
    """Whether a body is compressed, by its `Content-Encoding` or by its first bytes."""
    return body.startswith(GZIP) or (encoding is not None and encoding.strip().lower() in ENCODINGS)


def inflated(body: bytes, limit: int) -> bytes:
    """The body as it was before it was compressed.

    Raises:
        TooLarge: It has more than `limit` bytes.
        ValueError: It is neither gzip nor deflate.
    """
    try:
        return _inflate(body, limit, _EITHER)
    except zlib.error:
        pass
    try:
        return _inflate(body, limit, -zlib.MAX_WBITS)  # deflate without its frame, as some send it
    except zlib.error as error:
        raise ValueError(f"neither gzip nor deflate: {error}") from None


def _inflate(body: bytes, limit: int, format_: int) -> bytes:
    found = bytearray()
    for _ in range(MEMBERS):
        stream = zlib.decompressobj(format_)
        found += stream.decompress(body, limit + 1 - len(found))
        if len(found) > limit:
            raise TooLarge(f"more than {limit} bytes when decompressed")
        if not stream.eof:
            raise zlib.error("it ends too early")
        body = stream.unused_data
        if not body:
            return bytes(found)
    raise zlib.error("it has too many members")
