"""Takes the papers that lie at the top of the repository into the site, so that links to them hold there too."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAPERS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
MEASURED = "benchmarks/RESULTS.md"
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them under `project/`."""
    root = Path(config.config_file_path).parent
    for paper in (*PAPERS, MEASURED):
        content = _relinked(paper, (root / paper).read_text(encoding="utf-8"))
        files.append(File.generated(config, _place(paper), content=content))
    return files


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """Point the links of a page at where the papers lie in the site."""
    source = str(page.file.src_uri)  # type: ignore[attr-defined]
    return markdown if source.startswith("project/") else _relinked(f"docs/{source}", markdown)


def _place(path: str) -> str:
    """Where a file of the repository lies in the site; what is not in it keeps its path."""
    if path in PAPERS or path == MEASURED:
        return f"project/{posixpath.basename(path).lower()}"
    return path.removeprefix("docs/")


def _relinked(source: str, markdown: str) -> str:
    """The text of a file of the repository with its links as they hold in the site.

    A link to a file that the site does not have becomes plain text.
    """
    here = posixpath.dirname(_place(source)) or "."

    def link(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (target.startswith("docs/") or target in PAPERS or target == MEASURED):
            return text
        return f"[{text}]({posixpath.relpath(_place(target), here)}{anchor})"

    return _LINK.sub(link, markdown)
