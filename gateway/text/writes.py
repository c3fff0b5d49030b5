"""Writing to a text: begin, append, close, delete (Durable Streams 1.0, 5.1 to 5.4).

A piece is an event like every other. The answer waits until the processor has judged it, so it says
what became of it; a writer that numbers its pieces may repeat whatever was not answered.
"""

from collections import OrderedDict
from http import HTTPStatus

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from tidings.gateway.api.long_poll import WRITE_WAIT
from tidings.gateway.api.mutations import EventWriter, Mutations
from tidings.gateway.api.predictions import Records, may_read
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import Problem, bad_request, forbidden, not_found
from tidings.gateway.http.request_body import read_body
from tidings.gateway.push.growing_text import TextHead, text_head
from tidings.gateway.push.text_hub import Judgement, TextHub
from tidings.gateway.text import protocol
from tidings.gateway.text.protocol import Offset
from tidings.gateway.text.reads import HEADERS
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import MAX_ID_BYTES, valid_id
from tidings.storage.store import Stored, hidden
from tidings.streams.rules.text import TEXT_MAX

TEXT_TYPES = frozenset({"text/plain"})
PRODUCERS = 10_000
"""Writers whose last number is remembered from what was answered here."""


class Writer(Struct, frozen=True):
    """Who writes, and which of its pieces it is (5.2.1)."""

    id: str
    epoch: int
    seq: int


class TextWrites:
    """The handlers that write.

    Args:
        guard: Who may come in.
        records: What stands.
        events: Appends events.
        texts: Tell what becomes of them.
        mutations: Deletes.
        held: The budget for bodies under way.
        public_url: How the service is reached from outside, its mount included; None: as the request
            says.
        clock: Tells the time.
    """

    def __init__(
        self,
        guard: RequestGuard,
        records: Records,
        events: EventWriter,
        texts: TextHub,
        mutations: Mutations,
        held: HeldBytes,
        public_url: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._guard = guard
        self._records = records
        self._events = events
        self._texts = texts
        self._mutations = mutations
        self._held = held
        self._public_url = public_url
        self._clock = clock
        self._taken: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """`DELETE`: the prediction goes with its text."""
        return await self._mutations.delete(request)

    # Begin

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """`PUT`: there is such a text from now on, or was already (5.1)."""
        permissions = await self._guard.authenticate(request)
        prediction_id = request.match_info["id"]
        if not valid_id(prediction_id):
            raise bad_request("Bad id", "An id has 1 to 256 bytes without spaces and commas.")
        closed = _closes(request)
        there = (await self._records.store.load_fresh((prediction_id,))).get(prediction_id)
        if there is not None and not there.deleted and not hidden(there, self._clock.ms()):
            if not may_read(permissions, prediction_id, there):
                raise _exists()
            return self._standing(request, text_head(there.encoded), closed=closed)
        _check_order(request)
        content_type = _text_type(request, "text/plain")
        if not permissions.may_create(permissions.subject):
            raise forbidden("Beginning a text needs the right to create a prediction.")
        with self._held.account(permissions.subject) as account:
            text = _decoded(await read_body(request, TEXT_MAX, account))
        fields: dict[str, object] = {"type": "create", "status": "processing", "text": text}
        if closed:
            fields["status"] = "succeeded"
        if permissions.subject is not None:
            fields["owner"] = permissions.subject
        if content_type != "text/plain":
            fields["textType"] = content_type
        draft = self._events.draft(prediction_id, _raw(fields), self._clock.ms())
        change = await self._events.write(request, draft)
        if change is None or not change.value:
            raise _unjudged()
        head = text_head(change.value)
        headers = {**_told(head), "Content-Type": head.content_type}
        headers["Location"] = self._address(request)
        return web.Response(status=201, headers=headers)

    def _address(self, request: web.Request) -> str:
        """Where the text is, whole: the protocol's clients go on with it.

        Within somebody else's server there is no connection of ours, and what stands before the path
        is added to it on its way out; the client knows the rest.
        """
        path = request.url.raw_path
        if self._public_url is not None:
            return f"{self._public_url.rstrip('/')}{path}"
        return path if request.transport is None else f"{self._guard.origin(request)}{path}"

    def _standing(
        self, request: web.Request, head: TextHead, *, closed: bool
    ) -> web.StreamResponse:
        same = request.headers.get("Content-Type") is None or (
            _normal(request.headers["Content-Type"]) == head.content_type
        )
        if head.ended != closed or not same or _orders(request):
            raise _exists(_told(head))
        headers = {**_told(head), "Content-Type": head.content_type}
        return web.Response(status=200, headers=headers)

    # Append and close

    async def append(self, request: web.Request) -> web.StreamResponse:
        """`POST`: a piece, the end, or both (5.2, 5.3)."""
        permissions = await self._guard.authenticate(request)
        prediction_id = request.match_info["id"]
        writer, closes, offset = _writer(request), _closes(request), _offset(request)
        with self._held.account(permissions.subject) as account:
            body = await read_body(request, TEXT_MAX, account)
        stored = await self._records.find(prediction_id, fresh=True)
        if not permissions.may_write():
            if not may_read(permissions, prediction_id, stored):
                raise not_found()
            raise forbidden("Writing a text needs the scope write.")
        if not body and not closes:
            raise bad_request("Empty body", "A piece has at least one byte; send some.")
        head = text_head(stored.encoded)
        if head.ended:
            return self._after_the_end(prediction_id, head, writer, body, closes=closes)
        if body:
            _check_type(request, head)
        text = _decoded(body)
        fields: dict[str, object] = {"type": "append", "text": text}
        if offset is not None:
            fields["offset"] = offset
        if closes:
            fields["textClosed"] = True
        if writer is not None:
            fields["producer"] = msgspec.structs.asdict(writer)
        if (sequence := request.headers.get(protocol.SEQUENCE)) is not None:
            fields["textSeq"] = sequence
        draft = self._events.draft(prediction_id, _raw(fields), self._clock.ms())
        async with self._texts.reading(prediction_id, stored.encoded):
            position = await self._events.append(request, draft)
            judged = await self._texts.judgement(prediction_id, position, WRITE_WAIT)
        if judged is None:
            raise _unjudged()
        return self._answer(prediction_id, stored, judged, writer, closes=closes, empty=not body)

    def _after_the_end(
        self, name: str, head: TextHead, writer: Writer | None, body: bytes, *, closes: bool
    ) -> web.StreamResponse:
        """What has ended takes nothing more; what it has already may be repeated."""
        headers = _told(head)
        if writer is not None:
            known = self._known(name, head, writer.id)
            if known is not None and writer.epoch < known[0]:
                raise _fenced(known[0])
            if known is not None and writer.epoch == known[0] and writer.seq <= known[1]:
                return web.Response(status=204, headers={**headers, **_numbers(known)})
        if closes and not body and writer is None:
            return web.Response(status=204, headers=headers)
        raise Problem(
            409,
            "text-closed",
            "Text closed",
            "The prediction has ended; nothing is appended to its text any more.",
            headers=headers,
        )

    def _answer(
        self,
        name: str,
        stored: Stored,
        judged: Judgement,
        writer: Writer | None,
        *,
        closes: bool,
        empty: bool,
    ) -> web.StreamResponse:
        head = text_head(stored.encoded)
        headers = {
            **HEADERS,
            protocol.NEXT_OFFSET: str(Offset(judged.epoch, judged.length)),
        }
        if judged.refusal is not None and not (judged.refusal == "stale" and not closes):
            self._refuse(name, head, judged.refusal, writer, headers)
        if closes:
            headers[protocol.CLOSED] = "true"
        if writer is None:
            return web.Response(status=204, headers=headers)
        known = self._known(name, head, writer.id)
        numbers = (writer.epoch, writer.seq)
        if judged.refusal is None:
            self._remember(name, writer)
        elif known is not None:
            numbers = max(known, numbers)
        appended = judged.refusal is None and not empty
        status = HTTPStatus.OK if appended else HTTPStatus.NO_CONTENT
        return web.Response(status=status, headers={**headers, **_numbers(numbers)})

    def _refuse(
        self,
        name: str,
        head: TextHead,
        code: str,
        writer: Writer | None,
        headers: dict[str, str],
    ) -> None:
        if code == "stale":
            return
        if code == "deleted":
            raise not_found()
        if code == "text-too-long":
            raise Problem(
                413,
                code,
                "Text too long",
                f"A text has {TEXT_MAX} bytes at most; this piece was left out.",
                headers=headers,
            )
        if code in {"producer-fenced", "producer-gap"} and writer is not None:
            known = self._known(name, head, writer.id)
            if code == "producer-fenced":
                raise _fenced(writer.epoch + 1 if known is None else known[0])
            if known is None or writer.epoch > known[0]:
                raise bad_request("Bad number", "A writer's epoch begins with the number 0.")
            expected = {
                protocol.EXPECTED_SEQ: str(known[1] + 1),
                protocol.RECEIVED_SEQ: str(writer.seq),
            }
            raise Problem(
                409,
                code,
                "Pieces missing",
                f"The next piece of this writer has the number {known[1] + 1}; send that first.",
                headers={**headers, **expected},
            )
        if code in {"text-late", "text-closed"}:
            headers[protocol.CLOSED] = "true"
        raise Problem(409, code, "Not appended", _WHY.get(code, code), headers=headers)

    def _known(self, name: str, head: TextHead, writer: str) -> tuple[int, int] | None:
        """The last number of a writer that was taken, as far as this gateway knows."""
        found = [(one.epoch, one.seq) for one in head.text_producers if one.id == writer]
        if (answered := self._taken.get((name, writer))) is not None:
            found.append(answered)
        return max(found, default=None)

    def _remember(self, name: str, writer: Writer) -> None:
        key, taken = (name, writer.id), (writer.epoch, writer.seq)
        self._taken[key] = max(taken, self._taken.get(key, taken))
        self._taken.move_to_end(key)
        if len(self._taken) > PRODUCERS:
            self._taken.popitem(last=False)


_WHY = {
    "text-mismatch": "The text says something else there; read it, and go on from its end.",
    "text-gap": "Something lies between the text and this piece; send what is missing first.",
    "text-late": "The prediction has ended; nothing is appended to its text any more.",
    "text-closed": "The text is closed; nothing is appended to it any more.",
    "text-seq": "Stream-Seq must rise with every piece, byte by byte.",
}


def _told(head: TextHead) -> dict[str, str]:
    """The headers about a text as its record has it."""
    headers = {
        **HEADERS,
        protocol.NEXT_OFFSET: str(Offset(head.epoch, head.start + len(head.tail))),
    }
    if head.ended:
        headers[protocol.CLOSED] = "true"
    return headers


def _numbers(taken: tuple[int, int]) -> dict[str, str]:
    return {protocol.PRODUCER_EPOCH: str(taken[0]), protocol.PRODUCER_SEQ: str(taken[1])}


def _fenced(epoch: int) -> Problem:
    return Problem(
        403,
        "producer-fenced",
        "Writer replaced",
        "A newer epoch of this writer has begun; this one may write no more.",
        headers={protocol.PRODUCER_EPOCH: str(epoch)},
    )


def _exists(headers: dict[str, str] | None = None) -> Problem:
    return Problem(
        409,
        "exists",
        "Text exists",
        "There is such a text of another kind or state; take another id.",
        headers=headers,
    )


def _unjudged() -> Problem:
    return Problem(
        503,
        "unavailable",
        "Not judged yet",
        "It is written down, and what became of it is not known yet; with the same Producer headers "
        "the request may be repeated.",
        headers={"Retry-After": "1"},
    )


def _raw(fields: dict[str, object]) -> dict[str, Raw]:
    return {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()}


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise bad_request(
            "Not UTF-8",
            "A piece is valid UTF-8 by itself; keep half a character until its rest comes.",
        ) from None


def _closes(request: web.Request) -> bool:
    return request.headers.get(protocol.CLOSED, "").lower() == "true"


def _normal(content_type: str) -> str:
    return content_type.strip().lower().replace("; ", ";").replace('"', "")


def _text_type(request: web.Request, default: str) -> str:
    """The content type of a new text as it was given, in lower case."""
    given = request.headers.get("Content-Type")
    if given is None:
        return default
    kind, _, parameters = _normal(given).partition(";")
    if kind not in TEXT_TYPES or parameters not in {"", "charset=utf-8"}:
        raise bad_request(
            "Not a text",
            f"{given[:60]!r} is no text; streams are text/plain here, in UTF-8. JSON and binary "
            "streams are not served.",
        )
    return given.strip().lower()


def _check_type(request: web.Request, head: TextHead) -> None:
    given = request.headers.get("Content-Type")
    if given is None:
        raise bad_request("Content-Type missing", "Send Content-Type: text/plain.")
    kind, _, parameters = _normal(given).partition(";")
    if kind not in TEXT_TYPES or parameters not in {"", "charset=utf-8"}:
        raise Problem(
            409,
            "content-type",
            "Other content type",
            f"The text is {head.content_type}, and the piece {given[:60]!r}; send that kind.",
            headers=_told(head),
        )


def _orders(request: web.Request) -> bool:
    return "Stream-TTL" in request.headers or "Stream-Expires-At" in request.headers


def _check_order(request: web.Request) -> None:
    """Refuse what is not served here (5.1: 400 for headers that are invalid)."""
    if _orders(request):
        raise bad_request(
            "Expiry not served", "How long a prediction is kept is the service's; leave it out."
        )
    if any(name.lower().startswith("stream-fork") for name in request.headers):
        raise bad_request("Forks not served", "A text cannot be forked; begin a new one.")


def _offset(request: web.Request) -> int | None:
    """Where the piece belongs, in bytes: by number, or by a place that was told."""
    given = request.query.get("offset")
    if given is None:
        return None
    place = protocol.parse_offset(given)
    found = protocol.number(given) if place is None else place.bytes
    if found is None:
        raise bad_request("Bad offset", f"{given[:40]!r} is no number of bytes.")
    return found


def _writer(request: web.Request) -> Writer | None:
    names = (protocol.PRODUCER_ID, protocol.PRODUCER_EPOCH, protocol.PRODUCER_SEQ)
    given = [request.headers.get(name) for name in names]
    if given == [None, None, None]:
        return None
    writer, epoch, seq = given
    if writer is None or epoch is None or seq is None:
        raise bad_request("Producer headers missing", f"Send all of {', '.join(names)}, or none.")
    numbers = protocol.number(epoch), protocol.number(seq)
    if not 0 < len(writer.encode("utf-8", "surrogateescape")) <= MAX_ID_BYTES:
        raise bad_request("Bad Producer-Id", "A writer's id has 1 to 256 bytes.")
    if numbers[0] is None or numbers[1] is None:
        raise bad_request("Bad number", "Producer-Epoch and Producer-Seq are whole numbers from 0.")
    return Writer(writer, numbers[0], numbers[1])
