"""Hooks of mkdocs: the README is the first page, and links out of ``docs`` lead to copies in the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, *, config: Any) -> Files:
    """Adds README, changelog, security policy, notebooks and the notes of ``research`` to the pages of ``docs``."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for name in ("CHANGELOG.md", "SECURITY.md"):
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    research = [*sorted((ROOT / "research").glob("*.md")), *sorted((ROOT / "research").glob("images/*"))]
    for path in (ROOT / "CITATION.cff", *sorted((ROOT / "notebooks").glob("*.ipynb")), *research):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """``](../x)`` of a page in ``docs`` is ``](x)`` in the site, where ``docs`` is the root."""
    outside = r"\]\(\.\./(notebooks/|research/|README\.md|CHANGELOG\.md|SECURITY\.md)"
    return re.sub(outside, lambda found: f"]({_home(found[1])}", markdown).replace("](../docs/", "](../")


def _home(target: str) -> str:
    return "index.md" if target == "README.md" else target
