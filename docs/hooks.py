"""What the site adds to the pages of docs/: README as its home page, and three other files of the repository.

A link to another file of the repository is shown as text, as the site does not hold that file.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# File of the repository -> page of the site.
ADDED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "data/coco_sample/ATTRIBUTION.md": "attribution.md",
}
LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in ADDED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the repository has them -> links of the site."""
    source = next((name for name, added in ADDED.items() if added == page.file.src_uri), f"docs/{page.file.src_uri}")

    def link(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups(default="")
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = normpath(PurePosixPath(source).parent / target)
        in_site = ADDED.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if files.get_file_from_path(in_site):
            return f"{picture}[{text}]({in_site}{anchor})"
        return text if (ROOT / path).exists() else found[0]

    return LINK.sub(link, markdown)
