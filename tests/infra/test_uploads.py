"""What travels with `ray job submit --working-dir .`, by Ray's own packaging."""

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private import ray_constants
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[2]
MAX_BYTES = 10_000_000


def _uploaded(folder: Path, package: Path) -> list[str]:
    excludes = ray_constants.get_runtime_env_default_excludes()
    create_package(str(folder), package, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(package) as file:
        return file.namelist()


def test_the_package_and_the_programs_are_uploaded_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    names = _uploaded(ROOT, package)
    assert {name.split("/")[0] for name in names} == {"luss_ray", "jobs", "shards", "infra"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert package.stat().st_size < MAX_BYTES
    source = [path for path in (ROOT / "luss_ray").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in source} <= set(names)


@pytest.mark.parametrize("stray", ["data.bin", "wandb/log", ".venv/lib/x.py", "runs/demo/weights.bin", "tests/x.py"])
def test_whatever_else_lies_in_the_folder_stays_there(tmp_path: Path, stray: str) -> None:
    folder = tmp_path / "project"
    for name in (stray, "luss_ray/core/errors.py", "jobs/pass.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder / name)
    assert set(_uploaded(folder, tmp_path / "package.zip")) == {"luss_ray/core/errors.py", "jobs/pass.py"}
