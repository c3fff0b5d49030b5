"""AssemblyAI's API for transcripts of recordings: create and get, as pure data. The model is the speech model.

Source: AssemblyAI's API reference, transcripts. A transcript under way cannot be stopped.
"""

from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from tidings.streams.providers.job_api import Call, Order, Submitted, Unreadable, given_input

URL = "https://api.assemblyai.com"


class _Transcript(Struct, frozen=True):
    id: str


_transcript = msgspec.json.Decoder(_Transcript)


class AssemblyAIApi(Struct, frozen=True):
    """The calls, with the key that they carry."""

    token: str
    header: str
    """In which webhooks prove themselves."""
    secret: str
    """What stands there."""
    url: str = URL
    """Of another region: `https://api.eu.assemblyai.com`."""

    def __repr__(self) -> str:
        """Show no key."""
        return f"AssemblyAIApi({self.url})"

    def create(self, order: Order) -> Call:
        """The payload's members are the call's; `audio_url` must be among them."""
        fields = given_input(order)
        if "speech_models" not in fields and "speech_model" not in fields:
            fields["speech_models"] = Raw(msgspec.json.encode([order.model]))
        if order.webhook is not None:
            ours = {
                "webhook_url": order.webhook,
                "webhook_auth_header_name": self.header,
                "webhook_auth_header_value": self.secret,
            }
            fields |= {name: Raw(msgspec.json.encode(value)) for name, value in ours.items()}
        headers = self._headers() | {"Content-Type": "application/json"}
        return Call(
            method="POST",
            url=f"{self.url}/v2/transcript",
            headers=headers,
            body=msgspec.json.encode(fields),
        )

    def created(self, body: bytes) -> Submitted:
        """The answer is the transcript as it stands."""
        try:
            return Submitted(_transcript.decode(body).id)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"no transcript: {error}") from None

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:  # noqa: ARG002 - the protocol
        """The transcript, its text included."""
        url = f"{self.url}/v2/transcript/{quote(provider_id, safe='')}"
        return Call(method="GET", url=url, headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:  # noqa: ARG002
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:  # noqa: ARG002
        """The answer itself, where it is the transcript that was asked for."""
        if self.created(body).provider_id != provider_id:
            raise Unreadable(f"another transcript than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> None:  # noqa: ARG002
        """There is no way to."""
        return

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self.token}
