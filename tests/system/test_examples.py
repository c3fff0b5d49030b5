"""Each example runs as its first lines say, and the index names them all."""

import asyncio
import contextlib
import hmac
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest

from tests.support import node
from tests.support.broker import Broker, free_port, jars
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.system import JAVA, MAVEN, require
from tests.support.tidings_process import environment, serving
from tests.support.uvicorn_process import uvicorn
from tests.support.webhooks import signed
from tidings import Client

FOLDER = ROOT / "examples"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def run(*arguments: str, folder: Path) -> str:
    """An example's output; it must end well within a minute."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT), "TIDINGS_STANDARD_SECRET": SECRET}),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return output.decode()


async def test_a_report_reaches_whoever_watches(tmp_path: Path) -> None:
    """The example that reports ends the watch of the example that watches."""
    async with serving(tmp_path, {"TIDINGS_STANDARD_SECRET": SECRET}) as service:
        watching = asyncio.create_task(
            run(str(FOLDER / "watch.py"), service.url, "p1", folder=tmp_path)
        )
        report = str(FOLDER / "report.py")
        picture = "https://example.com/cat.png"
        sent = await run(report, service.url, "p1", "succeeded", picture, folder=tmp_path)
        assert sent == "200\n"
        assert (await watching).splitlines()[-1] == f"succeeded {picture}"


async def test_the_library_needs_no_service(tmp_path: Path) -> None:
    """The example of the library keeps a prediction in its file, step by step."""
    printed = await run(str(FOLDER / "library.py"), "predictions.db", folder=tmp_path)
    assert printed.split() == ["starting", "processing", "succeeded"]
    assert (tmp_path / "predictions.db").exists()


async def test_the_original_calls_beside_ours(tmp_path: Path) -> None:
    """The program that ports from TypeScript runs: what is over stays over."""
    printed = await run(str(FOLDER / "from_typescript.py"), "predictions.db", folder=tmp_path)
    status, refused = printed.splitlines()
    assert (status, refused) == ("processing", "False INVALID_TRANSITION")


async def test_a_worker_reports(tmp_path: Path) -> None:
    """The worker's steps and its end reach the record, and so does a failure."""
    async with (
        serving(tmp_path, {"TIDINGS_STANDARD_SECRET": SECRET}) as service,
        Client(service.url) as client,
    ):
        for name, prompt, ended in (("w1", "a red kite", "succeeded"), ("w2", "", "failed")):
            report = str(FOLDER / "report.py")
            await run(report, service.url, name, "starting", folder=tmp_path)
            working = run(str(FOLDER / "worker.py"), service.url, name, prompt, folder=tmp_path)
            if prompt:
                await working
            else:
                with pytest.raises(AssertionError):
                    await working
            record = await client.get(name)
            assert record.status.value == ended
        assert record.error == "there is nothing to draw"
        record = await client.get("w1")
        assert (record.progress, record.prompt) == (1.0, "a red kite")
        assert record.generation_time is not None


@pytest.mark.long
async def test_a_celery_task_reports(tmp_path: Path) -> None:
    """A real worker of Celery takes tasks from a broker: their steps and both ends reach the records."""
    installed = packages("celery==5.5.3")
    queue = tmp_path / "queue"
    queue.mkdir()
    broker = "import celery_tasks\ncelery_tasks.app.conf.broker_transport_options = {options!r}\n"
    folders = {"data_folder_in": str(queue), "data_folder_out": str(queue)}
    (tmp_path / "configured.py").write_text(
        f"{broker.format(options=folders)}app = celery_tasks.app\n"
    )
    path = os.pathsep.join(map(str, (ROOT, FOLDER, tmp_path, installed)))
    settings = environment({"PYTHONPATH": path, "CELERY_BROKER": "filesystem://"})
    async with (
        serving(tmp_path, {"TIDINGS_STANDARD_SECRET": SECRET}) as service,
        Client(service.url) as client,
    ):
        report = str(FOLDER / "report.py")
        for name in ("c1", "c2"):
            await run(report, service.url, name, "starting", folder=tmp_path)
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "celery", "-A", "configured", "worker", "--pool", "solo"),
            cwd=tmp_path,
            env=settings,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            order = (
                "import configured, celery_tasks; "
                f"[celery_tasks.draw.delay({service.url!r}, *one) for one in (('c1', 'a kite'), ('c2', ''))]"
            )
            ordering = await asyncio.create_subprocess_exec(
                sys.executable, "-c", order, cwd=tmp_path, env=settings
            )
            assert await ordering.wait() == 0
            done = await client.finished("c1", timeout=60)
            assert (done.status.value, done.progress, done.prompt) == ("succeeded", 1.0, "a kite")
            failed = await client.finished("c2", timeout=60)
            assert (failed.status.value, failed.error) == ("failed", "there is nothing to draw")
        finally:
            worker.terminate()
            await asyncio.wait_for(worker.wait(), 30)


async def test_a_provider_in_a_package(tmp_path: Path) -> None:
    """An installed distribution brings a provider: its signed webhook becomes a record."""
    installed = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    copy = shutil.copytree(FOLDER / "provider", tmp_path / "provider")
    made = await asyncio.create_subprocess_exec(*pip, "--target", str(installed), str(copy))
    assert await made.wait() == 0
    secret = "a secret of Acme's that is long enough"
    settings = {"TIDINGS_ACME_SECRET": secret, "PYTHONPATH": f"{ROOT}{os.pathsep}{installed}"}
    body = b'{"id": "a1", "state": "done", "result": ["https://acme.example/1.png"]}'
    signature = hmac.new(secret.encode(), body, "sha256").hexdigest()
    async with serving(tmp_path, settings) as service, httpx.AsyncClient(trust_env=False) as http:
        url = f"{service.url}/api/webhooks/acme"
        refused = await http.post(url, content=body, headers={"x-acme-signature": "0" * 64})
        assert refused.status_code == 401
        taken = await http.post(url, content=body, headers={"x-acme-signature": signature})
        assert taken.status_code == 200
        async with Client(service.url) as client:
            assert (await client.finished("a1", timeout=20)).provider == "acme"


async def test_django_with_the_service_inside(tmp_path: Path) -> None:
    """Django's page and the service's answers come from one application."""
    settings = {"TIDINGS_STANDARD_SECRET": SECRET}
    async with uvicorn("django_app:application", FOLDER, tmp_path, settings) as url:
        async with httpx.AsyncClient(trust_env=False, base_url=url) as http:
            page = await http.get("/")
            assert "/predictions/static/tidings.js" in page.text
            assert (await http.get("/predictions/static/tidings.js")).status_code == 200
        report = str(FOLDER / "report.py")
        sent = await run(report, f"{url}/predictions", "d1", "succeeded", folder=tmp_path)
        assert sent == "200\n"
        async with Client(f"{url}/predictions") as client:
            assert (await client.finished("d1", timeout=20)).status.value == "succeeded"


def test_every_python_example_compiles() -> None:
    """Those that need more than the tests have are at least Python."""
    for path in FOLDER.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.long
async def test_flask_passes_webhooks_on(tmp_path: Path) -> None:
    """A signed webhook that Flask takes is proven by Tidings; a forged one is refused through it."""
    installed = packages("flask==3.1.2")
    port = free_port()
    async with serving(tmp_path, {"TIDINGS_STANDARD_SECRET": SECRET}) as service:
        path = f"{ROOT}{os.pathsep}{installed}"
        flask = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flask", "--app", str(FOLDER / "flask_app.py"), "run"),
            *("--port", str(port)),
            cwd=tmp_path,
            env=environment({"PYTHONPATH": path, "TIDINGS_URL": service.url}),
        )
        try:
            url = f"http://127.0.0.1:{port}"
            body = b'{"predictionId": "f1", "status": "succeeded"}'
            async with httpx.AsyncClient(trust_env=False, base_url=url) as http:

                async def answers() -> bool:
                    with contextlib.suppress(httpx.TransportError):
                        return (await http.get("/pictures/f1")).status_code == 404
                    return False

                await eventually(answers, 30)
                forged = {**signed(body), "webhook-id": "another"}
                for headers, status in ((forged, 401), (signed(body), 200)):
                    answer = await http.post("/webhooks/standard", content=body, headers=headers)
                    assert answer.status_code == status, answer.text
                async with Client(service.url) as client:
                    assert (await client.finished("f1", timeout=20)).status.value == "succeeded"
                assert (await http.get("/pictures/f1")).json()["data"]["status"] == "succeeded"
        finally:
            flask.terminate()
            await flask.wait()


def packages(*wanted: str) -> Path:
    """A folder with packages of Python that an example needs, fetched into `.cache/` where they are missing."""
    folder = ROOT / ".cache" / "python" / "-".join(wanted).replace("==", "-")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{work}/new")
            node.run(*pip, *wanted, folder=ROOT, within=300)
            if not folder.exists():
                Path(work, "new").rename(folder)
    return folder


PRODUCERS: Mapping[str, Callable[[], tuple[str | Path, ...]]] = {
    "python": lambda: (sys.executable, FOLDER / "kafka" / "producer.py"),
    "node": lambda: ("node", "producer.mjs"),
    "java": lambda: ("java", "-cp", f"{jars()}/*", FOLDER / "kafka" / "Producer.java"),
}


def test_the_producers_compile(tmp_path: Path) -> None:
    """The Java compiler and Node.js take the producers; the long test runs them."""
    require(JAVA, MAVEN)
    node.run("node", "--check", FOLDER / "kafka" / "producer.mjs", folder=tmp_path)
    java = FOLDER / "kafka" / "Producer.java"
    node.run("javac", "-cp", f"{jars()}/*", "-d", tmp_path, java, folder=tmp_path)


@pytest.mark.long
@pytest.mark.kafka
async def test_producers_in_three_languages(own_broker: Broker, tmp_path: Path) -> None:
    """What Python, Node.js and Java send through Kafka becomes a record, in its order."""
    shutil.copy(FOLDER / "kafka" / "producer.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(node.tools() / "node_modules")
    settings = {"TIDINGS_LOG": f"kafka://{own_broker.bootstrap}", "TIDINGS_STORE": "memory://"}
    async with serving(tmp_path, settings) as service, Client(service.url) as client:
        for name, command in PRODUCERS.items():
            said = await node.printed(*command(), own_broker.bootstrap, name, folder=tmp_path)
            assert said == "sent\n"
            record = await client.finished(name, timeout=30)
            steps = [step.to.value for step in record.transitions]
            assert steps == ["starting", "processing", "succeeded"]
            assert record.prompt == "a jersey"


def test_the_index_names_every_example() -> None:
    """What lies in the folder stands in its index, and nothing else."""
    named = set(re.findall(r"\]\(([\w./]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8")))
    there = {path.name + "/" * path.is_dir() for path in FOLDER.iterdir()} - {"README.md"}
    assert named == {name for name in there if name != "__pycache__/"}
