"""The page about the messages of the WebSocket, out of the AsyncAPI document."""

from collections.abc import Iterator

from tests.support.reference.schema_words import cell, members
from tests.support.root import ROOT
from tidings.gateway.openapi import asyncapi
from tidings.gateway.push.protocol import SUBPROTOCOL, Close

PAGE = ROOT / "docs" / "reference" / "websocket.md"
MEANINGS = {
    "Auth": "A token: the first one if no header carried it, or a newer one.",
    "Change": "A prediction has changed.",
    "Append": "A text has grown; only for sessions that asked for pieces.",
    "Snapshot": "The record as it stands when a subscription begins.",
    "Deleted": "A prediction is gone.",
    "Unknown": "There is no such prediction yet that the client may see; the subscription stands.",
    "Synced": "All snapshots of a subscription have been sent.",
    "Welcome": "The session has begun.",
    "Subscribed": "A subscription has begun.",
    "Unsubscribed": "A subscription has ended.",
    "Pong": "The answer to a ping.",
    "Error": "A message could not be followed; the session goes on.",
    "Bye": "The server goes away.",
}
HEAD = f"""# WebSocket messages

Connect to `/api/ws` with the subprotocol `{SUBPROTOCOL}`. Each text frame holds one JSON object. Each gateway serves this as an AsyncAPI 3.0 document at `/asyncapi.json`; `tidings asyncapi` prints it. [How changes are pushed](../explanation/push.md) explains recovery, limits and the [close codes](../explanation/push.md#close-codes)."""


def sent() -> dict[str, list[str]]:
    """The messages by who sends them."""
    operations = asyncapi("")["operations"]
    return {
        title: [str(one["$ref"]).rpartition("/")[2] for one in operations[name]["messages"]]
        for title, name in (("From the client", "tell"), ("From the server", "hear"))
    }


def close_codes() -> dict[str, int]:
    """The codes with which the server closes a connection, by name."""
    return {name: code for name, code in vars(Close).items() if not name.startswith("_")}


def lines() -> Iterator[str]:
    """The page."""
    yield HEAD
    schemas = asyncapi("")["components"]["schemas"]
    for title, names in sent().items():
        yield from ("", f"## {title}")
        for name in names:
            yield from ("", f"### {name}", "")
            yield MEANINGS.get(name) or cell(schemas[name]["description"])
            yield ""
            yield from members(schemas[name])
    yield from ("", "## Close codes", "", "| code | |", "|---|---|")
    for name, code in close_codes().items():
        words = name.lower().replace("_", " ")
        yield f"| {code} | {words} |"
