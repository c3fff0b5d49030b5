"""The page about the JavaScript client and the React hooks, out of their types."""

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tests.support.root import ROOT

PAGE = ROOT / "docs" / "reference" / "javascript.md"
TYPES = {
    "@tidings/client": ROOT / "gateway" / "static" / "tidings.d.ts",
    "@tidings/react": ROOT / "clients" / "react" / "src" / "index.d.ts",
}
HEAD = """# JavaScript

Every export of `/static/tidings.js` (the npm package `@tidings/client`) and of `@tidings/react`, out of their types. [The browser client](browser.md) shows how they are used; `@tidings/client/api` has the types of everything that goes over [HTTP](http.md)."""
_DOC = r"(?:/\*\*((?:(?!\*/).)*)\*/\n *)?"
_EXPORT = re.compile(
    _DOC + r"^export (?:(class|interface|type|function) (\w+)|const (\w+))",
    re.MULTILINE | re.DOTALL,
)
_MEMBER = re.compile(r"^  " + _DOC + r"(?=[a-z$])", re.MULTILINE | re.DOTALL)


class Export(Struct, frozen=True):
    """Something that a package exports."""

    name: str
    kind: str
    about: str
    body: str
    """Its declaration, without `export`."""

    @property
    def members(self) -> list[tuple[str, str]]:
        """Each member's declaration, and what is said of it; none for a type or a function."""
        if self.kind not in ("class", "interface"):
            return []
        inside = self.body[self.body.index("{\n") + 2 : self.body.rindex("\n}") + 1]
        starts = list(_MEMBER.finditer(inside))
        ends = [one.start() for one in starts[1:]] + [len(inside)]
        return [
            (declared(inside[one.end() : end]), words(one[1]))
            for one, end in zip(starts, ends, strict=True)
        ]


def words(comment: str | None) -> str:
    """A comment as running text."""
    return " ".join(re.sub(r"^\s*\*", "", comment or "", flags=re.MULTILINE).split())


def declared(text: str) -> str:
    """A declaration on one line, without the comments within it."""
    plain = re.sub(r"/\*\*.*?\*/", "", text, flags=re.DOTALL)
    return " ".join(plain.split()).rstrip(";").replace("( ", "(").replace(", )", ")")


def exports(path: Path) -> Iterator[Export]:
    """What a file of types exports, in its order."""
    text = path.read_text(encoding="utf-8")
    found = list(_EXPORT.finditer(text))
    ends = [one.start() for one in found[1:]] + [len(text)]
    for one, end in zip(found, ends, strict=True):
        body = text[text.rindex("export ", 0, one.end()) + 7 : end].strip()
        yield Export(one[3] or one[4], one[2] or "const", words(one[1]), body)


def lines() -> Iterator[str]:
    """The page."""
    yield HEAD
    for package, path in TYPES.items():
        yield from ("", f"## {package}")
        for one in exports(path):
            yield from ("", f"### {one.name}", "")
            if one.about:
                yield from (one.about, "")
            if one.members:
                yield from (
                    f"- `{text}`" + (f": {about}" if about else "") for text, about in one.members
                )
            else:
                yield f"`{declared(one.body)}`"
