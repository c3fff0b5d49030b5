"""What the client does with groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidings.client.answers import PredictionPage, camel
from tidings.client.requests import SendsRequests
from tidings.storage.prediction import Prediction


class GroupCalls(SendsRequests):
    """The calls about groups, for a class that sends requests."""

    async def _created(self, body: Mapping[str, Any], idempotency_key: str | None) -> Prediction:
        raise NotImplementedError

    async def create_group(
        self,
        orders: Sequence[Mapping[str, Any]],
        *,
        group: str | None = None,
        owner: str | None = None,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
        **shared: Any,
    ) -> Prediction:
        """Have up to 1,000 predictions made that belong together; return the group's record.

        Args:
            orders: Of each member what `create` takes, by the same names; what is missing comes
                from `shared`.
            group: The group's id; None: the service chooses one.
            owner: Whose it is; None: the token's.
            tags: Words to watch and list it by, the members too.
            idempotency_key: As for `create`.
            **shared: What the orders share: `provider`, `model`, `prompt`, `payload`,
                `estimated_time`, `deadline`, `timeout`, `retries`, `webhook`, `webhook_events`. The
                webhook is told of the group, too; of the group alone if each order has None.

        Raises:
            Conflicting: The id is taken.
            RequestRefused: An order cannot be carried out; the message says which.
            Unreachable: It was written down but not applied in time; `get` finds it later.
        """
        given: dict[str, Any] = {
            **{camel(name): value for name, value in shared.items()},
            "group": True if group is None else group,
            "owner": owner,
            "tags": list(tags) or None,
            "orders": [{camel(name): value for name, value in one.items()} for one in orders],
        }
        body = {name: value for name, value in given.items() if value is not None}
        return await self._created(body, idempotency_key)

    async def members(self, group: str) -> Sequence[Prediction]:
        """The members of a group, each by its newest attempt. Raises `PredictionNotFound`."""
        found: tuple[Prediction, ...] = ()
        query = {"group": group, "limit": "1000"}
        while True:
            answer = await self._request("GET", "/api/predictions", query=query)
            page = msgspec.json.decode(answer.content, type=PredictionPage)
            found += tuple(page.data)
            if page.cursor is None:
                return found
            query["cursor"] = page.cursor
