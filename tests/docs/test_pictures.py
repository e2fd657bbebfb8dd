"""The pictures in the documentation are there and small."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
EACH_BYTES, ALL_BYTES = 150_000, 4_000_000


def test_pictures_that_documents_show_exist_and_say_what_they_show() -> None:
    """A link to nothing shows nothing, and who cannot see a picture needs its words."""
    for document in DOCUMENTS:
        for words, target in IMAGE.findall(document.read_text(encoding="utf-8")):
            assert (document.parent / target).is_file(), f"{document.name}: {target}"
            assert words.strip(), f"{document.name}: {target} has no words"


def test_pictures_are_small() -> None:
    """Everybody who clones the repository takes them along."""
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "img").iterdir()}
    assert {name: size for name, size in sizes.items() if size > EACH_BYTES} == {}
    assert sum(sizes.values()) < ALL_BYTES
