"""RunPod's serverless API: run, status and cancel, as pure data. The model is the endpoint's id.

Source: RunPod's documentation of endpoint operations.
"""

from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from tidings.streams.providers.job_api import Call, Order, Submitted, Unreadable, given_input

URL = "https://api.runpod.ai"


class _Job(Struct, frozen=True):
    id: str


_job = msgspec.json.Decoder(_Job)


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
        headers = self._headers() | {"Content-Type": "application/json"}
        url = f"{self._endpoint(order.model)}/run"
        return Call(method="POST", url=url, headers=headers, body=msgspec.json.encode(body))

    def created(self, body: bytes) -> Submitted:
        """The answer is the job, in a webhook's shape."""
        try:
            return Submitted(_job.decode(body).id)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"no job: {error}") from None

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002 - the protocol
        """The job, its output included; RunPod keeps it half an hour."""
        url = f"{self._endpoint(model)}/status/{quote(provider_id, safe='')}"
        return Call(method="GET", url=url, headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:  # noqa: ARG002
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:  # noqa: ARG002
        """The answer itself, where it is the job that was asked for."""
        if self.created(body).provider_id != provider_id:
            raise Unreadable(f"another job than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002
        """Stop the job."""
        url = f"{self._endpoint(model)}/cancel/{quote(provider_id, safe='')}"
        return Call(method="POST", url=url, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _endpoint(self, model: str | None) -> str:
        if not model:
            # Another address would answer 404, which says that the job is gone.
            raise ValueError(
                "no model: a job is found by its endpoint; report the endpoint's id as `model`"
            )
        return f"{self.url}/v2/{quote(model, safe='')}"
