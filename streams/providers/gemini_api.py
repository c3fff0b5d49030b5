"""The calls of Gemini's API: asking how something stands, stopping it, and going on with an answer.

Pure. Source: the Gemini API's documentation of interactions, batch mode and function calling.
"""

import msgspec
from msgspec import Raw, Struct

from tidings.streams.providers import payload as bodies
from tidings.streams.providers.job_api import Call, Reply, Submitted, Unreadable, address, parts

URL = "https://generativelanguage.googleapis.com"
BATCHES = "batches/"


class Where(Struct, frozen=True):
    """A record's `providerUrls`: the resource's name, without host and version."""

    get: str | None = None


class _Step(Struct, frozen=True, gc=False):
    """One of an interaction's outputs, as far as a question is made of it."""

    type: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None


class _Asked(Struct, frozen=True, gc=False):
    """What a question says of the interaction that asks."""

    calls: tuple[_Step, ...] = ()
    agent: str | None = None


class _Resource(Struct, frozen=True, gc=False):
    id: str | None = None
    name: str | None = None


_where = bodies.Reader(Where)
_step = bodies.Reader(_Step)
_asked = bodies.Reader(_Asked)
_resource = bodies.Reader(_Resource)


def short(name: str | None) -> str | None:
    """The id in a resource's name: a batch's webhook says `b1` or `batches/b1` for the same one."""
    return name.removeprefix(BATCHES) if name else None


def question(outputs: Raw, agent: str | None) -> Raw:
    """What an interaction waits for: the results of `calls`, or an answer to its text."""
    try:
        listed = msgspec.json.decode(outputs or b"[]", type=list[Raw])
    except (msgspec.DecodeError, RecursionError):
        listed = []
    read = [(_step.peek(bytes(one)) or _Step(), one) for one in listed]
    calls = [one for step, one in read if step.type == "function_call"]
    names = ", ".join(step.name or "" for step, _ in read if step.type == "function_call")
    texts = [step.text for step, _ in read if step.text]
    text = f"The result is needed of {names}" if names else "\n".join(texts)
    said: dict[str, object] = {"text": text or "The interaction waits for an answer"}
    if calls:
        said["calls"] = calls
    if agent is not None:
        said["agent"] = agent
    return Raw(msgspec.json.encode(said))


def _input(calls: tuple[_Step, ...], answer: bytes) -> object:
    """The input that an answer is."""
    said = msgspec.json.decode(answer)
    if isinstance(said, list) and all(isinstance(one, dict) and "type" in one for one in said):
        return said
    if not calls:
        return said if isinstance(said, str) else answer.decode()
    if len(calls) == 1:
        said = {calls[0].id or "": said}
    if not isinstance(said, dict) or set(said) != {call.id or "" for call in calls}:
        names = ", ".join(call.id or "" for call in calls)
        raise ValueError(f"the answer must be an object with a result for each of {names}")
    return [
        {
            "type": "function_result",
            "call_id": call.id,
            "name": call.name,
            "result": said[call.id or ""],
        }
        for call in calls
    ]


class GeminiApi(Struct, frozen=True):
    """The calls, with the key that they carry."""

    token: str
    url: str = URL
    dynamic: bool = False
    """Whether webhooks can be proven that go to an address of one interaction's own."""

    def __repr__(self) -> str:
        """Show no key."""
        return f"GeminiApi({self.url})"

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """The batch, operation or interaction as it stands."""
        return Call(method="GET", url=self._at(provider_id, urls), headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The answer itself, if it is what was asked for."""
        found = _resource.answer(body, "operation or interaction")
        if provider_id not in (found.id, short(found.name)):
            raise Unreadable(f"another resource than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """Stop it."""
        name = self._name(provider_id, urls)
        tail = "/cancel" if name.startswith("interactions/") else ":cancel"
        url = address(self.url, "v1beta", *parts(name), tail=tail)
        return Call(method="POST", url=url, headers=self._headers())

    def answer(self, reply: Reply) -> Call:
        """Go on with an answer: an interaction that names the one that asked.

        Of one call the answer is the result, whatever it is. Of several it is an object with a
        result by the id of each. A list of Gemini's own inputs goes as it is.
        """
        found = _asked.peek(reply.question) or _Asked()
        if found.agent is None and reply.model is None:
            raise ValueError("neither the model nor the agent of the interaction is known")
        body: dict[str, object] = {
            **({"model": reply.model} if found.agent is None else {"agent": found.agent}),
            "previous_interaction_id": reply.provider_id,
            "input": _input(found.calls, reply.answer),
            "background": True,
            "store": True,
        }
        if self.dynamic and reply.webhook is not None:
            body["webhook_config"] = {"uris": [reply.webhook]}
        headers = {
            **self._headers(),
            "content-type": "application/json",
            "idempotency-key": reply.key,
        }
        url = address(self.url, "v1beta", "interactions")
        return Call(method="POST", url=url, headers=headers, body=msgspec.json.encode(body))

    def answered(self, body: bytes) -> Submitted:
        """The interaction that goes on."""
        found = _resource.answer(body, "interaction")
        if found.id is None:
            raise Unreadable("the interaction has no id")
        return Submitted(found.id)

    def _headers(self) -> dict[str, str]:
        return {"x-goog-api-key": self.token}

    def _at(self, provider_id: str, urls: Raw) -> str:
        return address(self.url, "v1beta", *parts(self._name(provider_id, urls)))

    def _name(self, provider_id: str, urls: Raw) -> str:
        """The resource's name, as its webhook gave it."""
        found = _where.peek(bytes(urls)) if urls else None
        if found is not None and found.get:
            return found.get
        return provider_id if "/" in provider_id else f"interactions/{provider_id}"
