"""A stand-in for AI providers: real HTTP, signed webhooks, pictures that differ with the prompt, and bad days on demand."""

from tidings.demo.bad_days import BadDays
from tidings.demo.stand_in import StandIn

__all__ = ["BadDays", "StandIn"]
