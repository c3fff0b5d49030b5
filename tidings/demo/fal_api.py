"""fal's queue API: submit, status, result, cancel, and the keys of its webhooks.

Source: fal's documentation of the queue and of webhooks. The paths are those of the original behind
`/fal`.
"""

import base64
import hashlib
import hmac
from typing import Any

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Raw

from tidings.demo.answers import Handler, answer
from tidings.demo.deliveries import Delivery
from tidings.demo.job_runner import JobRunner
from tidings.demo.jobs import Job, News
from tidings.demo.picture import HEIGHT, WIDTH

STATUS = {"starting": "IN_QUEUE", "processing": "IN_PROGRESS"}
"""Everything that has ended is COMPLETED, failures too."""


class FalApi:
    """The routes under `/fal`."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        runner.on_news.append(self._tell)
        runner.on_forgotten.append(self._forget)
        self._webhooks: dict[str, str | None] = {}
        self._key = Ed25519PrivateKey.generate()

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each."""
        request = "/fal/{owner}/{name}/requests/{id}"
        return [
            ("GET", "/fal/.well-known/jwks.json", self._jwks),
            ("GET", f"{request}/status", self._status),
            ("GET", request, self._result),
            ("PUT", f"{request}/cancel", self._cancel),
            ("POST", "/fal/{model:[^/]+/.+}", self._submit),
        ]

    def _tell(self, job: Job, news: News) -> None:
        """Send the webhook, which fal has for the end alone."""
        webhook = self._webhooks.get(job.id)
        if webhook is None or news is not News.COMPLETED:
            return

        def sign(body: bytes, now: float) -> dict[str, str]:
            return self.signed(job.id, body, now)

        said = {"request_id": job.id, "gateway_request_id": job.id, **self._end(job)}
        self._runner.deliveries.send(Delivery(webhook, msgspec.json.encode(said), sign, True))

    def _forget(self, job_id: str) -> None:
        """The prediction is no longer known."""
        self._webhooks.pop(job_id, None)

    def signed(self, request_id: str, body: bytes, now: float) -> dict[str, str]:
        """The four headers of fal's webhooks."""
        timestamp = str(int(now))
        message = "\n".join((request_id, "demo-user", timestamp, hashlib.sha256(body).hexdigest()))
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": "demo-user",
            "X-Fal-Webhook-Timestamp": timestamp,
            "X-Fal-Webhook-Signature": self._key.sign(message.encode()).hex(),
        }

    def _end(self, job: Job) -> dict[str, Any]:
        """How it ended, in the fields of a webhook."""
        if job.status == "succeeded":
            return {"status": "OK", "error": None, "payload": self._payload(job)}
        if job.status == "canceled":
            return {
                "status": "ERROR",
                "error": "Request was cancelled",
                "error_type": "client_cancelled",
            }
        detail = [{"loc": ["body", "prompt"], "msg": job.error, "type": "model_error"}]
        return {
            "status": "ERROR",
            "error": "Invalid status code: 422",
            "payload": {"detail": detail},
        }

    def _payload(self, job: Job) -> dict[str, Any]:
        picture = {
            "url": f"{self._runner.url}/files/{job.id}/out-0.png",
            "content_type": "image/png",
            "width": WIDTH,
            "height": HEIGHT,
        }
        return {
            "images": [picture],
            "seed": job.wishes.seed or 0,
            "has_nsfw_concepts": [False],
            "prompt": job.wishes.prompt,
            "timings": {"inference": job.predict_time},
        }

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthenticated(request):
            return refused
        body = await request.read()
        try:
            msgspec.json.decode(body, type=dict[str, Raw])
        except msgspec.DecodeError as error:
            return answer({"detail": f"the input is no object: {error}"}, 422)
        webhook = request.query.get("fal_webhook")
        if webhook is not None and not webhook.startswith(("https://", "http://")):
            return answer({"detail": "fal_webhook is no HTTP(S) URL"}, 422)
        job = self._runner.begin(request.match_info["model"], Raw(body))
        self._webhooks[job.id] = webhook
        return answer(self._addresses(job) | {"status": "IN_QUEUE", "queue_position": 0})

    def _addresses(self, job: Job) -> dict[str, Any]:
        owner_and_name = "/".join(job.model.split("/")[:2])
        base = f"{self._runner.url}/fal/{owner_and_name}/requests/{job.id}"
        return {
            "request_id": job.id,
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
        }

    async def _status(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthenticated(request):
            return refused
        job = self._find(request)
        if job is None:
            return _not_found()
        shown: dict[str, Any] = {
            "status": STATUS.get(job.status, "COMPLETED"),
            **self._addresses(job),
        }
        if job.status == "starting":
            shown["queue_position"] = 0
        if request.query.get("logs") in ("1", "true"):
            shown["logs"] = [{"message": line, "level": "INFO"} for line in job.logs.splitlines()]
        if job.terminal:
            shown["metrics"] = {"inference_time": job.predict_time or 0.0}
            end = self._end(job)
            shown |= {
                name: end[name] for name in ("error", "error_type") if end.get(name) is not None
            }
        return answer(shown, 200 if job.terminal else 202)

    async def _result(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthenticated(request):
            return refused
        job = self._find(request)
        if job is None or self._runner.gone(job):
            return _not_found()
        if not job.terminal:
            return answer({"detail": "Request is still in progress"}, 400)
        end = self._end(job)
        if end["status"] == "OK":
            return answer(end["payload"])
        return answer(end.get("payload") or {"detail": end["error"]}, 422)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthenticated(request):
            return refused
        job = self._find(request)
        if job is None:
            return _not_found()
        if job.terminal:
            return answer({"status": "ALREADY_COMPLETED"}, 400)
        job.stop.set()
        return answer({"status": "CANCELLATION_REQUESTED"}, 202)

    async def _jwks(self, _request: web.Request) -> web.StreamResponse:
        x = (
            base64.urlsafe_b64encode(self._key.public_key().public_bytes_raw())
            .rstrip(b"=")
            .decode()
        )
        return answer(
            {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "demo", "use": "sig", "x": x}]}
        )

    def _find(self, request: web.Request) -> Job | None:
        identity = request.match_info["id"]
        return self._runner.jobs.get(identity) if identity in self._webhooks else None

    def _unauthenticated(self, request: web.Request) -> web.Response | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        given = key.strip().encode("utf-8", "replace")
        if scheme.lower() == "key" and hmac.compare_digest(given, self._runner.token.encode()):
            return None
        return answer({"detail": "Authentication is required to access this application."}, 401)


def _not_found() -> web.Response:
    return answer({"detail": "Request not found"}, 404)
