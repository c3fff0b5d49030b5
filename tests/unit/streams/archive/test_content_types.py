"""What a file is, whatever its sender calls it."""

import pytest

from tidings.streams.archive.content_types import shown_inline, sniff

SAMPLES = [
    (b"\x89PNG\r\n\x1a\n" + bytes(20), "image/png", True),
    (b"\xff\xd8\xff\xe0" + bytes(20), "image/jpeg", True),
    (b"GIF89a" + bytes(20), "image/gif", True),
    (b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(8), "image/webp", True),
    (b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(8), "audio/wav", True),
    (b"ID3\x03" + bytes(20), "audio/mpeg", True),
    (b"\x00\x00\x00\x18ftypisom\0\0\0\0isommp42", "video/mp4", True),
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


@pytest.mark.parametrize(("head", "expected", "inline"), SAMPLES)
def test_files_are_known_by_their_first_bytes(head: bytes, expected: str, inline: bool) -> None:
    """Pictures, sound and film are shown; what could run a script in a page is a download."""
    assert sniff(head) == expected
    assert shown_inline(expected) is inline


def test_a_character_that_the_cut_went_through_is_no_fault() -> None:
    """Text whose beginning ends within a character is text."""
    assert sniff(("a" * 4095 + "ü").encode()) == "text/plain"
