"""The browser, a service and a page of tests/browser, for the packages too."""

from collections.abc import Iterable

import pytest

from tests.browser.conftest import chromium, context, own_service, page, service

__all__ = ["chromium", "context", "own_service", "page", "service"]

SHORT = {"test_one_prediction", "test_what_the_server_has_read_is_shown_first"}
"""What is tried with React 18 in the short form too."""


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Mark what the older React alone needs longer for."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            older = item.callspec.params.get("react") == 18
            if older and item.originalname not in SHORT:
                item.add_marker(pytest.mark.long)
