"""A back-end developer: the library without a service, then a client of a service in Python.

`python -m tests.system.first_hour.back_end` prints the steps and their seconds.
"""

from tests.support.tidings_process import serving
from tests.system.first_hour.steps import Hour, block, main, run_command, run_python


async def back_end(hour: Hour) -> None:
    """The README's blocks for Python, in the order in which they stand there."""
    readme = "README.md"
    with hour.step("keep predictions in a program of one's own, without a log"):
        said = await run_python(hour.folder, block(readme, "python", "PredictionStatusManager"), "")
        assert said.startswith("succeeded "), said
    with hour.step("start the service"):
        stack = serving(hour.folder)
        service = await stack.__aenter__()
    try:
        with hour.step("report about a prediction from the shell"):
            words = ["report", "p1", "--status", "succeeded", "--image-url"]
            done = await run_command(hour.folder, [*words, "https://example.com/cat.png"])
            assert done.code == 0, done.err
        with hour.step("wait for its end with the Python client"):
            code = block(readme, "python", "client.finished")
            said = await run_python(hour.folder, code, f"127.0.0.1:{service.port}")
            assert said.strip() == "succeeded https://example.com/cat.png", said
    finally:
        await stack.__aexit__(None, None, None)


if __name__ == "__main__":
    main(back_end)
