"""Predictions of every kind, as events, and the files that they name."""

import io
import json
import math
import struct
import wave
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, Route

from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

MEDIA = "https://media.example"
MARKDOWN = """# The lighthouse

It stands where **two currents** meet, and is lit by hand.

- built in 1851
- rebuilt after the storm
"""
LONG = "The keeper wrote down every ship that passed. " * 2000
"""92,000 characters: it lies apart from its record."""
LOG = "".join(f"step {number}: loss {1 / (number + 1):.6f}\n" for number in range(4000))
"""Longer than what a record keeps of it."""


def drawing(width: int, height: int, text: str) -> bytes:
    """A picture of this size."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<defs><linearGradient id="g" x2="0.3" y2="1"><stop stop-color="#17324d"/>'
        f'<stop offset="0.6" stop-color="#c96f4a"/><stop offset="1" stop-color="#f0c987"/>'
        f'</linearGradient></defs><rect width="100%" height="100%" fill="url(#g)"/>'
        f'<circle cx="70%" cy="35%" r="{min(width, height) // 6}" fill="#fff3d6"/>'
        f'<text x="50%" y="92%" text-anchor="middle" font-size="{min(width, height) // 9}"'
        f' fill="#241a14" font-family="sans-serif">{text}</text></svg>'
    ).encode()


def tone() -> bytes:
    """A second of sound."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        samples = (round(9000 * math.sin(number / 6)) for number in range(8000))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return content.getvalue()


_FILM = """async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 480, height: 270 });
  const brush = canvas.getContext("2d");
  const recorder = new MediaRecorder(canvas.captureStream(25), { mimeType: "video/webm" });
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const ended = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.start();
  for (let frame = 0; frame < 12; frame++) {
    brush.fillStyle = "#17324d";
    brush.fillRect(0, 0, 480, 270);
    brush.fillStyle = "#f0c987";
    brush.fillRect(0, 150 + frame, 480, 120);
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
  recorder.stop();
  await ended;
  return [...new Uint8Array(await new Blob(parts).arrayBuffer())];
}"""


async def make_film(context: BrowserContext) -> bytes:
    """Half a second of a sunset, as the browser itself records it."""
    page = await context.new_page()
    content = bytes(await page.evaluate(_FILM))
    await page.close()
    return content


async def serve_media(context: BrowserContext) -> None:
    """Answer for `MEDIA`: pictures by their size in the name, sounds, and a film."""
    film = await make_film(context)

    async def answer(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        stem, _, ending = name.partition(".")
        if ending == "svg":
            width, height = (int(number) for number in stem.split("-")[-1].split("x"))
            await route.fulfill(
                body=drawing(width, height, stem.split("-")[0]), content_type="image/svg+xml"
            )
        elif ending == "wav":
            await route.fulfill(body=tone(), content_type="audio/wav")
        elif ending == "webm":
            await route.fulfill(body=film, content_type="video/webm")
        else:
            await route.fulfill(status=404)

    await context.route(f"{MEDIA}/**", answer)


def asset(name: str, content_type: str, size: int, source: str = "") -> dict[str, Any]:
    """An archived file."""
    path = name.rpartition("/")[2]
    return {
        "url": name,
        "path": path,
        "contentType": content_type,
        "bytes": size,
        "source": source or name,
    }


def file(name: str) -> str:
    """The address of a file."""
    return f"{MEDIA}/{name}"


SAMPLES: dict[str, dict[str, Any]] = {
    "picture": {"prompt": "a lighthouse at dusk", "output": [file("lighthouse-900x600.svg")]},
    "tall": {"prompt": "a tower, very tall", "output": file("tower-400x1600.svg")},
    "wide": {"prompt": "a panorama of the bay", "output": file("bay-2400x500.svg")},
    "several": {
        "prompt": "four studies of a heron",
        "output": [file(f"study{number}-600x600.svg") for number in range(4)],
    },
    "video": {
        "prompt": "waves against the rocks",
        "output": {
            "video": {"url": file("waves.webm"), "content_type": "video/webm", "file_size": 48213}
        },
    },
    "audio": {"prompt": "a foghorn, far away", "output": file("foghorn.wav")},
    "model": {
        "prompt": "a lantern to print",
        "output": {
            "mesh": {
                "url": file("lantern.glb"),
                "content_type": "model/gltf-binary",
                "file_name": "lantern.glb",
                "file_size": 1843200,
            }
        },
    },
    "file": {"prompt": "the log book as a document", "output": file("logbook.pdf")},
    "text": {"prompt": "describe the lighthouse", "output": list(MARKDOWN)},
    "long-text": {"prompt": "the whole log book", "output": LONG},
    "json": {
        "prompt": "where is the lighthouse?",
        "output": {"place": {"lat": 54.13, "lon": 13.76}, "confidence": 0.93, "tags": ["sea"]},
    },
    "mixed": {
        "prompt": "draw it and say what you drew",
        "output": [file("sketch-800x600.svg"), "A sketch in ink.", file("reading.wav")],
    },
    "long-prompt": {
        "prompt": "A keeper climbs the stairs, one hundred and eight of them. " * 12,
        "output": "He is at the top.",
    },
    "no-output": {"prompt": "say nothing"},
    "not-archived": {
        "prompt": "a picture that could not be kept",
        "output": file("gone-600x400.svg"),
        "assetsError": "the address answered 403",
    },
}
"""What succeeded, by id."""
OTHERS: dict[str, dict[str, Any]] = {
    "failed": {"status": "failed", "prompt": "too large a canvas", "error": "CUDA out of memory."},
    "reasonless": {"status": "failed", "prompt": "nobody knows why"},
    "canceled": {"status": "canceled", "prompt": "changed my mind"},
    "running": {
        "status": "processing",
        "prompt": "the storm of 1872",
        "progress": 0.4,
        "logs": LOG,
        "provider": "replicate",
        "providerId": "r-1",
    },
    "waiting": {"status": "starting", "prompt": "next in the queue"},
}


def events(start: int) -> list[NewRecord]:
    """All of them, the first one created first."""
    found = []
    at = start
    for prediction_id, fields in (SAMPLES | OTHERS).items():
        at += 1000
        said = {"status": "succeeded", **fields}
        trouble = said.pop("assetsError", None)
        base = {"predictionId": prediction_id, "owner": "ada", "model": "acme/studio-2"}
        created = {"status": "starting", "at": at, "prompt": said.pop("prompt")}
        parts = [{**base, **created}, {**base, **said, "at": at + 700}]
        if trouble:
            parts.append({**base, "type": "archive", "assetsError": trouble, "at": at + 900})
        found += [NewRecord(prediction_id.encode(), json.dumps(part).encode()) for part in parts]
    return found


async def append(folder: Path, records: list[NewRecord]) -> None:
    """Put records into the log of an embedded service."""
    log = await open_log(f"sqlite:///{folder}/data/log.db")
    try:
        await log.append(EVENTS, records)
    finally:
        await log.close()
