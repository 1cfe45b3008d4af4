"""Completion of options in a shell, for programs typed as `jobs/pass.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_run import ROOT, job_environment

PROGRAMS = sorted(path.relative_to(ROOT) for folder in ("jobs", "shards") for path in (ROOT / folder).glob("*.py"))
_ASK = """
source "$1"
typed=$2 COMP_WORDS=("$2" "$3") COMP_CWORD=1 COMP_LINE="$2 $3" COMP_POINT=100
rule=$(complete -p "$typed" 2>/dev/null || complete -p "${typed##*/}")
function=${rule#*-F } && ${function%% *} "$typed" "$3" "$typed" && printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_programs_can_be_typed_by_their_path(program: Path) -> None:
    assert os.access(ROOT / program, os.X_OK)
    assert (ROOT / program).read_text().startswith("#!/usr/bin/env -S uv run\n")


@pytest.mark.parametrize(
    ("program", "begun", "option"),
    [
        ("jobs/pass.py", "--pretrain.optim", "--pretrain.optimisation.epochs"),
        ("jobs/segment.py", "--mod", "--model"),
        ("shards/build.py", "--images-per", "--images-per-shard"),
    ],
)
def test_bash_completes_options(program: str, begun: str, option: str, tmp_path: Path) -> None:
    words = [sys.executable, program, "--tyro-print-completion", "bash"]
    script = subprocess.run(words, cwd=ROOT, env=job_environment(), capture_output=True, check=True).stdout
    (tmp_path / "completion").write_bytes(script)
    asked = ["bash", "-c", _ASK, "bash", str(tmp_path / "completion"), program, begun]
    assert option in subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
