"""Functions as a user may plug them in."""

from typing import Any


def prompt(provider: str, model: str, payload: Any) -> str:
    """Fails where there is no text."""
    return f"{provider} of {payload['text']}"


async def estimate(provider: str, model: str, payload: Any) -> float:
    return 1234
