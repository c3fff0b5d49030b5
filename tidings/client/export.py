"""What the client does with all records: lines, page by page, so that any number fits into memory."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from tidings.client.answers import PredictionPage, absolute, camel, outside
from tidings.client.requests import SendsRequests
from tidings.storage.prediction import Prediction, Status, decode

PAGE = 500
"""Records that are asked for at a time."""


class _Counts(msgspec.Struct):
    total: int
    complete: bool


class _Counted(msgspec.Struct):
    counts: _Counts | None = None


class ExportCalls(SendsRequests):
    """The calls about many records, for a class that sends requests."""

    _url: str

    async def list(
        self,
        *,
        status: Status | str | None = None,
        owner: str | None = None,
        model: str | None = None,
        tag: str | None = None,
        provider: str | None = None,
        error: str | None = None,
        text: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> PredictionPage:
        """A page of predictions, newest first, that pass all the filters given.

        By default 50, at most 1,000. `error` is a code or words of the error, `text` words of the
        prompt or the id.
        """
        given = {"status": status, "owner": owner, "model": model, "tag": tag}
        given |= {"provider": provider, "error": error, "text": text}
        given |= {"limit": None if limit is None else str(limit), "cursor": cursor}
        query = {name: str(value) for name, value in given.items() if value is not None}
        answer = await self._request("GET", "/api/predictions", query=query)
        page = msgspec.json.decode(answer.content, type=PredictionPage)
        service = outside(answer, self._url)
        return PredictionPage([absolute(one, service) for one in page.data], page.cursor)

    async def export(self, **filters: str | int | None) -> AsyncIterator[Prediction]:
        """Every prediction that passes the filters, newest first, with its text.

        A page is in memory at a time, and one that is lost on the way is asked for again.

        Args:
            **filters: `status`, `owner`, `model`, `tag`, `provider`, `error` (a code, or words of
                the error), `text` (words of the prompt), `kind` (`group`), `created_after` and `created_before` (ms since the epoch).
        """
        async for lines in self.export_lines(**filters):
            for line in lines:
                yield decode(line)

    async def export_lines(self, **filters: str | int | None) -> AsyncIterator[Sequence[bytes]]:
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
