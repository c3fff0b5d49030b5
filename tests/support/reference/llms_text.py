"""`docs/llms.txt`: every page of the site with a line about it, for programs that read (https://llmstxt.org)."""

import re
from collections.abc import Iterator

from tests.support.root import ROOT

PAGE = ROOT / "docs" / "llms.txt"
SITE = ROOT / "mkdocs.yml"
_PROJECT = "project/"


def pages() -> Iterator[tuple[str, str]]:
    """The part and the path of each page, in the site's order."""
    part = "Start"
    navigation = SITE.read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for line in navigation.splitlines():
        if found := re.fullmatch(r" {2}- (\w[\w -]*):", line):
            part = found[1]
        elif found := re.fullmatch(r" +- ([\w./-]+\.md)", line):
            yield part, found[1]


def source(path: str) -> str:
    """The text that a page is made from."""
    if path.startswith(_PROJECT):
        name = path.removeprefix(_PROJECT).removesuffix(".md").upper() + ".md"
        file = ROOT / ("benchmarks/" + name if name == "RESULTS.md" else name)
    else:
        file = ROOT / "docs" / path
    return file.read_text(encoding="utf-8")


def title(text: str) -> str:
    """A page's title."""
    return text.partition("\n")[0].removeprefix("# ")


def summary(text: str) -> str:
    """The first sentence of a page."""
    for paragraph in re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).split("\n\n"):
        plain = " ".join(paragraph.split())
        if not plain or plain.startswith(("#", "|", "!", "-")) or re.fullmatch(r"[\d-]+", plain):
            continue
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        return re.split(r"(?<=[.!?])\s+(?=[A-Z`*])", plain)[0].rstrip(".:")
    return ""


def address(path: str) -> str:
    """Where a page lies in the site, from its root."""
    return re.sub(r"(^|/)index/$", r"\1", path.removesuffix(".md") + "/") or "./"


def lines() -> Iterator[str]:
    """The file."""
    front = source("index.md")
    yield from (f"# {title(front)}", "", f"> {summary(front)}.")
    before = ""
    for part, path in pages():
        if part != before:
            yield from ("", f"## {part}", "")
            before = part
        text = source(path)
        about = summary(text)
        yield f"- [{title(text)}]({address(path)})" + (f": {about}." if about else "")
