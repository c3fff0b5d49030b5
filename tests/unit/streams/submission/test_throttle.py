"""A provider's throttle: how long it is left alone, and what trips its circuit."""

import pytest

from tests.support.clock import ManualClock
from tidings.streams.providers.job_api import Call
from tidings.streams.submission.http import Answer, CallFailed, NoAnswer, asked_to_wait
from tidings.streams.submission.throttle import TRIPS_AFTER, UNASKED, Limits, ProviderThrottle

CALL = Call(method="GET", url="http://127.0.0.1:1/x", headers={})
NOW = 1_764_000_000.0


class Provider:
    """Answers as it is told, in order; the last one for ever."""

    def __init__(self, *answers: Answer | CallFailed) -> None:
        self.answers = list(answers)

    async def send(self, call: Call) -> Answer:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, CallFailed):
            raise answer
        return answer


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def throttle(
    *answers: Answer | CallFailed, limits: Limits | None = None
) -> tuple[ProviderThrottle, ManualClock]:
    clock = ManualClock(int(NOW * 1000), 100.0)
    return ProviderThrottle("p", Provider(*answers).send, limits, clock=clock), clock


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (answer(429, retry_after="7"), 7),
        (answer(429, retry_after="Mon, 24 Nov 2025 16:00:30 GMT"), 30),
        (answer(429, retry_after="Mon, 24 Nov 2025 15:00:00 GMT"), 0),
        (answer(429, retry_after="soon"), None),
        (answer(429, retry_after="-5"), None),
        (answer(429, retry_after="99999999999999"), None),
        (answer(429, b'{"detail":"Request was throttled. Your rate limit resets in ~30s."}'), 30),
        (answer(429, b'{"detail":"resets in 5 s"}', retry_after="2"), 2),
        (answer(503, b"<html>"), None),
    ],
)
def test_what_the_provider_asks_for(given: Answer, seconds: float | None) -> None:
    """`Retry-After` counts, in seconds or as a date; else the words of Replicate.

    Else nothing is said.
    """
    assert asked_to_wait(given, NOW) == seconds


async def test_429_closes_the_lane_for_as_long_as_asked() -> None:
    """The throttle is closed for what the provider asks, within a bound.

    Without a word for two seconds.
    """
    asked, _ = throttle(answer(429, retry_after="30"))
    await asked.call(CALL)
    assert asked.closed_for == 30
    silent, clock = throttle(answer(429))
    await silent.call(CALL)
    assert silent.closed_for == UNASKED
    clock.seconds += UNASKED
    assert silent.closed_for == 0
    endless, _ = throttle(answer(429, retry_after="999999"))
    await endless.call(CALL)
    assert endless.closed_for == 300


async def test_failures_in_a_row_open_the_circuit_for_longer_each_time() -> None:
    """Five failures in a row, by status or without an answer, and the provider is left alone.

    One success ends it.
    """
    broken, clock = throttle(
        answer(500),
        NoAnswer("x"),
        answer(503),
        answer(502),
        answer(500),
        answer(500),
        answer(200),
        answer(500),
    )
    for _ in range(TRIPS_AFTER - 1):
        await _tried(broken)
    assert broken.closed_for == 0
    await _tried(broken)
    assert broken.broken
    assert 0.5 <= broken.closed_for <= 1
    clock.seconds += broken.closed_for
    await _tried(broken)
    assert 1 <= broken.closed_for <= 2
    clock.seconds += broken.closed_for
    await _tried(broken)
    assert not broken.broken
    await _tried(broken)
    assert broken.closed_for == 0


async def _tried(throttle: ProviderThrottle) -> None:
    try:
        async with throttle.slot():
            await throttle.call(CALL)
    except CallFailed:
        return


async def test_refusals_trip_nothing() -> None:
    """4xx are answers: however many come, the throttle stays open."""
    refusing, _ = throttle(answer(404))
    for _ in range(20):
        await _tried(refusing)
    assert (refusing.broken, refusing.closed_for, refusing.calls) == (False, 0, 20)
