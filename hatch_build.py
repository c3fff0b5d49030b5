"""Writes the README into the metadata with whole addresses: an index shows it without the repository."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

REPOSITORY = "https://github.com/tidings/tidings"


class AbsoluteReadme(MetadataHookInterface):
    """The metadata hook that hatchling finds in this file."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme`, its relative links made absolute."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = re.sub(r"!\[([^\]]*)\]\((?!https?:)", rf"![\1]({REPOSITORY}/raw/main/", text)
        text = re.sub(r"\]\((?!https?:|#)", f"]({REPOSITORY}/blob/main/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
