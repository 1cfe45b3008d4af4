"""The commands that the documentation shows."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
_PROGRAM = re.compile(r"(?:uv run |-- python |python )((?:jobs|shards)/\w+\.py)(.*)")


def documented(page: Path) -> list[tuple[str, str]]:
    """Return program and words of each command in a page's blocks of shell, in their order."""
    found = []
    for language, block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines() if language == "bash" else []:
            match = _PROGRAM.search(line)
            if match:
                found.append((match[1], match[2].split("  #")[0].strip()))
    return found
