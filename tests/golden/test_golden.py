"""The published evaluators' numbers: a selection that travels with the project, and all of them where they are."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("run.py")
SELECTED = [
    *(("eval", name) for name in ("e50_edge", "e50_outofrange", "e50_merged", "e300_mixed", "e919_wide")),
    *(("curve", name) for name in ("c50_exact", "c300")),
]
OTHERS = [
    *(
        ("eval", name)
        for name in ("e50_mixed", "e50_permuted", "e50_identity", "e50_allbg", "e50_noise", "e919_highids")
    ),
    ("curve", "c50"),
]


def _runner():
    spec = importlib.util.spec_from_file_location("golden_run", RUNNER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden_run"] = module
    spec.loader.exec_module(module)
    return module


runner = _runner()


def assert_all_hold(folder: Path, kind: str, name: str) -> None:
    checks = list(runner.KINDS[kind](folder / kind / name))
    assert len(checks) >= 15
    assert [str(check) for check in checks if not check.holds] == []


@pytest.mark.parametrize(("kind", "name"), SELECTED)
def test_the_selection_holds(selection: Path, kind: str, name: str) -> None:
    assert_all_hold(selection, kind, name)


@pytest.mark.parametrize(("kind", "name"), OTHERS)
def test_the_other_cases_hold(golden: Path, kind: str, name: str) -> None:
    assert_all_hold(golden, kind, name)


def run_program(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RUNNER, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_fails_when_a_stored_number_is_changed(selection: Path, tmp_path: Path) -> None:
    case = tmp_path / "eval" / "changed"
    case.parent.mkdir()
    case.symlink_to(selection / "eval" / "e50_edge")
    good = run_program(tmp_path)
    assert good.returncode == 0 and "0 off" in good.stdout
    case.unlink()
    case.mkdir()
    for path in (selection / "eval" / "e50_edge").iterdir():
        (case / path.name).symlink_to(path)
    expected = json.loads((case / "expected.json").read_text())
    expected["no_match"]["mBIoU"] += 0.01
    (case / "expected.json").unlink()
    (case / "expected.json").write_text(json.dumps(expected))
    bad = run_program(tmp_path, "--only", "eval")
    assert bad.returncode == 1
    assert "OFF no_match mBIoU: 0.01" in bad.stdout and "1 off" in bad.stdout


def test_a_folder_without_cases_is_an_error(tmp_path: Path) -> None:
    done = run_program(tmp_path)
    assert done.returncode == 2 and "no cases below" in done.stderr
