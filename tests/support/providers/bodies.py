"""Genuine bodies, signed here by plain `hmac` and `cryptography`, never by the code under test."""

import base64
import hashlib
import hmac

from tidings.streams.providers.protocol import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""Of the known-good vector in the Standard Webhooks reference implementations."""
KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
NOW = 1614265330
AT = 1764000000000

REPLICATE = (
    b'{"completed_at":"2025-06-08T12:06:20.383588891Z","created_at":"2025-06-08T12:06:15.127Z","data_removed":false,'
    b'"error":null,"id":"vcscvthbaxrm80cq9xqtcbaw4m","input":{"prompt":"a jersey","seed":17454220438242315174},'
    b'"logs":"Using seed: 7710683\\nGenerating...\\n","metrics":{"image_count":1,"predict_time":5.247161016},'
    b'"model":"black-forest-labs/flux-kontext-pro","output":"https://replicate.delivery/xezq/tmp5v_v9dtm.png",'
    b'"started_at":"2025-06-08T12:06:15.136Z","status":"succeeded",'
    b'"urls":{"get":"https://api.replicate.com/v1/predictions/vcscvthbaxrm80cq9xqtcbaw4m",'
    b'"cancel":"https://api.replicate.com/v1/predictions/vcscvthbaxrm80cq9xqtcbaw4m/cancel"},"version":"hidden",'
    b'"webhook":"https://example.com/hook","webhook_events_filter":["start","completed","logs","output"]}'
)
"""A prediction as Replicate's documentation of webhooks shows it, with a seed over 2^53."""


def signature(
    body: bytes, identity: str = "msg_1", timestamp: int | str = NOW, key: bytes = KEY
) -> str:
    signed = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed(
    body: bytes, identity: str = "msg_1", timestamp: int | str = NOW, key: bytes = KEY
) -> dict[str, str]:
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(body, identity, timestamp, key),
    }


def webhook(
    body: bytes, prediction_id: str | None = None, delivery: str | None = "msg_1"
) -> Webhook:
    return Webhook(body, prediction_id, AT, delivery)
