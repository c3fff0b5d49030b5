"""What a file is, whatever its sender calls it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.streams.archive.content_types import HEAD, shown_inline, sniff

SAMPLES = [
    (b"\x89PNG\r\n\x1a\n" + bytes(20), "image/png", True),
    (b"\xff\xd8\xff\xe0" + bytes(20), "image/jpeg", True),
    (b"GIF89a" + bytes(20), "image/gif", True),
    (b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(8), "image/webp", True),
    (b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(8), "audio/wav", True),
    (b"ID3\x03" + bytes(20), "audio/mpeg", True),
    (b"\x00\x00\x00\x18ftypisom\0\0\0\0isommp42", "video/mp4", True),
    (b"\x00\x00\x00\x18ftypqt  \0\0\0\0isomqt  ", "video/quicktime", True),
    (b"\x00\x00\x00\x18ftypM4A \0\0\0\0isommp42", "audio/mp4", True),
    (b"\x00\x00\x00\x14ftypdash\0\0\0\0iso6", "video/mp4", True),
    (b"\x00\x00\x00\x18ftypmif1\0\0\0\0miafheic", "image/heic", True),
    (b"\x00\x00\x00\x18ftypavif\0\0\0\0mif1miaf", "image/avif", True),
    (b"\x00\x00\x00\x14ftypmif1\0\0\0\0odd ", "application/octet-stream", False),
    (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01\x42\x82\x84webm", "video/webm", True),
    (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01\x42\x82\x88matroska", "video/x-matroska", True),
    (b"RIFF\x00\x00\x00\x00AVI LIST", "video/x-msvideo", True),
    (b"FORM\x00\x00\x00\x00AIFFCOMM", "audio/aiff", True),
    (b"\xff\xf3\x84\xc4" + bytes(20), "audio/mpeg", True),
    (b"OggS\x00\x02" + bytes(20), "audio/ogg", True),
    (b"fLaC\x00" + bytes(20), "audio/flac", True),
    (b"\xff\xf1P\x80" + bytes(20), "audio/aac", True),
    (b"II*\x00\x08\0\0\0" + bytes(9), "image/tiff", True),
    (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0" + bytes(60), "image/bmp", True),
    (b"BMW is a car", "text/plain", True),
    (b"PK\x03\x04" + bytes(20), "application/zip", False),
    (b"\x1f\x8b\x08" + bytes(20), "application/gzip", False),
    (bytes(257) + b"ustar\x0000", "application/x-tar", False),
    (b"glTF\x02" + bytes(20), "model/gltf-binary", False),
    (b"%PDF-1.7\n", "application/pdf", False),
    (b"MZ\x90\x00" + bytes(20), "application/x-msdownload", False),
    (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "image/svg+xml", False),
    (b'\xef\xbb\xbf <?xml version="1.0"?><!-- x --><svg onload="x()"/>', "image/svg+xml", False),
    (b"<!DOCTYPE html><html>", "text/html", False),
    (b"  \n<script>alert(1)</script>", "text/html", False),
    (b"harmless at first <script>alert(1)</script>", "text/html", False),
    (b'<?xml version="1.0"?><a/>', "application/xml", False),
    (b'{"a": 1}', "application/json", True),
    ("grüße".encode(), "text/plain", True),
    (bytes(range(256)), "application/octet-stream", False),
    (b"", "application/octet-stream", False),
]


_beginnings = st.sampled_from([head[:16] for head, _, _ in SAMPLES])


@pytest.mark.parametrize(("head", "expected", "inline"), SAMPLES)
def test_files_are_known_by_their_first_bytes(head: bytes, expected: str, inline: bool) -> None:
    """Pictures, sound and film are shown; what could run a script in a page is a download."""
    assert sniff(head) == expected
    assert shown_inline(expected) is inline


@given(st.binary(max_size=HEAD + 100) | st.builds(bytes.__add__, _beginnings, st.binary()))
def test_any_bytes_are_of_some_kind(head: bytes) -> None:
    """Whatever a sender made up, the answer is a media type, and the same for the part that is looked at."""
    kind = sniff(head)
    assert re.fullmatch(r"(image|audio|video|text|application|model)/[a-z0-9.+\-]+", kind)
    assert sniff(head[:HEAD]) == kind


@given(_beginnings, st.text())
def test_nothing_that_runs_scripts_is_shown(beginning: bytes, text: str) -> None:
    """A file that a browser would read as a page is never among what is shown where it was linked."""
    head = b"<html>" + beginning + text.encode("utf-8", "replace")
    assert not shown_inline(sniff(head))


def test_a_character_that_the_cut_went_through_is_no_fault() -> None:
    """Text whose beginning ends within a character is text."""
    assert sniff(("a" * 4095 + "ü").encode()) == "text/plain"
