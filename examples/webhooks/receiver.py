"""Receives webhooks of Tidings: `TIDINGS_NOTIFY_SECRET=whsec_... python receiver.py 9000`. It takes standardwebhooks."""

import os
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["TIDINGS_NOTIFY_SECRET"])
seen: set[str] = set()  # in earnest a table of your database, kept for a day


def received(headers: Mapping[str, str], body: bytes) -> None:
    """Raises `WebhookVerificationError` if it is not from your Tidings."""
    message = webhook.verify(body, dict(headers))
    if headers["webhook-id"] in seen:
        return  # a repeat: an answer of yours got lost
    seen.add(headers["webhook-id"])
    print(message["type"], message["data"]["predictionId"], flush=True)


class Receiver(BaseHTTPRequestHandler):
    """Answers at once; longer work belongs in a queue."""

    def do_POST(self) -> None:
        """Take a webhook."""
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            received({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(204)
        except WebhookVerificationError:
            self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
