"""What proving and reading a 1 KB webhook costs, beside the bare library call. `python -m benchmarks.bench_providers`."""

import base64
import hmac
import statistics
import time
from collections.abc import Callable

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.registry import open_providers

NOW = 1764000000
KEY = bytes(range(24))
BODY = msgspec.json.encode(
    {
        "id": "vcscvthbaxrm80cq9xqtcbaw4m",
        "model": "black-forest-labs/flux-kontext-pro",
        "version": "hidden",
        "input": {
            "prompt": "a jersey on a line in the wind, late light",
            "seed": 1745422043824231,
            "aspect_ratio": "1:1",
        },
        "logs": "Using seed: 7710683\nGenerating...\n"
        + "".join(f"step {n} of 12\n" for n in range(12)),
        "output": "https://replicate.delivery/xezq/tmp5v_v9dtm.png",
        "error": None,
        "status": "succeeded",
        "created_at": "2025-06-08T12:06:15.127Z",
        "started_at": "2025-06-08T12:06:15.136Z",
        "completed_at": "2025-06-08T12:06:20.383588891Z",
        "data_removed": False,
        "metrics": {"image_count": 1, "predict_time": 5.247161016},
        "urls": {
            "get": "https://api.replicate.com/v1/predictions/vcscvthbaxrm80cq9xqtcbaw4m",
            "cancel": "https://api.replicate.com/v1/predictions/vcscvthbaxrm80cq9xqtcbaw4m/cancel",
        },
        "webhook": "https://example.com/hook",
        "webhook_events_filter": ["start", "completed", "logs", "output"],
    }
)


def microseconds(function: Callable[[], object], calls: int) -> float:
    """CPU of one call in µs."""
    start = time.process_time_ns()
    for _ in range(calls):
        function()
    return (time.process_time_ns() - start) / calls / 1000


def main() -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    secret = "whsec_" + base64.b64encode(KEY).decode()
    public_text = "whpk_" + base64.b64encode(public.public_bytes_raw()).decode()
    replicate = open_providers({"replicate": Configuration(secret=(secret,))})["replicate"]
    standard = open_providers({"standard": Configuration(secret=(public_text,))})["standard"]
    signed = b"msg_2Lh9KRb0pzN4LePd3XiA4v12Axj.%d." % NOW + BODY
    headers = {
        "webhook-id": "msg_2Lh9KRb0pzN4LePd3XiA4v12Axj",
        "webhook-timestamp": str(NOW),
        "webhook-signature": "v1," + base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode(),
    }
    ed25519 = headers | {
        "webhook-signature": "v1a," + base64.b64encode(private.sign(signed)).decode()
    }
    raw = private.sign(signed)
    webhook = Webhook(BODY, None, NOW * 1000, "msg_2Lh9KRb0pzN4LePd3XiA4v12Axj")
    rows: list[tuple[str, float | None, Callable[[], object], int]] = [
        ("hmac.digest, bare", None, lambda: hmac.digest(KEY, signed, "sha256"), 4000),
        ("HMAC verify", 12, lambda: replicate.verify(headers, BODY, NOW), 4000),
        ("Ed25519PublicKey.verify, bare", None, lambda: public.verify(raw, signed), 500),
        ("Ed25519 verify", 120, lambda: standard.verify(ed25519, BODY, NOW), 500),
        ("msgspec.json.decode, bare", None, lambda: msgspec.json.decode(BODY), 4000),
        ("prediction_id", None, lambda: replicate.prediction_id(BODY), 4000),
        ("translate", 10, lambda: replicate.translate(webhook), 4000),
    ]
    rounds = [[microseconds(function, calls) for _, _, function, calls in rows] for _ in range(9)]
    print(f"a Replicate webhook of {len(BODY)} bytes, CPU in µs, median of 9 interleaved rounds\n")
    print(f"{'what':<32}{'µs':>8}{'budget':>8}{'x bare':>8}")
    bare = 1.0
    for index, (name, budget, _, _) in enumerate(rows):
        median = statistics.median(round_[index] for round_ in rounds)
        bare = median if name.endswith("bare") else bare
        print(f"{name:<32}{median:>8.2f}{budget or '':>8}{median / bare:>8.2f}")


if __name__ == "__main__":
    main()
