"""An operator: what is set, whether it can be believed, what failed, a backup, and its restoration.

`python -m tests.system.first_hour.operator` prints the steps and their seconds.
"""

from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tests.system.first_hour.steps import Hour, block, lines_of, main, run_command


async def operator(hour: Hour) -> None:
    """The README's commands for an operator, then a backup as the guide has it."""
    commands = {
        tuple(words[:2]): words for words in lines_of(block("README.md", "sh", "replay --verify"))
    }
    folder = hour.folder
    with hour.step("ask the doctor before anything is there"):
        assert (await run_command(folder, commands["doctor",])).code == 0
    with hour.step("start the service, and let two reports contradict each other"):
        stack = serving(folder)
        service = await stack.__aenter__()
        for status in ("succeeded", "failed"):
            assert (await run_command(folder, ["report", "p1", "--status", status])).code == 0
    try:
        with hour.step("find the dead letter"):

            async def found() -> bool:
                listed = await run_command(folder, commands["dead-letters", "list"])
                return "contradiction" in listed.out

            await eventually(found)
        with hour.step("dismiss it"):
            done = await run_command(folder, ["dead-letters", "dismiss", "--all"])
            assert done.out.strip() == "1 dismissed", done.out
            listed = await run_command(folder, commands["dead-letters", "list"])
            assert "no open dead letters" in listed.out
        with hour.step("compare the store with the log"):
            assert (await run_command(folder, commands["replay", "--verify"])).code == 0
        with hour.step("repair: nothing differs"):
            assert (await run_command(folder, commands["replay", "--repair"])).code == 0
        with hour.step("ask the doctor again, beside the running service"):
            port = {"TIDINGS_PORT": str(service.port)}
            assert (await run_command(folder, commands["doctor",], **port)).code == 0
        with hour.step("take out and erase what somebody owns: looked at first, then with --yes"):
            about = ["report", "p9", "--status", "succeeded", "--owner", "user-4711"]
            assert (await run_command(folder, about, **port)).code == 0
            (export, erase) = (
                lines_of(block(document, "sh", having))[0]
                for document, having in (
                    ("docs/howto/operations.md", "tidings export --owner"),
                    ("docs/reference/commands.md", "tidings erase --owner"),
                )
            )

            async def taken_out() -> bool:
                (folder / export[-1]).unlink(missing_ok=True)
                done = await run_command(folder, export, **port)
                return done.code == 0 and "p9" in (folder / export[-1]).read_text()

            await eventually(taken_out)
            assert (await run_command(folder, erase)).code == 0  # --dry-run
            assert erase[-1] == "--dry-run"
            refused = await run_command(folder, erase[:-1])
            assert (refused.code, "--yes" in refused.err) == (2, True), refused.err
            done = await run_command(folder, [*erase[:-1], "--yes"])
            assert done.code == 0, done.err
        with hour.step("back up while it runs"):
            assert (await run_command(folder, ["backup", "monday.tar"])).code == 0
    finally:
        await stack.__aexit__(None, None, None)
    with hour.step("restore elsewhere, and compare"):
        new = folder / "restored"
        new.mkdir()
        (restore, *_) = lines_of(block("docs/howto/deploying.md", "sh", "tidings restore"))
        asks = await run_command(new, ["restore", "../monday.tar"])
        assert (asks.code, "--yes" in asks.err) == (2, True), asks.err
        done = await run_command(new, ["restore", "../monday.tar", *restore[2:]])
        assert done.code == 0, done.err
        assert (await run_command(new, commands["replay", "--verify"])).code == 0


if __name__ == "__main__":
    main(operator)
