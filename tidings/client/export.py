"""What the client does with all records: lines, page by page, so that any number fits into memory."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.client.answers import camel
from tidings.storage.prediction import Prediction, decode

if TYPE_CHECKING:
    import httpx

PAGE = 500
"""Records that are asked for at a time."""


class _Counts(msgspec.Struct):
    total: int
    complete: bool


class _Counted(msgspec.Struct):
    counts: _Counts | None = None


class ExportCalls:
    """The calls about all records, for a class that sends requests."""

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

    async def export(self, **filters: str | int | None) -> AsyncIterator[Prediction]:
        """Every prediction that passes the filters, newest first, with its text.

        A page is in memory at a time, and one that is lost on the way is asked for again.

        Args:
            **filters: `status`, `owner`, `model`, `tag`, `text` (words of the prompt), `kind`
                (`group`), `created_after` and `created_before` (ms since the epoch).
        """
        async for lines in self.export_lines(**filters):
            for line in lines:
                yield decode(line)

    async def export_lines(self, **filters: str | int | None) -> AsyncIterator[list[bytes]]:
        """As `export`, page by page, each record as the JSON that the service holds."""
        query = {camel(name): str(one) for name, one in filters.items() if one is not None}
        query |= {"format": "ndjson", "limit": str(PAGE)}
        while True:
            answer = await self._request("GET", "/api/predictions", query=query)
            yield answer.content.splitlines()
            cursor = answer.headers.get("Tidings-Next-Cursor")
            if cursor is None:
                return
            query["cursor"] = cursor

    async def count(self, **filters: str | int | None) -> int | None:
        """How many predictions pass the filters; None: the service cannot tell, or not of so many."""
        query = {camel(name): str(one) for name, one in filters.items() if one is not None}
        query |= {"count": "true", "limit": "1"}
        answer = await self._request("GET", "/api/predictions", query=query)
        counts = msgspec.json.decode(answer.content, type=_Counted).counts
        return counts.total if counts is not None and counts.complete else None
