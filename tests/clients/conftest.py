"""The browser, a service and a page of tests/browser, for the packages too."""

from tests.browser.conftest import chromium, context, own_service, page, service

__all__ = ["chromium", "context", "own_service", "page", "service"]
