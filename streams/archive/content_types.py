"""What a file is, by its first bytes; what its sender calls it does not count. Pure.

Only what a browser shows or people keep is told apart. A file that is taken for another kind is at
most a download, because the list of what may be shown inline (`shown_inline`) is short.
"""

HEAD = 4096
"""Bytes from the beginning that are looked at."""

UNKNOWN = "application/octet-stream"

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\1\0", "image/x-icon"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\xff\x0a", "image/jxl"),
    (b"glTF", "model/gltf-binary"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"),
    (b"\xff\xf1", "audio/aac"),
    (b"\xff\xf9", "audio/aac"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"MThd", "audio/midi"),
    (b"#!AMR", "audio/amr"),
    (b"FLV\1", "video/x-flv"),
    (b"\0\0\1\xb3", "video/mpeg"),
    (b"\0\0\1\xba", "video/mpeg"),
    (b"0&\xb2u\x8ef\xcf\x11", "video/x-ms-wmv"),
    (b"%PDF", "application/pdf"),
    (b"%!PS", "application/postscript"),
    (b"{\\rtf", "application/rtf"),
    (b"PK\3\4", "application/zip"),
    (b"PK\5\6", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"(\xb5/\xfd", "application/zstd"),
    (b"Rar!\x1a\7", "application/x-rar-compressed"),
    (b"SQLite format 3\0", "application/x-sqlite3"),
    (b"\0asm", "application/wasm"),
    (b"MZ", "application/x-msdownload"),
    (b"\x7fELF", "application/x-executable"),
    (b"wOFF", "application/font-woff"),
    (b"wOF2", "application/font-woff"),
    (b"OTTO", "application/font-sfnt"),
    (b"\0\1\0\0\0", "application/font-sfnt"),
)
"""Files known by how they begin, each as its format's own specification says."""
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
"""By the form type of a RIFF file, bytes 8 to 12."""
_IFF = {b"AIFF": "audio/aiff", b"AIFC": "audio/aiff"}
_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
"""By a brand of an ISO media file (ISO/IEC 14496-12, 4.3); any other is a film."""
_SEVERAL = frozenset({b"mif1", b"msf1"})
"""Brands that say only that it is a picture; the compatible ones name which."""
_WEBM, _MATROSKA = b"\x42\x82\x84webm", b"\x42\x82\x88matroska"
"""DocType of an EBML header (RFC 8794, 11.2.2)."""

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
    head = head[:HEAD]
    for beginning, content_type in _BEGINNINGS:
        if head.startswith(beginning):
            return content_type
    return _by_container(head) or _text(head)


def shown_inline(content_type: str) -> bool:
    """Whether a browser may show it where it was linked.

    Everything else could run scripts, and is a download.
    """
    return content_type in _INERT or content_type.startswith(("audio/", "video/"))


def _by_container(head: bytes) -> str | None:
    """The kind of a file whose format is used for several; None: it is none of those."""
    kind = head[8:12]
    match head[:4]:
        case b"RIFF":
            return _RIFF.get(kind, UNKNOWN)
        case b"FORM" if kind in _IFF:
            return _IFF[kind]
        case b"\x1aE\xdf\xa3":
            return (
                "video/webm"
                if _WEBM in head
                else "video/x-matroska"
                if _MATROSKA in head
                else UNKNOWN
            )
    if head[4:8] == b"ftyp":
        length = int.from_bytes(head[:4])
        compatible = [head[at : at + 4] for at in range(16, min(length, len(head), 256), 4)]
        named = [one for one in (kind, *compatible) if one in _BRANDS]
        if kind in _BRANDS or (kind in _SEVERAL and named):
            return _BRANDS[named[0]]
        return UNKNOWN if kind in _SEVERAL else "video/mp4"
    if head[:2] == b"BM" and int.from_bytes(head[2:6], "little") >= 26 and head[6:10] == bytes(4):
        return "image/bmp"
    return "application/x-tar" if head[257:262] == b"ustar" else None


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
