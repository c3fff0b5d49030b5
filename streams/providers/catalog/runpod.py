"""RunPod: nothing is signed, so a token in the webhook's address proves it.

The model is the endpoint's id.

Pure. Source: RunPod's documentation of serverless endpoints (job states, webhooks, endpoint
operations).
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status, Usage
from tidings.streams.providers import payload as bodies
from tidings.streams.providers import usage as usages
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import (
    Call,
    Order,
    Submitted,
    Unreadable,
    address,
    given_input,
)
from tidings.streams.providers.manifest import Manifest
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import ByAddress, open_secrets
from tidings.streams.rules.event import Event

URL = "https://api.runpod.ai"

STATUSES = {
    "IN_QUEUE": Status.STARTING,
    "IN_PROGRESS": Status.PROCESSING,
    "RUNNING": Status.PROCESSING,
    "COMPLETED": Status.SUCCEEDED,
    "FAILED": Status.FAILED,
    "TIMED_OUT": Status.FAILED,
    "CANCELLED": Status.CANCELED,
}


class _Job(Struct, frozen=True, gc=False, rename="camel"):
    id: str | None = None
    status: str | None = None
    input: Raw = ABSENT
    output: Raw = ABSENT
    error: Raw = ABSENT
    execution_time: float | None = None


_job = bodies.Reader(_Job)


class RunPod(ByAddress, Struct, frozen=True):
    """RunPod's webhooks."""

    secrets: tuple[bytes, ...]
    name: str = "runpod"
    api: "RunPodApi | None" = None
    """For submitting; None without a token."""

    def __repr__(self) -> str:
        """Show no secret."""
        return f"RunPod({len(self.secrets)} secrets)"

    def prediction_id(self, body: bytes) -> str | None:
        """The job's `id`."""
        return bodies.plain_id(body)

    def translate(self, webhook: Webhook) -> Event:
        """The job as it stands."""
        job, left_out = _job.read(webhook.body)
        status = bodies.status(STATUSES, job.status, self.name)
        error = bodies.text(job.error)
        payload = bodies.given(job.input)
        return bodies.event(
            webhook,
            self.name,
            job.id,
            left_out=left_out,
            status=status,
            payload=payload,
            prompt=bodies.prompt(payload),
            output=bodies.given(job.output),
            error="timed out" if error is None and job.status == "TIMED_OUT" else error,
            generation_time=bodies.duration(job.execution_time),
            usage=_usage(job) if webhook.usage else None,
        )

    def _sample_body(self, prediction_id: str) -> bytes:
        return msgspec.json.encode({"id": prediction_id, "status": "COMPLETED"})


def _usage(job: _Job) -> Usage | None:
    """The time of its worker; a vLLM worker's output also says how many tokens there were."""
    output = next(iter(usages.items(job.output)), job.output)
    tokens = usages.members(usages.members(output).get("usage", ABSENT))
    took = bodies.duration(job.execution_time)
    return usages.usage(
        input_tokens=tokens.get("input", ABSENT) or tokens.get("prompt_tokens", ABSENT),
        output_tokens=tokens.get("output", ABSENT) or tokens.get("completion_tokens", ABSENT),
        seconds=None if took is None else took / 1000,
    )


class RunPodApi(Struct, frozen=True):
    """The calls, with the token that they carry."""

    token: str
    url: str = URL

    def __repr__(self) -> str:
        """Show no token."""
        return f"RunPodApi({self.url})"

    def create(self, order: Order) -> Call:
        """Put a job into the endpoint's queue."""
        body: dict[str, Any] = {"input": given_input(order)}
        if order.webhook is not None:
            body["webhook"] = order.webhook
        return Call(
            method="POST",
            url=self._at(order.model, "run"),
            headers=self._headers() | {"Content-Type": "application/json"},
            body=msgspec.json.encode(body),
        )

    def created(self, body: bytes) -> Submitted:
        """The answer is the job, in a webhook's shape."""
        found = _job.answer(body, "job")
        if not found.id:
            raise Unreadable("no job: it has no id")
        return Submitted(found.id)

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """The job, its output included; RunPod keeps it half an hour."""
        url = self._at(model, "status", provider_id)
        return Call(method="GET", url=url, headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The answer itself, if it is the job that was asked for."""
        if self.created(body).provider_id != provider_id:
            raise Unreadable(f"another job than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """Stop the job."""
        url = self._at(model, "cancel", provider_id)
        return Call(method="POST", url=url, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _at(self, model: str | None, *tail: str) -> str:
        if not model:
            # Another address would answer 404, which says that the job is gone.
            raise ValueError(
                "no model: a job is found by its endpoint; report the endpoint's id as `model`"
            )
        return address(self.url, "v2", model, *tail)


def open_provider(name: str, configuration: Configuration) -> RunPod | None:
    """Open RunPod, by a token for its API or a secret for addresses.

    With a token alone, each prediction's address carries a token of its own.

    Raises:
        BadConfiguration: A secret is empty.
    """
    secrets = open_secrets(name, configuration)
    token = configuration.token
    api = RunPodApi(token, configuration.url_or(URL)) if token else None
    return RunPod(secrets, name, api) if secrets or api else None


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_RUNPOD_TOKEN` (each prediction's address then has its own token), or `_SECRET` as the token "
    "of every address",
    proof="a token in the webhook's address: nothing is signed",
)
