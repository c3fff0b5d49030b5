"""A stand-in for AI providers.

Real HTTP, signed webhooks, and pictures that differ with the prompt.
"""

from tidings.demo.stand_in import StandIn

__all__ = ["StandIn"]
