"""What the groups of the client's calls are written against: one that sends requests."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx


class SendsRequests:
    """Has `_request`, which `Client` provides."""

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool = True,
    ) -> "httpx.Response":
        raise NotImplementedError
