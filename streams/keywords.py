"""What the library's entrance takes by keyword, for type checkers and editors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from tidings.storage.prediction import Status, Usage


class InitialFields(TypedDict, total=False):
    """What `initialize` takes by keyword, beside what it names."""

    owner: str | None
    """Whose prediction it is; it never changes."""
    tags: Iterable[str] | None
    """What it is listed by; tags are only ever added."""
    provider: str | None
    """Who makes it."""
    provider_id: str | None
    """Its id there; it never changes."""
    deadline: int | None
    """When it fails unless it has ended, in ms since the epoch: for services that keep deadlines."""


class ReportedFields(InitialFields, total=False):
    """What `update` takes by keyword; None changes nothing."""

    payload: Any
    """What was asked for: anything that JSON can hold. The first value stays."""
    prompt: str | None
    """The first value stays."""
    model: str | None
    """The first value stays."""
    provider_urls: Mapping[str, Any] | None
    """Where the provider tells of the job, by purpose."""
    output: Any
    """The result, or what there is of it so far: anything that JSON can hold."""
    text: str | None
    """The whole text so far; one that the known text begins with changes nothing."""
    image_url: str | None
    """Of the first picture."""
    image_path: str | None
    """Where the first picture is stored."""
    assets: Sequence[Mapping[str, Any]] | None
    """The stored files."""
    error: str | None
    """Why it failed."""
    progress: float | None
    """From 0 to 1; it never goes down."""
    logs: str | None
    """The whole log so far; a shorter one changes nothing."""
    estimated_time: float | None
    """In ms."""
    generation_time: float | None
    """In ms."""
    usage: Usage | Mapping[str, Any] | None
    """What it has used: `input_tokens`, `output_tokens`, `seconds`, `images`, and `cost` (text) with its `currency`. Each
    only grows."""


class Filters(TypedDict, total=False):
    """What `list` takes by keyword; as in `Query`."""

    status: Status | None
    owner: str | None
    model: str | None
    tag: str | None
    limit: int
    cursor: str | None
