import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from luss_ray.cli import doctor
from luss_ray.cli.doctor import Finding, Verdict, examine
from luss_ray.cli.trial import Measured
from luss_ray.core.errors import UserError
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def look(storage: str, recipe: str = "demo", **options) -> dict[str, Finding]:
    asked = {"data": None, "images": None, "workers": 1, "quick": True} | options
    return by_name(examine(recipe, storage=storage, **asked))


def test_a_sound_machine(tmp_path: Path) -> None:
    found = look(str(tmp_path / "runs"), quick=False, images=1000)
    assert {name for name, finding in found.items() if finding.verdict is Verdict.BAD} == set()
    assert "torch" in found["versions"].text and "cores" in found["machine"].text
    assert "images/s a core" in found["decoding"].text and "GiB free" in found["storage"].text
    assert "pretraining" in found["recipe demo"].text and "h for 24 epochs of 1000 images" in found["recipe demo"].text
    assert " GiB: " in found["recipe demo"].text
    assert not list(tmp_path.glob("runs/.doctor*")), "it cleans up"


def test_a_batch_that_does_not_fit_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Measured(images_per_s=9.0, on_gpu=False, peak_bytes=40 * 2**30, total_bytes=24 * 2**30)
    monkeypatch.setattr(doctor, "measure", lambda *_, **__: taken)
    found = look(str(tmp_path / "runs"), quick=False)["recipe demo"]
    assert found.verdict is Verdict.BAD and "40.0 of 24 GiB: 64 images a worker don't fit" in found.text


def test_a_store_is_written_to_and_cleaned_again(s3_environment) -> None:
    bucket = s3_environment.bucket("doctored")
    storage = look(f"{bucket}/runs")["storage"]
    assert storage.verdict is Verdict.GOOD and "ms a request" in storage.text
    assert Location.parse(bucket).list() == []


def test_a_store_that_ignores_conditions_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Location, "create", lambda self, name, data: True)
    storage = look(str(tmp_path))["storage"]
    assert storage.verdict is Verdict.BAD and "conditional writes" in storage.text


def test_what_is_wrong_is_bad_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = look(str(tmp_path / "file" / "runs"), data=str(tmp_path / "no-data"))
    assert found["storage"].verdict is Verdict.BAD and found["data"].verdict is Verdict.BAD
    assert "no dataset at" in found["data"].text
    command = [
        sys.executable,
        "-m",
        "luss_ray.cli.main",
        "doctor",
        "demo",
        "--storage",
        str(tmp_path / "file" / "runs"),
    ]
    done = subprocess.run([*command, "--quick"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and "✗" in done.stdout and "Traceback" not in done.stderr


def test_data_are_opened_and_read(shards: Path, tmp_path: Path) -> None:
    found = look(str(tmp_path), data=str(shards))["data"]
    assert found.verdict is Verdict.GOOD and "train" in found.text and "with masks" in found.text


def test_a_cluster_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    found = look(str(tmp_path))["Ray"]
    assert found.verdict is Verdict.BAD and "RAY_ADDRESS=127.0.0.1:1" in found.text
    storage = look(str(tmp_path))["storage"]
    assert storage.verdict is Verdict.POOR and "all nodes of a cluster must share it" in storage.text


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean semi-vit-b16"):
        examine("semi-vitb16", storage="runs", data=None, images=None, workers=1, quick=True)


def test_a_semi_supervised_recipe_is_fine_tuned_on_the_annotated_images(tmp_path: Path, shards: Path) -> None:
    num = len(ShardedDataset.open(Location.parse(shards)).split("train-semi"))
    tried = {"quick": False, "workers": 128}
    found = look(str(tmp_path), "semi-resnet50", data=str(shards), **tried)["recipe semi-resnet50"]
    assert "fine-tuning" in found.text and f"h for 100 epochs of {num} images" in found.text
    found = look(str(tmp_path), "semi-rf-convnext-t-search", images=700, **tried)["recipe semi-rf-convnext-t-search"]
    assert "fine-tuning" in found.text and "h for 100 epochs of 700 images" in found.text


def test_data_without_what_a_recipe_trains_on_are_bad(tmp_path: Path, shards: Path) -> None:
    unlabelled = tmp_path / "unlabelled"
    shutil.copytree(shards, unlabelled)
    manifest = json.loads((unlabelled / "manifest.json").read_text())
    del manifest["splits"]["train-semi"]
    (unlabelled / "manifest.json").write_text(json.dumps(manifest))
    found = look(str(tmp_path), "semi-resnet50", data=str(unlabelled))["data"]
    assert found.verdict is Verdict.BAD and "no split 'train-semi'" in found.text
    assert look(str(tmp_path), "demo", data=str(unlabelled))["data"].verdict is Verdict.GOOD
    found = look(str(tmp_path), "imagenet-s-919", data=str(shards))["data"]
    assert found.verdict is Verdict.BAD and "no split 'train-full'" in found.text
