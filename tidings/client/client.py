"""The client in Python: `Client` watches predictions, reads and changes them.

```python
async with Client("http://127.0.0.1:8080") as client:
    async for update in client.watch("p1"):
        print(update)
```
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec

from tidings.client.answers import (
    PredictionPage,
    camel,
    error_of,
    path_of,
    record_of,
    retry_after,
)
from tidings.client.attempts import AttemptsWatch, is_last
from tidings.client.errors import PredictionNotFound, RequestRefused, Unreachable
from tidings.client.export import ExportCalls
from tidings.client.groups import GroupCalls
from tidings.client.progress import Deleted, Selection, Update, WatchState
from tidings.client.questions import QuestionCalls
from tidings.client.text import Text
from tidings.client.token import Token, TokenSource
from tidings.client.usage import UsageCalls
from tidings.storage.prediction import Prediction
from tidings.storage.proxies import by_way_of, calls_this_machine
from tidings.storage.resilience.backoff import Backoff
from tidings.streams.rules.retries import RetryPolicy

if TYPE_CHECKING:
    import httpx

    from tidings.client.subscription import Watch

__all__ = ["Client", "Deleted", "PredictionPage", "Text", "Token", "Update"]

ATTEMPTS = 3
"""How often a request that may be repeated is sent while nobody answers or the service asks to come
back."""
UNREACHED = Backoff((0.2, 0.4))
"""Before asking again if nobody answered."""


class Client(GroupCalls, ExportCalls, QuestionCalls, UsageCalls):
    """A client of one service.

    Args:
        url: The service's address, such as `https://tidings.example.com`; a path before `/api` is
            kept.
        token: A JWT or an API key; or a function (plain or async) that brings one, asked again
            whenever the service wants a new one.
        timeout: Seconds that a request may take.
        patience: Seconds without any connection after which a watch gives up; None: never.
        heartbeat: Seconds between pings of a watch; a connection silent for twice as long is given
            up.
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        *,
        timeout: float = 10.0,
        patience: float | None = None,
        heartbeat: float = 20.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a service; say http://127.0.0.1:8080")
        self._url = url.rstrip("/")
        self._tokens = TokenSource(token)
        self._patience = patience
        self._heartbeat = heartbeat
        try:
            import httpx  # with all that a request needs: whoever opens no client does without

            self._http = httpx.AsyncClient(
                base_url=self._url, timeout=timeout, trust_env=not calls_this_machine(url)
            )
        except (ValueError, ImportError) as error:
            raise ValueError(f"{url!r} cannot be called{by_way_of(url)}: {error}") from None
        self._watches: list[Watch] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every watch and connection. Idempotent."""
        watches, self._watches = self._watches, []
        for watch in watches:
            await watch.aclose()
        await self._http.aclose()

    def watch(
        self,
        *predictions: str,
        owner: str | None = None,
        tag: str | None = None,
        model: str | None = None,
        all: bool = False,
        known: Mapping[str, int] | None = None,
        limit: int | None = None,
        snapshot: bool = True,
    ) -> "Watch":
        """Watch predictions by id, all of an owner, a tag or a model, or everything.

        Exactly one of these is named.

        Args:
            predictions: Ids; those that do not exist yet are reported once they do.
            owner: Whose predictions.
            tag: Predictions with this tag.
            model: Predictions of this model.
            all: Every prediction.
            known: Versions that the caller has already, by id: only what is newer is reported.
            limit: How many of the newest to get at first (service's default 1,000; at most 10,000).
            snapshot: False: only what changes from now on. After a reconnect what stands is
                reported if no version of it was: it may have changed meanwhile.

        Returns:
            An async iterator of `Prediction` and `Deleted`; see `Watch`. Each watch has a
            connection of its own, opened
            when it is first iterated.

        Raises:
            ValueError: Not exactly one thing to watch is named.
        """
        selection = Selection(predictions=predictions, owner=owner, tag=tag, model=model, all=all)
        selection.check()
        # Imported when it is wanted: a client that only reads does without the WebSocket's library.
        from tidings.client.subscription import Watch

        watch = Watch(
            self._url,
            self._tokens,
            WatchState(selection, known=known or {}, limit=limit, snapshot=snapshot),
            patience=self._patience,
            heartbeat=self._heartbeat,
            when_closed=self._forget,
            read_text=self._read_text,
        )
        self._watches.append(watch)
        return watch

    def _forget(self, watch: "Watch") -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    def attempts(self, prediction_id: str) -> AttemptsWatch:
        """Watch a prediction and, if it is tried again, every later attempt at it.

        Returns:
            An async iterator of `Prediction` and `Deleted` that goes on after an end, until it is
            closed.
        """
        return AttemptsWatch(prediction_id, self.watch)

    def text(self, prediction_id: str) -> Text:
        """The text of a prediction: to be read as it grows, or to be written.

        ```python
        async for piece in client.text("p1"):
            print(piece, end="")

        async with client.text("p1") as text:
            await text.write("Hello")
        ```
        """
        path = f"{path_of(prediction_id)}/text"

        async def send(piece: bytes, headers: Mapping[str, str]) -> None:
            await self._request("POST", path, content=piece, headers=headers, repeat=False)

        async def begin() -> None:
            headers = {"Content-Type": "text/plain"}
            await self._request("PUT", path, content=b"", headers=headers)

        async def fail(reason: str) -> None:
            await self.patch(prediction_id, status="failed", error=reason)

        return Text(prediction_id, send, lambda: self.watch(prediction_id), begin, fail)

    async def _read_text(self, prediction_id: str) -> str:
        return (await self._request("GET", f"{path_of(prediction_id)}/text")).text

    async def finished(
        self, prediction_id: str, *, timeout: float | None = None, latest: bool = False
    ) -> Prediction:
        """Wait until a prediction has succeeded, failed or been canceled; return it.

        With `latest` a failure that is tried again is not the end: the last attempt's is.

        Raises:
            PredictionNotFound: It was deleted meanwhile.
            TimeoutError: It took longer than `timeout` seconds.
        """
        watching = self.attempts(prediction_id) if latest else self.watch(prediction_id)
        async with asyncio.timeout(timeout), watching as watch:
            async for update in watch:
                if isinstance(update, Deleted):
                    raise PredictionNotFound(
                        f"prediction {prediction_id!r} was deleted before it finished"
                    )
                if update.status.terminal and (not latest or is_last(update)):
                    return update
        raise Unreachable(f"the client was closed before prediction {prediction_id!r} finished")

    async def get(self, prediction_id: str, *, latest: bool = False) -> Prediction:
        """The prediction as it stands, or with `latest` the newest attempt at it.

        Raises `PredictionNotFound`.
        """
        query = {"latest": "1"} if latest else None
        return self._one(await self._request("GET", path_of(prediction_id), query=query))

    async def create(
        self,
        *,
        provider: str,
        model: str,
        prompt: str | None = None,
        payload: Any = None,
        owner: str | None = None,
        tags: tuple[str, ...] = (),
        estimated_time: float | None = None,
        deadline: int | None = None,
        timeout: float | None = None,
        retries: int | RetryPolicy | Mapping[str, Any] | None = None,
        stream: bool | None = None,
        webhook: str | None = None,
        webhook_events: Sequence[str] | None = None,
        prediction_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Prediction:
        """Have a prediction written down and submitted to its provider; return its first record.

        Args:
            provider: Who makes it, such as `replicate`.
            model: The provider's name of the model.
            prompt: What to make.
            payload: The provider's input, as JSON.
            owner: Whose it is; None: the token's.
            tags: Words to watch and list it by.
            estimated_time: Milliseconds that it is expected to take.
            deadline: When it fails unless it has ended, in ms since the epoch.
            timeout: Milliseconds that it may take, instead of a deadline.
            retries: How often it is tried again if it fails, or a whole policy.
            stream: Read the provider's stream, so that the answer grows as `text`.
            webhook: The https address of a server that is told of its end, signed.
            webhook_events: The statuses that it is told of instead; `waiting`: of questions, too.
            prediction_id: Its id; None: the service chooses one.
            idempotency_key: The same key gives the same prediction; None: a new one, so that a lost
                answer can be asked for again without a second prediction.

        Raises:
            Conflicting: The id is taken.
            RequestRefused: The service cannot submit to this provider, or the key was used for
                something else.
            Unreachable: It was written down but not applied in time; `get` finds it later.
        """
        given = {
            "provider": provider,
            "model": model,
            "prompt": prompt,
            "payload": payload,
            "owner": owner,
            "tags": list(tags) or None,
            "estimatedTime": estimated_time,
            "deadline": deadline,
            "timeout": timeout,
            "retries": retries,
            "stream": stream,
            "webhook": webhook,
            "webhookEvents": None if webhook_events is None else list(webhook_events),
            "predictionId": prediction_id,
        }
        body = {name: value for name, value in given.items() if value is not None}
        return await self._created(body, idempotency_key)

    async def _created(self, body: Mapping[str, Any], idempotency_key: str | None) -> Prediction:
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        answer = await self._request("POST", "/api/predictions", body=body, headers=headers)
        if answer.status_code == HTTPStatus.ACCEPTED:
            where = answer.headers.get("Location", "unknown")
            raise Unreachable(
                f"the prediction is written down, but not applied yet; read {where} later",
                status=202,
            )
        return self._one(answer)

    async def patch(self, prediction_id: str, **fields: Any) -> Prediction:
        """Report fields of a prediction (`status="processing"`, `image_url=...`).

        Returns the record that they made.

        If the service has taken the report but not applied it within 5 s, the record as it
        stands is returned.

        Raises:
            Conflicting: The rules forbid the change of status.
            PredictionNotFound: There is no such prediction.
        """
        body = {camel(name): value for name, value in fields.items()}
        answer = await self._request("PATCH", path_of(prediction_id), body=body, repeat=False)
        return await self._one_or_current(prediction_id, answer)

    async def cancel(self, prediction_id: str) -> Prediction:
        """Ask for a prediction's cancellation.

        Returns the record, which its provider's answer will change.
        """
        answer = await self._request("POST", f"{path_of(prediction_id)}/cancel")
        return await self._one_or_current(prediction_id, answer)

    async def retry(
        self, prediction_id: str, *, provider: str | None = None, model: str | None = None
    ) -> Prediction:
        """Try again what failed or was canceled; return the new attempt.

        One that was tried again before gives the attempt that there is.

        Args:
            prediction_id: Of what failed.
            provider: Who is to try; None: the same one.
            model: With which model; None: the same one.

        Raises:
            Conflicting: It has not failed, and was not canceled.
            Unreachable: The retry is written down, and its attempt does not show yet.
        """
        given = {"provider": provider, "model": model}
        body = {name: value for name, value in given.items() if value is not None}
        answer = await self._request("POST", f"{path_of(prediction_id)}/retry", body=body)
        if answer.status_code == HTTPStatus.ACCEPTED:
            where = answer.headers.get("Location", "unknown")
            raise Unreachable(f"the retry is written down; read {where} later", status=202)
        return self._one(answer)

    async def delete(self, prediction_id: str) -> None:
        """Delete a prediction. Raises `PredictionNotFound`."""
        await self._request("DELETE", path_of(prediction_id), repeat=False)

    def _one(self, answer: "httpx.Response") -> Prediction:
        try:
            return record_of(answer, self._url)
        except msgspec.DecodeError as error:
            raise RequestRefused(
                f"{answer.url} did not answer with a record ({error})", status=answer.status_code
            ) from error

    async def _one_or_current(self, prediction_id: str, answer: "httpx.Response") -> Prediction:
        try:
            return record_of(answer, self._url)
        except msgspec.DecodeError:
            return await self.get(prediction_id)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool = True,
    ) -> "httpx.Response":
        """Send a request, and repeat it if a repeat is harmless and may help.

        It helps if nobody answered, or if the service wants a new token.
        """
        from httpx import TransportError

        if body is not None:
            content = msgspec.json.encode(body)
        renewed = False
        attempt = 0
        while True:
            attempt += 1
            token = await self._tokens.current()
            sent = dict(headers or {})
            if body is not None:
                sent["Content-Type"] = "application/json"
            if token is not None:
                sent["Authorization"] = f"Bearer {token}"
            last = not repeat or attempt >= ATTEMPTS
            try:
                answer = await self._http.request(
                    method, path, params=query, content=content, headers=sent
                )
            except TransportError as error:
                if last:
                    reason = str(error) or type(error).__name__
                    raise Unreachable(
                        f"{self._url} cannot be reached{by_way_of(self._url)} ({reason}); "
                        "is the service running there?"
                    ) from error
                await asyncio.sleep(UNREACHED.wait(attempt))
                continue
            if answer.is_success:
                return answer
            if answer.status_code == 401 and not renewed and await self._tokens.renew(token):
                renewed = True
            elif answer.status_code in {429, 503} and not last:
                await asyncio.sleep(retry_after(answer, attempt))
            else:
                raise error_of(answer)
