"""Pages of the reference that are made from the code: `python -m tests.support.reference` writes them."""

from types import ModuleType

from tests.support.reference import (
    commands_page,
    http_page,
    javascript_page,
    llms_text,
    record_page,
    topics_page,
    websocket_page,
)

PAGES = (
    record_page,
    topics_page,
    http_page,
    websocket_page,
    commands_page,
    javascript_page,
    llms_text,
)


def text_of(page: ModuleType) -> str:
    """A page's text."""
    return "\n".join(page.lines()) + "\n"
