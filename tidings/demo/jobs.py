"""Predictions as the stand-in runs them: queued, drawn step by step, finished or stopped."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
from msgspec import Raw, Struct

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_random = random.SystemRandom()


class News(StrEnum):
    """What happened to a prediction, named as Replicate's webhook events."""

    START = "start"
    OUTPUT = "output"
    LOGS = "logs"
    COMPLETED = "completed"


class Wishes(Struct, frozen=True):
    """What an input may say about how it is drawn; anything else in it is carried along."""

    prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    duration: float | None = None
    """Seconds."""
    say: str | None = None
    """Write this, word by word, instead of drawing."""
    fail: str | None = None
    """Fail with this message instead."""


@dataclass(eq=False)
class Job:
    """A prediction. Times are seconds since the epoch."""

    id: str
    model: str
    input: Raw
    wishes: Wishes
    steps: int
    duration: float
    created: float
    words: tuple[str, ...] = ()
    """What it writes; of a picture none."""
    written: int = 0
    """Words so far."""
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, with each word and at the end."""
    noise: int = 0
    """Bytes of logs beyond the ordinary."""
    status: str = "starting"
    step: int = 0
    logs: str = ""
    error: str | None = None
    started: float | None = None
    finished: float | None = None
    deadline: float | None = None
    """When it is stopped if it has not finished, in seconds since the epoch."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.finished is not None

    @property
    def picture(self) -> str | None:
        """The name of its newest picture's file."""
        if self.words:
            return None
        if self.status == "succeeded":
            return "out-0.png"
        return f"step-{self.step}.png" if self.status == "processing" and self.step else None

    @property
    def predict_time(self) -> float | None:
        """Seconds of work, once it has ended."""
        return (
            None if self.finished is None or self.started is None else self.finished - self.started
        )

    def sharpness(self, name: str) -> float | None:
        """How sharp the picture in the file of this name is, 0 to 1.

        None: there is no such file.
        """
        if name == "out-0.png":
            return 1.0 if self.status == "succeeded" else None
        number = name.removeprefix("step-").removesuffix(".png")
        if not number.isascii() or not number.isdecimal() or len(number) > 6:
            return None
        return int(number) / (self.steps + 1) if 0 < int(number) <= self.step else None


def new_id() -> str:
    """An id of the form that Replicate gives: 26 small letters and digits."""
    return "".join(_random.choices(_ALPHABET, k=26))


def read_wishes(payload: Raw) -> Wishes:
    """What the input says about drawing; a wish of the wrong type is none."""
    try:
        return msgspec.json.decode(payload, type=Wishes)
    except msgspec.ValidationError:
        pass
    try:
        prompt = msgspec.json.decode(payload, type=dict[str, Raw]).get("prompt")
        return Wishes(prompt=msgspec.json.decode(prompt, type=str) if prompt is not None else "")
    except msgspec.ValidationError:
        return Wishes()


async def run(job: Job, tell: Callable[[Job, News], None]) -> None:
    """Draw the picture and report each event as it happens.

    Returns when the prediction has ended.
    """
    pause = job.duration / (job.steps + 1)
    await _wait(job, pause / 2)
    if not job.stop.is_set():
        job.status = "processing"
        job.started = time.time()
        seed = job.wishes.seed if job.wishes.seed is not None else _random.randrange(2**31)
        job.logs = f"Using seed: {seed}\nGenerating...\n" + "x" * job.noise
        tell(job, News.START)
    if job.words:
        await _write(job)
    while not job.words and job.step < job.steps and not job.stop.is_set():
        await _wait(job, pause)
        if job.stop.is_set():
            break
        job.step += 1
        job.logs += _progress_line(job)
        tell(job, News.LOGS)
        if job.step % 2 == 0:
            tell(job, News.OUTPUT)
        if job.wishes.fail is not None and job.step * 2 >= job.steps:
            job.error = job.wishes.fail
            break
    _end(job)
    tell(job, News.COMPLETED)


def _end(job: Job) -> None:
    if job.error is not None:
        job.status = "failed"
    elif job.stop.is_set():
        job.status = "canceled"
    else:
        job.status = "succeeded"
    job.finished = time.time()
    job.done.set()
    _pulse(job)


async def _write(job: Job) -> None:
    """Write the words, and fail in the middle if that is wished."""
    for _ in job.words:
        await _wait(job, job.duration / len(job.words))
        if job.stop.is_set():
            return
        if job.wishes.fail is not None and job.written * 2 >= len(job.words):
            job.error = job.wishes.fail
            return
        job.written += 1
        _pulse(job)


def _pulse(job: Job) -> None:
    job.grown.set()
    job.grown = asyncio.Event()


def _progress_line(job: Job) -> str:
    """A line as tqdm prints it, which most models' logs consist of."""
    share = job.step / job.steps
    bar = "█" * int(share * 10) + " " * (10 - int(share * 10))
    return f"{share:4.0%}|{bar}| {job.step}/{job.steps}\n"


async def _wait(job: Job, seconds: float) -> None:
    """Wait, or until the prediction is stopped or its time is up."""
    if job.deadline is not None:
        seconds = min(seconds, max(0.0, job.deadline - time.time()))
    try:
        async with asyncio.timeout(seconds):
            await job.stop.wait()
    except TimeoutError:
        if job.deadline is not None and time.time() >= job.deadline:
            job.stop.set()
