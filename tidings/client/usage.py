"""What the client does with usage."""

from collections.abc import Sequence

import msgspec

from tidings.client.answers import camel
from tidings.client.requests import SendsRequests


class UsageRow(msgspec.Struct, kw_only=True, rename="camel"):
    """What some predictions have used; of owner, model, provider and day those that were asked for."""

    owner: str | None = None
    model: str | None = None
    provider: str | None = None
    day: str | None = None
    """Of UTC, such as `2026-01-31`."""
    predictions: int
    input_tokens: int
    output_tokens: int
    seconds: float
    images: int
    costs: dict[str, str]
    """By currency, decimal numbers: `Decimal(row.costs["USD"])`."""


class _Answer(msgspec.Struct, rename="camel"):
    data: list[UsageRow]


class UsageCalls(SendsRequests):
    """The call about usage, for a class that sends requests."""

    async def usage(
        self, by: Sequence[str] = (), *, since: str | int | None = None, until: str | int | None = None,
        **filters: str | None,
    ) -> list[UsageRow]:  # fmt: skip
        """What predictions have used, over the records that the service keeps.

        Args:
            by: `owner`, `model`, `provider`, `day`: a sum for each; none: one for all.
            since: Created then or later: ISO 8601, or ms since the epoch.
            until: Created before then.
            **filters: `owner`, `model`, `provider`.

        Raises:
            RequestRefused: The service's store cannot sum, or a filter is off.
            Unreachable: It does not answer.
        """
        given = {**filters, "groupBy": ",".join(by) or None, "from": since, "to": until}
        query = {camel(name): str(one) for name, one in given.items() if one is not None}
        answer = await self._request("GET", "/api/usage", query=query)
        return msgspec.json.decode(answer.content, type=_Answer).data
