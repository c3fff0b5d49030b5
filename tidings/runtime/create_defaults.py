"""The prompt and the estimate of a new prediction whose order does not say them.

`TIDINGS_PROMPT_FUNCTION` and `TIDINGS_ESTIMATE_FUNCTION` name a function each, as
`module:function`. Both are called with the provider's name, the model's name and the payload as
Python values; one returns the prompt (a string), the other milliseconds; None: not known. They may
be coroutine functions.
"""

import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from tidings.config.settings import Settings, SettingsError
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.streams.rules.timeouts import DefaultTimeouts
from tidings.streams.submission.estimates import Estimates

Function = Callable[[str, str, Any], Any]

logger = get_logger(__name__)


class CreateDefaults:
    """Adds what an order leaves out.

    Args:
        prompt: A prompt out of a payload.
        estimate: The time that a prediction will take, in ms.
        timeouts: How long it may take.
    """

    def __init__(
        self, prompt: Function, estimate: Function, timeouts: DefaultTimeouts | None = None
    ) -> None:
        self._prompt, self._estimate = prompt, estimate
        self._timeouts = timeouts or DefaultTimeouts({})

    async def __call__(self, fields: Mapping[str, Raw]) -> dict[str, Raw]:
        """The members to add to an order's.

        Args:
            fields: Of the order, as JSON; `provider` and `model` are strings.
        """
        added: dict[str, Raw] = {}
        if "prompt" not in fields:
            prompt = await self._ask("prompt", self._prompt, fields)
            if isinstance(prompt, str) and prompt:
                added["prompt"] = Raw(msgspec.json.encode(prompt))
        if "estimatedTime" not in fields:
            estimate = await self._ask("estimate", self._estimate, fields)
            if (
                isinstance(estimate, int | float)
                and not isinstance(estimate, bool)
                and 0 <= estimate < 1e12
            ):
                added["estimatedTime"] = Raw(msgspec.json.encode(estimate))
        if self._timeouts and "deadline" not in fields and "timeout" not in fields:
            named = (msgspec.json.decode(fields[what], type=str) for what in ("provider", "model"))
            if (timeout := self._timeouts.of(*named)) is not None:
                added["timeout"] = Raw(b"%d" % timeout)
        return added

    async def _ask(self, name: str, function: Function, fields: Mapping[str, Raw]) -> Any:
        try:
            provider, model = (
                msgspec.json.decode(fields[what], type=str) for what in ("provider", "model")
            )
            answer = function(
                provider, model, msgspec.json.decode(fields.get("payload", Raw(b"null")))
            )
            return await answer if inspect.isawaitable(answer) else answer
        except Exception as error:  # a function of the user's must not stop a prediction
            logger.warning(
                "create.default_failed", function=name, error=f"{type(error).__name__}: {error}"
            )
            return None


def payload_prompt(_provider: str, _model: str, payload: Any) -> str | None:
    """`prompt` of the payload, if it is text: what holds without a function of the user's."""
    prompt = payload.get("prompt") if isinstance(payload, dict) else None
    return prompt if isinstance(prompt, str) else None


def median_estimate(estimates: Estimates) -> Callable[[str, str, Any], Awaitable[int | None]]:
    """The estimate if no function is set: the median of the model's finished predictions."""

    async def estimate(_provider: str, model: str, _payload: Any) -> int | None:
        try:
            return await estimates.of(model)
        except StorageError as error:
            logger.warning("estimate.store_unavailable", error=str(error))
            return None

    return estimate


def create_defaults_of(settings: Settings, estimates: Estimates) -> CreateDefaults:
    """The defaults that the settings ask for.

    Raises:
        SettingsError: A function cannot be loaded; the message names the setting.
    """
    prompt = _function("TIDINGS_PROMPT_FUNCTION", settings.prompt_function) or payload_prompt
    estimate = _function(
        "TIDINGS_ESTIMATE_FUNCTION", settings.estimate_function
    ) or median_estimate(estimates)
    return CreateDefaults(prompt, estimate, DefaultTimeouts.parse(settings.timeouts))


def _function(setting: str, named: str | None) -> Function | None:
    if named is None:
        return None
    module, colon, name = named.partition(":")
    if not (module and colon and name):
        raise SettingsError(f"{setting}: {named!r} names no function; say module:function")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"{setting}: {named!r} cannot be loaded ({error}); check its name and PYTHONPATH"
        ) from None
    if not callable(found):
        raise SettingsError(f"{setting}: {named!r} is no function")
    return found  # type: ignore[no-any-return]
