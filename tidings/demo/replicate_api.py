"""Replicate's HTTP API, as far as predictions go.

Create, get, list, cancel, and the secret of its webhooks.

Source: Replicate's HTTP API reference. Paths, fields and statuses are those of the original.
"""

import asyncio
import base64
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from tidings.demo.answers import Handler, answer, problem
from tidings.demo.deliveries import Delivery
from tidings.demo.job_runner import JobRunner
from tidings.demo.jobs import Job, News

PAGE = 100
_EVENTS = frozenset(news.value for news in News)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


class _Create(Struct, frozen=True):
    input: Raw = Raw(b"null")
    version: str | None = None
    model: str | None = None
    webhook: str | None = None
    webhook_events_filter: tuple[str, ...] | None = None
    stream: bool = False


class _Asked(Struct, frozen=True):
    version: str
    webhook: str | None
    events: tuple[str, ...] | None
    stream: bool = False


class ReplicateApi:
    """The routes under `/v1`."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        runner.on_news.append(self._tell)
        runner.on_forgotten.append(self._forget)
        self._asked: dict[str, _Asked] = {}
        self.cut: Callable[[], bool] = lambda: False
        """Whether a stream is cut before its next event."""
        self._key = base64.b64decode(runner.secret.removeprefix("whsec_"))

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each."""
        return [
            ("POST", "/v1/predictions", self._create),
            ("POST", "/v1/models/{owner}/{model}/predictions", self._create),
            ("GET", "/v1/predictions", self._list),
            ("GET", "/v1/predictions/{id}", self._get),
            ("GET", "/v1/streams/{id}", self._stream),
            ("POST", "/v1/predictions/{id}/cancel", self._cancel),
            ("GET", "/v1/webhooks/default/secret", self._secret),
        ]

    def _tell(self, job: Job, news: News) -> None:
        """Send the webhook that this news calls for, with the prediction as it stands now."""
        asked = self._asked.get(job.id)
        if (
            asked is None
            or asked.webhook is None
            or (asked.events is not None and news not in asked.events)
        ):
            return
        identity = f"msg_{secrets.token_urlsafe(20)}"

        def sign(body: bytes, now: float) -> dict[str, str]:
            return self.signed(identity, body, now)

        body = msgspec.json.encode(self.shown(job))
        self._runner.deliveries.send(Delivery(asked.webhook, body, sign, news is News.COMPLETED))

    def _forget(self, job_id: str) -> None:
        """The prediction is no longer known."""
        self._asked.pop(job_id, None)

    def signed(self, identity: str, body: bytes, now: float) -> dict[str, str]:
        """The three headers of Standard Webhooks."""
        timestamp = str(int(now))
        digest = hmac.digest(
            self._key, b".".join((identity.encode(), timestamp.encode(), body)), "sha256"
        )
        return {
            "webhook-id": identity,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }

    def shown(self, job: Job) -> dict[str, Any]:
        """The prediction as it stands, in Replicate's shape."""
        asked = self._asked[job.id]
        gone = self._runner.gone(job)
        base = f"{self._runner.url}/v1/predictions/{job.id}"
        picture = None if gone else job.picture
        shown: dict[str, Any] = {
            "id": job.id,
            "model": job.model,
            "version": asked.version,
            "input": {} if gone else job.input,
            "logs": "" if gone else job.logs,
            "output": f"{self._runner.url}/files/{job.id}/{picture}" if picture else None,
            "data_removed": gone,
            "error": job.error,
            "status": job.status,
            "created_at": _instant(job.created),
            "urls": {"cancel": f"{base}/cancel", "get": base},
        }
        if job.words:
            shown["output"] = None if gone else job.words[: job.written]
            if asked.stream:
                shown["urls"]["stream"] = f"{self._runner.url}/v1/streams/{job.id}"
        if job.started is not None:
            shown["started_at"] = _instant(job.started)
        if job.finished is not None:
            shown["completed_at"] = _instant(job.finished)
            shown["metrics"] = {
                "predict_time": job.predict_time,
                "total_time": job.finished - job.created,
            }
        if asked.webhook is not None:
            shown["webhook"] = asked.webhook
        if asked.events is not None:
            shown["webhook_events_filter"] = asked.events
        return shown

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthenticated(request):
            return refused
        try:
            wanted = msgspec.json.decode(await request.read(), type=_Create)
        except msgspec.DecodeError as error:
            return _invalid("body", str(error))
        if bytes(wanted.input)[:1] != b"{":
            return _invalid("input", "input is required and must be an object")
        if wanted.webhook is not None and not wanted.webhook.startswith(("https://", "http://")):
            return _invalid("webhook", "webhook must be an HTTP(S) URL")
        if unknown := set(wanted.webhook_events_filter or ()) - _EVENTS:
            return _invalid(
                "webhook_events_filter", f"unknown events: {', '.join(sorted(unknown))}"
            )
        named = request.match_info
        model = (
            f"{named['owner']}/{named['model']}"
            if "owner" in named
            else wanted.model or "tidings/landscape"
        )
        if "owner" not in named and wanted.version is None and wanted.model is None:
            return _invalid("version", "version is required")
        job = self._runner.begin(
            model, wanted.input, _deadline(request.headers.get("Cancel-After"))
        )
        events = wanted.webhook_events_filter
        self._asked[job.id] = _Asked(
            wanted.version or "hidden", wanted.webhook, events, wanted.stream
        )
        await _wait_for(job, request.headers.get("Prefer", ""))
        return answer(
            self.shown(job), 201, {"Location": f"{self._runner.url}/v1/predictions/{job.id}"}
        )

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthenticated(request):
            return refused
        job = self._find(request)
        return answer(self.shown(job)) if job is not None else _not_found()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """The answer from its beginning, as it is written."""
        if refused := self._unauthenticated(request):
            return refused
        job = self._find(request)
        if job is None or not job.words or not self._asked[job.id].stream:
            return _not_found()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = 0
        while True:
            grown = job.grown
            while sent < job.written:
                if self.cut() and request.transport is not None:
                    request.transport.abort()
                    return response
                try:
                    await response.write(_event("output", job.words[sent], f"{sent}:0"))
                except ConnectionResetError:  # the reader has gone
                    return response
                sent += 1
            if job.terminal:
                break
            await grown.wait()
        reasons = {"failed": '{"reason": "error"}', "canceled": '{"reason": "canceled"}'}
        if job.error is not None:
            detail = msgspec.json.encode({"detail": job.error}).decode()
            await response.write(_event("error", detail, "error"))
        await response.write(_event("done", reasons.get(job.status, "{}"), "done"))
        return response

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthenticated(request):
            return refused
        job = self._find(request)
        if job is None:
            return _not_found()
        if not job.terminal:
            job.stop.set()
            await job.done.wait()
        return answer(self.shown(job))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if refused := self._unauthenticated(request):
            return refused
        newest = [id_ for id_ in reversed(self._runner.jobs) if id_ in self._asked]
        cursor = request.query.get("cursor")
        if cursor is not None:
            if cursor not in newest:
                return problem(400, "Bad cursor", "The cursor is not one of ours")
            newest = newest[newest.index(cursor) + 1 :]
        page = newest[:PAGE]
        following = (
            f"{self._runner.url}/v1/predictions?cursor={page[-1]}" if len(newest) > PAGE else None
        )
        results = [self.shown(self._runner.jobs[id_]) for id_ in page]
        return answer({"previous": None, "next": following, "results": results})

    async def _secret(self, request: web.Request) -> web.StreamResponse:
        return self._unauthenticated(request) or answer({"key": self._runner.secret})

    def _find(self, request: web.Request) -> Job | None:
        identity = request.match_info["id"]
        return self._runner.jobs.get(identity) if identity in self._asked else None

    def _unauthenticated(self, request: web.Request) -> web.Response | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() in ("bearer", "token") and _same(token.strip(), [self._runner.token]):
            return None
        return problem(401, "Unauthenticated", "You did not pass a valid authentication token")


def _event(kind: str, data: str, identity: str) -> bytes:
    """An event as it is sent; data with line breaks is several lines."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {kind}\nid: {identity}\n{lines}\n".encode()


def _same(given: str, right: Iterable[str]) -> bool:
    return any(hmac.compare_digest(given.encode("utf-8", "replace"), one.encode()) for one in right)


def _not_found() -> web.Response:
    return problem(404, "Not found", "The requested resource could not be found.")


def _invalid(name: str, message: str) -> web.Response:
    fields = [{"type": "invalid", "field": name, "description": message}]
    title = "Input validation failed"
    return answer(
        {
            "title": title,
            "detail": f"- {name}: {message}\n",
            "status": 422,
            "invalid_fields": fields,
        },
        422,
    )


def _instant(seconds: float) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def _deadline(header: str | None) -> float | None:
    """When a prediction with this `Cancel-After` (`90`, `1m`, `1h30m`) is stopped; None: never."""
    match = _DURATION.fullmatch(header.strip()) if header else None
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return time.time() + hours * 3600 + minutes * 60 + seconds


async def _wait_for(job: Job, prefer: str) -> None:
    """Hold the answer back until the prediction has ended, if `Prefer.

    Wait` asks for it (60 s at most).
    """
    match = re.search(r"\bwait(?:=(\d{1,3}))?", prefer)
    if match is None:
        return
    try:
        async with asyncio.timeout(min(60, int(match[1] or 60))):
            await job.done.wait()
    except TimeoutError:
        return
