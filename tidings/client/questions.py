"""What the client does with questions: asking one, answering it, and waiting for the answer."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.client.answers import path_of
from tidings.client.errors import Conflicting, PredictionNotFound, Unreachable
from tidings.client.progress import Deleted
from tidings.client.requests import SendsRequests
from tidings.storage.prediction import Prediction
from tidings.streams.rules.large_fields import reference

if TYPE_CHECKING:
    import httpx

    from tidings.client.subscription import Watch


class QuestionCalls(SendsRequests):
    """The calls about questions, for a class that sends requests and watches."""

    async def _one_or_current(self, prediction_id: str, answer: "httpx.Response") -> Prediction:
        raise NotImplementedError

    def watch(self, *predictions: str) -> "Watch":
        """See `Client.watch`."""
        raise NotImplementedError

    async def ask(
        self,
        prediction_id: str,
        question: str | Mapping[str, Any],
        *,
        question_id: str | None = None,
    ) -> Prediction:
        """Let a prediction wait for a person to answer a question; return its record.

        Args:
            prediction_id: One that has not ended.
            question: A text, or an object with a `text` and perhaps `choices`, a list of the
                answers that are taken.
            question_id: The same id again is the same question, also after its answer.

        Raises:
            PredictionNotFound: There is no such prediction.
            RequestRefused: The question is none.
        """
        said = {"waiting": True, "question": question, "questionId": question_id}
        body = {name: value for name, value in said.items() if value is not None}
        # With an id of its own a repeat asks nothing twice.
        repeat = question_id is not None
        answer = await self._request("PATCH", path_of(prediction_id), body=body, repeat=repeat)
        return await self._one_or_current(prediction_id, answer)

    async def answer(
        self, prediction_id: str, answer: Any, *, question_number: int | None = None
    ) -> Prediction:
        """Answer the question that a prediction waits with; return its record.

        Args:
            prediction_id: One that is `waiting`.
            answer: Anything that JSON can hold but None.
            question_number: Of the record that the answer is for; None: whatever it asks by now.

        Raises:
            Conflicting: It does not wait, its question is another one, or somebody else's answer
                was first.
            PredictionNotFound: There is no such prediction.
            RequestRefused: The answer is too large, or none of the choices.
        """
        said = {"answer": answer, "questionNumber": question_number}
        body = {name: value for name, value in said.items() if value is not None}
        found = await self._request("POST", f"{path_of(prediction_id)}/answer", body=body)
        return await self._one_or_current(prediction_id, found)

    async def answer_to(
        self,
        prediction_id: str,
        *,
        question_number: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Wait for the answer to a prediction's question, whoever gives it, and return it.

        ```python
        asked = await client.ask("p1", {"text": "Which one?", "choices": ["a", "b"]})
        chosen = await client.answer_to("p1", question_number=asked.question_number)
        ```

        Args:
            prediction_id: One that has asked, or will.
            question_number: Of the record that `ask` gave; None: the question that stands, or the
                next one.
            timeout: Seconds.

        Raises:
            Conflicting: It ended without an answer, or asked something else meanwhile.
            PredictionNotFound: It was deleted meanwhile.
            TimeoutError: It took longer than `timeout` seconds.
        """
        async with asyncio.timeout(timeout), self.watch(prediction_id) as watch:
            async for update in watch:
                if isinstance(update, Deleted):
                    raise PredictionNotFound(f"prediction {prediction_id!r} was deleted")
                number = update.question_number or 0
                if question_number is not None and number > question_number:
                    raise Conflicting(
                        f"prediction {prediction_id!r} has asked question {number} since"
                    )
                if update.answered_at is not None and number >= (question_number or 1):
                    return await self._whole_answer(update)
                if update.status.terminal:
                    raise Conflicting(f"prediction {prediction_id!r} ended {update.status}")
        raise Unreachable(f"the client was closed before {prediction_id!r} was answered")

    async def _whole_answer(self, record: Prediction) -> Any:
        blob = reference(record.answer)
        if blob is None:
            return msgspec.json.decode(record.answer)
        path = f"{path_of(record.prediction_id)}/blobs/{blob.hash}"
        return msgspec.json.decode((await self._request("GET", path)).content)
