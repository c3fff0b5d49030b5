"""Each code block of each document is of a language that is checked here, or is marked as output.

What more of them is run, and where, is in `test_running_blocks.py` and in the tests named there.
"""

import ast
import hmac
import importlib.util
import json
import re
import shutil
import sqlite3
import subprocess
import tempfile
import tomllib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types
from ruamel.yaml import YAML

from tests.support import system
from tests.support.code_blocks import Block, Command, block, blocks, commands
from tests.support.proxies import checked_nginx
from tests.support.root import ROOT
from tidings.cli.main import _parser
from tidings.config.loader import load_settings
from tidings.gateway.openapi import asyncapi, openapi
from tidings.streams.rules.fields import FIELDS

NOWHERE = Path("/nowhere")
OUTPUT = "text"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def check_json(code: str) -> None:
    """One value, or members of a record as they stand there."""
    fragment = code.lstrip().startswith('"')
    value = json.loads(f"{{{code}}}" if fragment else code)
    if fragment:
        assert set(value) <= {field.wire for field in FIELDS} | {"assets"}


def check_toml(code: str) -> None:
    """Settings that are taken; else the table of a Python package, or one line to put into another block."""
    content = tomllib.loads(code)
    if "project" in content:
        assert list(content["project"]["entry-points"]) == ["tidings.providers"]
    elif len(code.splitlines()) == 1:
        (name,) = content
        assert any(f"\n{name} = " in one.code for one in blocks("toml") if one.code != code)
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "tidings.toml")
            file.write_text(code)
            load_settings(environ={}, config=file)


def check_ini(code: str) -> None:
    """A file of variables, as systemd reads it, with settings that are taken."""
    load_settings(environ=dict(line.split("=", 1) for line in code.splitlines()), folder=NOWHERE)


def check_yaml(code: str) -> None:
    """Objects of Kubernetes whose names, labels and ports go together, and whose commands are ours."""
    documents = list(YAML(typ="safe").load_all(code))
    deployed = [one["spec"] for one in documents if one["kind"] == "Deployment"]
    labels = [one["template"]["metadata"]["labels"] for one in deployed]
    for one in documents:
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(one)
        if one["kind"] == "Service":
            assert one["spec"]["selector"] in labels
    for spec in deployed:
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        for container in spec["template"]["spec"]["containers"]:
            arguments = _parser().parse_args(container["args"])
            for probe in ("livenessProbe", "readinessProbe"):
                called = container[probe]["httpGet"]
                assert str(called["port"]) == arguments.port
                route("GET", called["path"])


def check_sql(code: str) -> None:
    """A statement that SQLite takes, twice: what it inserts is there once."""
    connection = sqlite3.connect(":memory:")
    (table, columns) = re.findall(r"INTO (\w+) \((.*?)\)", code)[0]
    connection.execute(f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({columns}))")
    for expected in (1, 0):
        done = connection.execute(code.replace("$", "?"), ("p1", "succeeded"))
        assert done.rowcount == expected


def check_http(code: str) -> None:
    """A request with a JSON body, signed as Standard Webhooks says with the page's secret."""
    head, _, body = code.rstrip("\n").partition("\n\n")
    request, *lines = head.splitlines()
    assert re.fullmatch(r"(?:POST|PATCH|PUT) /\S+", request)
    headers = dict(line.split(": ", 1) for line in lines)
    json.loads(body)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}".encode()
    digest = hmac.digest(b64decode(SECRET.removeprefix("whsec_")), signed, "sha256")
    assert headers["webhook-signature"] == f"v1,{b64encode(digest).decode()}"


def check_python(code: str) -> None:
    """It compiles, with `await` at the top as in a notebook, and imports only what there is."""
    tree = compile(code, "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []
        elif isinstance(node, ast.Import):
            for name in node.names:
                assert importlib.util.find_spec(name.name) is not None, name.name


CHECKS: Mapping[str, Callable[[str], None]] = {
    "json": check_json,
    "toml": check_toml,
    "ini": check_ini,
    "yaml": check_yaml,
    "sql": check_sql,
    "http": check_http,
    "python": check_python,
}
TOGETHER = {
    "sh": "tests/system/documents/test_blocks.py::test_shell_blocks_are_right",
    "go": "tests/system/test_webhook_receivers.py::test_the_guide_shows_the_examples",
    "nginx": "tests/system/documents/test_blocks.py::test_nginx_takes_its_blocks",
    "js": "tests/clients/test_types.py::test_the_documents_programs_pass",
    "jsx": "tests/clients/test_types.py::test_the_documents_programs_pass",
    "html": "tests/clients/test_types.py::test_the_documents_programs_pass",
}
"""Languages whose blocks one test takes together."""


def test_every_block_has_a_checker_or_is_output() -> None:
    """No block is of a language that nothing checks; what a program prints is marked as `text`."""
    found = list(blocks())
    assert len(found) > 120
    known = {OUTPUT, *CHECKS, *TOGETHER}
    assert [f"{one} [{one.language}]" for one in found if one.language not in known] == []
    for test in TOGETHER.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), test


@pytest.mark.parametrize("language", CHECKS)
def test_blocks_are_right(language: str) -> None:
    """Each block passes the checker of its language."""
    found = list(blocks(language))
    assert found
    for one in found:
        try:
            CHECKS[language](one.code)
        except Exception as error:
            error.add_note(str(one))
            raise


def test_a_block_without_a_checker_is_found(tmp_path: Path) -> None:
    """A shell block with a flag, a route, a setting or a program that does not exist is refused."""
    wrong = {
        "tidings replay --verifi": SystemExit,
        "make runn": AssertionError,
        "curl localhost:8080/api/prediction/p1": AssertionError,
        "curl -X POST localhost:8080/api/predictions -d '{\"modl\": 1}'": AssertionError,
        "export TIDINGS_PROT=8080": Exception,
        "frobnicate": AssertionError,
        "sudo cp deploy/tiding.service /etc": AssertionError,
    }
    for code, expected in wrong.items():
        with pytest.raises(expected):
            check_shell(Block("a page", 1, "sh", code))


# ---- the shell ----


def validate(value: object, name: str) -> None:
    """Hold a value against a schema of the OpenAPI document; it has no member that is not there."""
    schemas = openapi("")["components"]["schemas"]
    whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
    found = [error.message for error in Draft202012Validator(whole).iter_errors(value)]
    assert found == []
    if isinstance(value, dict) and "properties" in schemas[name]:
        assert set(value) <= set(schemas[name]["properties"])


def route(method: str, path: str) -> dict[str, Any]:
    """The operation of the gateway behind an address."""
    for known, operations in openapi("")["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(known))
        if re.fullmatch(pattern, path) and method.lower() in operations:
            return dict(operations[method.lower()])
    raise AssertionError(f"{method} {path} is no endpoint")


def check_curl(words: tuple[str, ...]) -> None:
    """An endpoint of the gateway, with a body of its schema."""
    method, body, address = "", None, ""
    rest = list(words)
    while rest:
        match rest.pop(0):
            case "-X":
                method = rest.pop(0)
            case "-H":
                assert re.fullmatch(r"[\w-]+: .+", rest.pop(0))
            case "-d":
                body = json.loads(rest.pop(0))
            case "-s":
                pass
            case one:
                address = one
    path = re.fullmatch(r"(?:https?://)?[\w.]+(?::8080)?(/[^?]*)(?:\?.*)?", address)
    assert path is not None, address
    operation = route(method or ("GET" if body is None else "POST"), path[1])
    if body is not None:
        (content,) = operation["requestBody"]["content"].values()
        name = content["schema"]["$ref"].rpartition("/")[2]
        check_order(body) if "prompt" in str(body) else validate(body, name)


def check_order(order: dict[str, Any]) -> None:
    """An order, or a group of some, that names nothing unknown."""
    validate(order, "NewOrder")
    known = {
        name
        for kind in ("NewPrediction", "NewGroup")
        for name in openapi("")["components"]["schemas"].get(kind, {}).get("properties", ())
    }
    for one in (order, *order.get("orders", ())):
        assert set(one) <= known, set(one) - known


def check_python_module(words: tuple[str, ...]) -> None:
    """`python -m MODULE`, which exists; of a package in the checkout, its extras too."""
    assert words[0] == "-m"
    assert importlib.util.find_spec(words[1]) is not None, words[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"\[([a-z]+)\]$", " ".join(words)):
        assert extra in project["optional-dependencies"]


def check_make(words: tuple[str, ...]) -> None:
    """A target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name = re.escape(word.partition("=")[0])
        assert re.search(rf"\$\(?.*{name}\)" if "=" in word else rf"^{name}:", makefile, re.M), word


def check_npm(words: tuple[str, ...]) -> None:
    """Packing and installing of packages that are there, with the version that they have."""
    assert words[0] in ("pack", "install")
    for archive in words[1:]:
        package = re.search(r"clients/(js|react)/(?:\*|[a-z-]+?-([\d.]+))\.tgz$", archive)
        assert package is not None, archive
        content = json.loads((ROOT / "clients" / package[1] / "package.json").read_text())
        assert package[2] in (None, content["version"])


def check_npx(words: tuple[str, ...]) -> None:
    """A tool that the Worker or the example has among its dependencies."""
    listed = [
        json.loads((ROOT / path).read_text(encoding="utf-8"))
        for path in ("storage/cloudflare/worker/package.json", "examples/react/package.json")
    ]
    names = {name for one in listed for name in one.get("devDependencies", {})}
    assert words[0] in names, words[0]


def check_copy(words: tuple[str, ...]) -> None:
    """Files of the checkout that are there."""
    for word in words[:-1]:
        assert word.startswith(("-", "/", "0")) or (ROOT / word).exists(), word


def check_systemctl(words: tuple[str, ...]) -> None:
    """The unit that the checkout has."""
    if words[0] != "daemon-reload":
        assert (ROOT / "deploy" / f"{words[-1]}.service").exists()


def check_acls(words: tuple[str, ...]) -> None:
    """Operations and a kind of pattern that Kafka knows (`org.apache.kafka.common.acl`)."""
    pairs = dict(pairwise(words))
    assert pairs["--resource-pattern-type"] in ("prefixed", "literal")
    operations = [after for word, after in pairwise(words) if word == "--operation"]
    assert set(operations) <= {"Read", "Write", "Create", "Describe", "Alter", "Delete"}


def check_nothing(words: tuple[str, ...]) -> None:
    """Tools of every shell."""


PROGRAMS: Mapping[str, Callable[[tuple[str, ...]], Any]] = {
    "tidings": lambda words: _parser().parse_args(words),
    "curl": check_curl,
    "make": check_make,
    "python": check_python_module,
    "python3": check_python_module,
    "pip": lambda words: check_python_module(("-m", "pip", *words)),
    "npm": check_npm,
    "npx": check_npx,
    "cp": check_copy,
    "mv": check_copy,
    "install": check_copy,
    "systemctl": check_systemctl,
    "kafka-acls.sh": check_acls,
    "cd": check_nothing,
    "openssl": check_nothing,
    "tee": check_nothing,
}


def check_command(command: Command) -> None:
    """A program that is known here, with arguments that it takes."""
    words = command.words
    if words and words[0] == "sudo":
        words = words[1:]
    if words:
        program = words[0].rpartition("/")[2]
        assert program in PROGRAMS, f"{program}: nothing checks it"
        PROGRAMS[program](words[1:])


def check_shell(one: Block) -> None:
    """Bash reads it, each program takes its arguments, and each setting its value."""
    read = subprocess.run(
        ("bash", "-n"), input=one.code, text=True, capture_output=True, check=False
    )
    assert read.returncode == 0, read.stderr
    found = commands(one.code)
    assert found
    for command in found:
        check_command(command)
    given = {name: value for command in found for name, value in command.given.items()}
    given = {
        name: re.sub(r"\$\([^)]*\)", "bWFkZSBieSB0aGUgc2hlbGwgZm9yIGEgdGVzdA==", value)
        for name, value in given.items()
        if name.startswith("TIDINGS_")
    }
    load_settings(environ=given, folder=NOWHERE)


@pytest.mark.parametrize("one", list(blocks("sh")), ids=str)
def test_shell_blocks_are_right(one: Block) -> None:
    """Bash reads each block; its commands, flags, endpoints, bodies, targets and settings exist."""
    try:
        check_shell(one)
    except SystemExit as error:
        raise AssertionError(f"{one}: not a command of this program") from error


# ---- what other programs check ----


def test_nginx_takes_its_blocks(tmp_path: Path) -> None:
    """`nginx -t` has nothing to say against each block."""
    system.require(system.NGINX)
    for one in blocks("nginx"):
        assert checked_nginx(one.code, tmp_path) == "", one


def test_haproxy_takes_its_file() -> None:
    """`haproxy -c` has nothing to say against the configuration that is deployed."""
    system.require(system.HAPROXY)
    given = {"PROXY_BIND": "127.0.0.1:1", "GATEWAY_1": "127.0.0.1:2", "GATEWAY_2": "127.0.0.1:3"}
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    done = subprocess.run(
        (program, "-c", "-q", "-f", ROOT / "deploy" / "haproxy.cfg"),
        env=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def seconds(text: str, name: str) -> int:
    """A time limit of a configuration."""
    (found,) = set(re.findall(rf"^ *{name} +(\d+)s;?$", text, re.MULTILINE))
    return int(found)


def test_both_proxies_have_the_same_time_limits() -> None:
    """Idle connections, requests and connecting are given as long by nginx as by HAProxy."""
    nginx = block("docs/howto/proxies.md", "nginx", "upstream tidings").code
    haproxy = (ROOT / "deploy" / "haproxy.cfg").read_text(encoding="utf-8")
    for ours, theirs in (
        ("proxy_read_timeout", "timeout server"),
        ("proxy_read_timeout", "timeout tunnel"),
        ("proxy_send_timeout", "timeout client"),
        ("proxy_connect_timeout", "timeout connect"),
        ("client_header_timeout", "timeout http-request"),
    ):
        assert seconds(nginx, ours) == seconds(haproxy, theirs)


SHOWN = (
    ("docs/explanation/push.md", '"type": "append"', "Append"),
    ("docs/howto/webhooks.md", '"webhookEvents"', "NewPrediction"),
    ("docs/howto/life.md", '"backoff"', "NewPrediction"),
)
"""JSON blocks that are sent or received, with the schema that they are of."""


@pytest.mark.parametrize(("paper", "having", "name"), SHOWN)
def test_messages_are_of_their_schemas(paper: str, having: str, name: str) -> None:
    """What the documents show as an order or a message has the members of its schema, and no other."""
    schemas = asyncapi("")["components"]["schemas"] | openapi("")["components"]["schemas"]
    value = json.loads(block(paper, "json", having).code)
    assert set(value) <= set(schemas[name]["properties"])
    for member, content in value.items():
        found = {"components": {"schemas": schemas}, **schemas[name]["properties"][member]}
        assert list(Draft202012Validator(found).iter_errors(content)) == [], member
