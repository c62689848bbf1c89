"""MkDocs hooks: pages of the repository that are not in docs/ become pages of the site.

README.md is the site's front page. CHANGELOG.md, CONTRIBUTING.md, the Chinese front page and the
tables in experiments/ keep their place in the repository, where GitHub shows them too.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Name of the page on the site -> path in the repository.
FRONT = {
    "index.md": "README.md",
    "zh.md": "README.zh.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures from outside of docs/."""
    added = {name: ROOT / path for name, path in FRONT.items()}
    for path in (ROOT / "experiments").rglob("*"):
        if path.suffix in (".md", ".png"):
            added[path.relative_to(ROOT).as_posix()] = path
    for name, path in added.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links so that they lead to pages of the site.

    Args:
      markdown: text of the page, with links relative to the repository.
      page: the page.
      config: configuration of MkDocs.
      files: files of the site.
    """
    names = {path: page_name for page_name, path in FRONT.items()}

    def link(match: re.Match[str]) -> str:
        target = match[1].removeprefix("../").removeprefix("docs/")
        return f"]({names.get(target, target)}"

    if page.file.src_uri.startswith("experiments/"):
        return markdown.replace("](../docs/", "](../")
    return re.sub(r"\]\(([^)#\s]+)", link, markdown)
