"""The conformance suite of Durable Streams and its clients for JavaScript; npm installs them into `.cache/`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.root import ROOT

SUITE = "0.3.6"
CLIENT = "0.2.6"
CACHE = ROOT / ".cache" / "durable-streams"

RUNNER = """
import { runConformanceTests } from "@durable-streams/server-conformance-tests";
runConformanceTests({ baseUrl: process.env.CONFORMANCE_TEST_URL });
"""


class InstallFailed(Exception):
    """npm could not fetch the suite."""


def folder() -> Path:
    """Where the packages are, fetched where they are missing."""
    there = CACHE / f"{SUITE}-{CLIENT}"
    if there.exists():
        return there
    CACHE.mkdir(parents=True, exist_ok=True)
    # Fetched beside and renamed: an interrupted fetch, or two at once, leave no half a folder.
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        fetched = Path(work, "fetched")
        fetched.mkdir()
        packages = (
            f"@durable-streams/server-conformance-tests@{SUITE}",
            f"@durable-streams/client@{CLIENT}",
        )
        command = ("npm", "install", "--no-audit", "--no-fund", "--prefix", str(fetched), *packages)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InstallFailed(f"npm could not fetch {packages}:\n{done.stdout}{done.stderr}")
        (fetched / "suite.test.mjs").write_text(RUNNER)
        if not there.exists():
            fetched.rename(there)
    return there


def run_suite(url: str) -> list[dict[str, Any]]:
    """Run the suite against a server; each case with `group`, `title`, `status` and `message`."""
    home = folder()
    with tempfile.TemporaryDirectory() as work:
        report = Path(work, "report.json")
        command = (
            str(home / "node_modules" / ".bin" / "vitest"),
            "run",
            "suite.test.mjs",
            "--reporter=json",
            f"--outputFile={report}",
        )
        environment = {**os.environ, "CONFORMANCE_TEST_URL": url}
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        if not report.exists():
            raise InstallFailed(f"the suite did not run:\n{done.stdout}{done.stderr}")
        found = json.loads(report.read_text())
    return [
        {
            "group": case["ancestorTitles"][-1],
            "title": case["title"],
            "status": case["status"],
            "message": "\n".join(case["failureMessages"])[:500],
        }
        for file in found["testResults"]
        for case in file["assertionResults"]
    ]


PYTHON_CLIENT = "0.1.0"

JAVASCRIPT_READER = """
import { stream } from "@durable-streams/client";
const [url, live] = process.argv.slice(2);
const backoffOptions = { initialDelay: 100, maxDelay: 500, multiplier: 1.5, maxRetries: 1000 };
let text = "", offset = "-1";
while (!text.endsWith("END")) {
  try {
    const res = await stream({ url, offset, live, backoffOptions });
    await new Promise((resolve, reject) => {
      res.closed.then(resolve, reject);
      res.subscribeText(async (chunk) => {
        text += chunk.text;
        offset = chunk.offset;
        console.error(`at ${text.length}`);
        if (text.endsWith("END")) resolve();
      });
    });
  } catch (error) {
    console.error(`again: ${error.message}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
process.stdout.write(text, () => process.exit(0));
"""

PYTHON_READER = """
import sys, time
from durable_streams import stream
url, live = sys.argv[1:]
text, offset, ended = "", "-1", False
while not ended:
    try:
        with stream(url, offset=offset, live=live) as res:
            for event in res.iter_events(mode="text"):
                text += event.data
                offset = event.next_offset
                print(f"at {len(text)}", file=sys.stderr, flush=True)
                if text.endswith("END"):  # this version knows nothing of ends
                    ended = True
                    break
    except Exception as error:
        print(f"again: {error}", file=sys.stderr, flush=True)
        time.sleep(0.2)
sys.stdout.write(text)
"""


def javascript_reader() -> tuple[list[str], Path]:
    """The command of a reader with the npm client, and the folder to run it in."""
    home = folder()
    (home / "reader.mjs").write_text(JAVASCRIPT_READER)
    return ["node", "reader.mjs"], home


def python_reader() -> tuple[list[str], Path]:
    """The command of a reader with the PyPI client, and the folder to run it in."""
    there = CACHE / f"python-{PYTHON_CLIENT}"
    if not there.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            fetched = Path(work, "fetched")
            wanted = f"durable-streams=={PYTHON_CLIENT}"
            command = (
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--target",
                str(fetched),
                wanted,
            )
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InstallFailed(f"pip could not fetch {wanted}:\n{done.stdout}{done.stderr}")
            if not there.exists():
                fetched.rename(there)
    (there / "reader.py").write_text(PYTHON_READER)
    return [sys.executable, "reader.py"], there
