"""What a file is, by its first bytes; what its sender calls it does not count. Pure."""

import filetype

HEAD = 4096
"""Bytes from the beginning that are looked at."""

UNKNOWN = "application/octet-stream"

_NAMES = {
    "audio/x-wav": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-aiff": "audio/aiff",
    "video/x-m4v": "video/mp4",
}
_INERT = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "image/heic",
        "image/bmp",
        "image/tiff",
        "image/x-icon",
        "text/plain",
        "application/json",
    }
)
"""What a browser only shows; beside audio and video."""
_HTML = ("<!doctype html", "<html", "<script", "<iframe")


def sniff(head: bytes) -> str:
    """The media type of a file that begins so."""
    if head.startswith(b"glTF"):
        return "model/gltf-binary"
    guessed = filetype.guess(head[:HEAD]) if head else None
    if guessed is not None:
        mime: str = guessed.mime
        return _NAMES.get(mime, mime)
    return _text(head[:HEAD])


def shown_inline(content_type: str) -> bool:
    """Whether a browser may show it where it was linked; everything else could run scripts, and is a download."""
    return content_type in _INERT or content_type.startswith(("audio/", "video/"))


def _text(head: bytes) -> str:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # more than a character that the cut went through
            return UNKNOWN
        text = head[: error.start].decode()
    if not text or any(ord(c) < 0x20 and c not in "\t\n\r\f" for c in text):
        return UNKNOWN
    start = text.lstrip("\ufeff \t\n\r\f").lower()
    if start.startswith("<"):
        if "<svg" in start:
            return "image/svg+xml"
        return (
            "application/xml" if start.startswith("<?xml") and "<html" not in start else "text/html"
        )
    if any(mark in start for mark in _HTML):
        return "text/html"
    return "application/json" if start[:1] in {"{", "["} else "text/plain"
