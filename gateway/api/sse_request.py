"""What a request for an event stream asks for: in its address, or in a body as on the WebSocket."""

from collections.abc import Mapping, Sequence

from aiohttp import web
from msgspec import Struct

from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.http.problems import bad_request, forbidden
from tidings.gateway.push import protocol
from tidings.gateway.push.event_stream import TOLD_DELETED
from tidings.gateway.push.protocol import Malformed, Ref, Subscribe
from tidings.storage.prediction import valid_id
from tidings.storage.store import Query

MAX_NAMED = 1_000
MAX_POSTED = 10_000
"""Subscriptions of a stream that is asked for by a body, as many as a WebSocket has."""
MAX_BODY = 2 * 1024 * 1024
"""Bytes of such a body: that many of the longest usual ids, twice."""
DEFAULT_LIMIT = 1_000
MAX_LIMIT = 10_000

_WIDE = ("owner", "tag", "model", "all")


class Watched(Struct, frozen=True):
    """What a stream watches."""

    named: Sequence[str]
    """Predictions by their ids."""
    keys: Sequence[str]
    """All of it, as the hub's keys."""
    query: Query | None = None
    """What a wide subscription lists for its snapshot."""
    limit: int = 0
    """How many records the snapshot of a wide subscription has at most."""
    known: Mapping[str, int] = {}
    """Versions that the client has."""
    ref: Ref = None
    snapshot: bool = True
    """Whether it begins with the records as they stand."""
    error: bytes = b""
    """Why it is not watched: a message to the client."""
    appends: bool = False
    """Whether growing texts come in pieces."""


def last_event_id(request: web.Request) -> tuple[int, bool]:
    """The version that the client knows (0: none), and whether it was told of the deletion.

    Polyfills of `EventSource` that cannot send the header send it in the query.
    """
    query = request.query
    text = request.headers.get("Last-Event-ID") or query.get("lastEventId")
    text = text or query.get("last-event-id", "")
    version = text.removesuffix(TOLD_DELETED.decode())
    if not (version.isascii() and version.isdecimal() and len(version) <= 15):
        return 0, False
    return int(version), version != text


def text_asked(request: web.Request) -> bool:
    """Whether growing texts are to come in pieces: `text=append`. A problem for anything else."""
    asked = request.query.get("text")
    if asked not in {None, "append"}:
        raise bad_request("Bad parameter", f"text is {asked[:20]!r}; write text=append.")
    return asked is not None


def watched(request: web.Request, permissions: Permissions) -> Watched:
    """What the parameters name: `predictions=a,b`, and one of `owner`, `tag`, `model` and `all=true`.

    Raises:
        Problem: 400 for what cannot be watched, 403 for what the caller may not watch.
    """
    named = list(
        dict.fromkeys(name for name in request.query.get("predictions", "").split(",") if name)
    )
    if len(named) > MAX_NAMED:
        raise bad_request(
            "Too many predictions", f"At most {MAX_NAMED} may be named; watch an owner or a tag."
        )
    for name in named:
        if not valid_id(name):
            raise bad_request(
                "Bad id",
                f"{name[:64]!r} is no prediction id; ids are 1 to 256 bytes without spaces.",
            )
    keys = ["prediction:" + name for name in named]
    wide = _wide(request, permissions)
    if wide is None:
        if not named:
            raise bad_request(
                "Nothing to watch", "Name predictions=a,b or owner, tag, model or all=true."
            )
        return Watched(named, keys)
    kind, name = wide
    query = Query(
        owner=name if kind == "owner" else None,
        tag=name if kind == "tag" else None,
        model=name if kind == "model" else None,
    )
    key = "all" if kind == "all" else f"{kind}:{name}"
    return Watched(named, [*keys, key], query, _limit(request.query.get("limit")))


def _wide(request: web.Request, permissions: Permissions) -> tuple[str, str] | None:
    """The one wide subscription that is asked for, and allowed."""
    asked = [(name, request.query[name]) for name in _WIDE if request.query.get(name)]
    if len(asked) > 1:
        raise bad_request(
            "Too much at once", "A stream watches one of owner, tag, model and all; open another."
        )
    if not asked:
        return None
    kind, name = asked[0]
    if kind == "all" and name not in {"1", "true"}:
        raise bad_request("Bad parameter", f"all is {name[:20]!r}; write all=true.")
    if not permissions.may_watch_key("all" if kind == "all" else f"{kind}:{name}"):
        raise forbidden(
            f"The token does not let you watch this {kind}; it needs a claim for it, or watch:all."
        )
    return kind, name


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and int(text) <= MAX_LIMIT):
        raise bad_request(
            "Bad limit", f"The limit is {text[:20]!r}; give a number up to {MAX_LIMIT}."
        )
    return int(text)


def posted(body: bytes, permissions: Permissions) -> list[Watched]:
    """What a list of the WebSocket's `subscribe` messages asks for, each answered by its `ref`.

    Raises:
        Problem: 400 for what is no such list, or too much.
    """
    try:
        messages = protocol.parse_subscriptions(body)
    except Malformed as error:
        raise bad_request("Not subscriptions", f"{error}; send a list of them.") from None
    keys = sum(len(message.predictions or ("",)) for message in messages)
    known = sum(len(message.known) for message in messages)
    if keys > MAX_POSTED or known > 2 * MAX_POSTED:
        raise bad_request(
            "Too many subscriptions", f"At most {MAX_POSTED}; watch an owner, a tag or a model."
        )
    return [_posted(message, permissions) for message in messages]


def _posted(message: Subscribe, permissions: Permissions) -> Watched:
    ref, keys = message.ref, protocol.keys(message)
    if message.predictions is not None:
        wrong = next((name for name in message.predictions if not valid_id(name)), None)
        if wrong is not None:
            text = f"{wrong[:80]!r} is no prediction id"
            return Watched((), (), error=protocol.error_message(ref, "invalid", text))
        names = tuple(dict.fromkeys(message.predictions))
        return Watched(
            names,
            keys,
            known=message.known,
            ref=ref,
            snapshot=message.snapshot,
            appends=message.text is not None,
        )
    if not permissions.may_watch_key(keys[0]):
        text = f"the token does not let you watch {keys[0]}"
        return Watched((), (), error=protocol.error_message(ref, "forbidden", text))
    query = Query(owner=message.owner, tag=message.tag, model=message.model)
    return Watched(
        (),
        keys,
        query,
        message.limit,
        message.known,
        ref,
        message.snapshot,
        appends=message.text is not None,
    )
