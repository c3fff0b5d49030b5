"""What a request for an event stream asks for."""

from aiohttp import web
from msgspec import Struct

from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.http.problems import bad_request, forbidden
from tidings.storage.prediction import valid_id
from tidings.storage.store import Query

MAX_NAMED = 1_000
DEFAULT_LIMIT = 1_000
MAX_LIMIT = 10_000

_WIDE = ("owner", "tag", "model", "all")


class Watched(Struct, frozen=True):
    """What a stream watches."""

    named: list[str]
    """Predictions by their ids."""
    keys: list[str]
    """All of it, as the hub's keys."""
    query: Query | None
    """What a wide subscription lists for its snapshot."""


def last_event_id(request: web.Request) -> int:
    """The version that the client knows; 0 where it says none."""
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else 0


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
        return Watched(named, keys, None)
    kind, name = wide
    query = Query(
        owner=name if kind == "owner" else None,
        tag=name if kind == "tag" else None,
        model=name if kind == "model" else None,
        limit=_limit(request.query.get("limit")),
    )
    return Watched(named, [*keys, "all" if kind == "all" else f"{kind}:{name}"], query)


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
    allowed = (
        (kind == "owner" and permissions.may_watch_owner(name))
        or (kind == "tag" and permissions.may_watch_tag(name))
        or (kind == "model" and permissions.may_watch_model(name))
        or permissions.may_watch_all()
    )
    if not allowed:
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
