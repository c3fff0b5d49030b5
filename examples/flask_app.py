"""Flask that takes a provider's webhooks and passes them on: `flask --app flask_app run`.

The signature covers the bytes as they came, so they go on as they came; Tidings proves them. The
provider gets its 200 when the webhook is durable.
"""

import os

import httpx
from flask import Flask, Response, request

app = Flask(__name__)
tidings = httpx.Client(base_url=os.environ.get("TIDINGS_URL", "http://127.0.0.1:8080"))
OURS = {"host", "content-length", "connection", "accept-encoding"}


@app.post("/webhooks/<provider>")
def passed_on(provider: str) -> Response:
    """Hand a webhook to Tidings, and its answer to the provider."""
    headers = {name: value for name, value in request.headers if name.lower() not in OURS}
    answer = tidings.post(f"/api/webhooks/{provider}", content=request.get_data(), headers=headers)
    return Response(answer.content, answer.status_code, content_type=answer.headers["content-type"])


@app.get("/pictures/<prediction_id>")
def picture(prediction_id: str) -> Response:
    """What is known of a prediction, for pages that do not watch it."""
    answer = tidings.get(f"/api/predictions/{prediction_id}")
    return Response(answer.content, answer.status_code, content_type=answer.headers["content-type"])
