"""The commands that the documentation shows."""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fixtures_run import job_environment

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
TOOL = "luss-ray"
_PROGRAM = re.compile(rf"(?:uv run |-- python |python )((?:jobs|shards)/\w+\.py|{TOOL})(.*)")


def documented(page: Path) -> list[tuple[str, str]]:
    """Return program and words of each command in a page's blocks of shell, in their order."""
    found = []
    for language, block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines() if language == "bash" else []:
            match = _PROGRAM.search(line)
            if match:
                found.append((match[1], match[2].split("  #")[0].strip()))
    return found


def filled_in(words: str, meant: Mapping[str, str], place: int = 0) -> list[str]:
    """Return a command's words with what they stand for.

    Args:
        words: as shown.
        meant: real by shown; "{place}" in the real is replaced.
        place: of the command in its page.
    """
    for shown, real in meant.items():
        words = words.replace(shown, real.format(place=place))
    return shlex.split(words)


def type_in(
    commands: list[tuple[str, str]],
    folder: Path,
    meant: Mapping[str, str],
    *,
    more: Mapping[str, Sequence[str]],
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Run commands in a folder, one after the other, as somebody would type them; return what each printed.

    Args:
        commands: of `documented`.
        folder: where they are typed.
        meant: see `filled_in`.
        more: further words by program, which make it small.
        environment: beside that of a job.
    """
    printed = []
    for place, (name, words) in enumerate(commands):
        program = Path(sys.executable).with_name(TOOL) if name == TOOL else ROOT / name
        command = [sys.executable, str(program), *filled_in(words, meant, place), *more.get(name, ())]
        given = job_environment(dict(environment or {}))
        done = subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name} {words}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    return printed
