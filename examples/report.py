"""Report on a prediction by a signed webhook, as a service of yours would.

    export TIDINGS_STANDARD_SECRET=whsec_...
    python examples/report.py http://127.0.0.1:8080 p1 succeeded https://example.com/cat.png

Signed as https://www.standardwebhooks.com says; any library for it does the same.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
import urllib.request


def signed(body: bytes, secret: str) -> dict[str, str]:
    """The headers that prove a body."""
    delivery, stamp = f"msg_{secrets.token_hex(12)}", str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{delivery}.{stamp}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": delivery,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def main(url: str, prediction_id: str, status: str, image_url: str = "") -> None:
    """Send one report; 200 means that it is on the disk."""
    event = {"predictionId": prediction_id, "status": status}
    if image_url:
        event["imageUrl"] = image_url
    body = json.dumps(event).encode()
    headers = signed(body, os.environ["TIDINGS_STANDARD_SECRET"])
    request = urllib.request.Request(f"{url}/api/webhooks/standard", body, headers)
    with urllib.request.urlopen(request) as answer:
        print(answer.status)


if __name__ == "__main__":
    main(*sys.argv[1:])
