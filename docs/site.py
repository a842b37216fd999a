"""Hooks of the documentation site (mkdocs.yml): the README is its first page, and files outside docs/ are named, not linked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the README as index.md."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links of the README into docs/, and turn links to other files of the repository into their paths."""
    folder = ROOT if page.file.src_uri == "index.md" else ROOT / "docs"

    def inside(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path:
            return match[0]
        place = (folder / path).resolve()
        if not place.exists():
            return match[0]  # which the strict build reports
        if place.parent == ROOT / "docs" and place.is_file():
            return f"{picture}[{text}]({place.name}{'#' + anchor if anchor else ''})"
        name = str(place.relative_to(ROOT))
        return text if text.strip("`/") == name else f"{text} (`{name}`)"

    return LINK.sub(inside, markdown)
