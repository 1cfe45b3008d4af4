"""Fine-tuning on the annotated images, whole."""

import json
import shutil
import zipfile
from pathlib import Path

import torch
from fixtures_run import TINY, arguments, audit, program, result_of, run_program

from luss_ray.config.recipes import demo
from luss_ray.nn.weights import WeightsFile
from luss_ray.storage.uri import Location
from luss_ray.train.pretrain import pretrain_model


def options(shards: Path, folder: Path, *more: str) -> list[str]:
    return arguments(*TINY, f"--data={shards}", f"--storage={folder}", "--name=semi", *more)


def test_a_backbone_learns_the_annotated_images(shards: Path, tmp_path: Path) -> None:
    more = "--finetune.optimisation.epochs=3", "--finetune.optimisation.batch-size=16"
    done = program("finetune.py", tmp_path, "demo", *options(shards, tmp_path, *more))
    assert done.returncode == 0, done.stdout + done.stderr
    result, run = result_of(tmp_path / "semi"), tmp_path / "semi"
    assert result["protocol"] == "semi-supervised" and result["weights"] is None
    assert result["metrics"]["finetuned"]["miou"] > 0 and len(result["metrics"]["finetuned"]["ious"]) == 5
    assert "matching" not in json.loads((run / "evaluation" / "metrics.json").read_text())
    start, end = (
        WeightsFile(Location.parse(run / stage / "weights.safetensors"))() for stage in ("pretrain", "finetune")
    )
    assert end["last_layer.weight"].shape[0] == 5 and not torch.equal(start["conv1.weight"], end["conv1.weight"])
    checked = audit(run)
    assert checked.returncode == 0 and "finetune" in checked.stdout
    submission = tmp_path / "submission.zip"
    printed = run_program("submit.py", tmp_path, str(run), "--split", "validation", "--out", str(submission))
    assert "Training data: train-semi of scenes" in printed and "and its masks" in printed
    assert "semi-supervised protocol" in printed
    with zipfile.ZipFile(submission) as archive:
        assert "match.json" not in archive.namelist() and len(archive.namelist()) > 40
    other = tmp_path / "other.pth"
    torch.save(pretrain_model(demo()).state_dict(), other)
    refused = program("finetune.py", tmp_path, "demo", *options(shards, tmp_path, *more, f"--weights={other}"))
    assert refused.returncode == 2 and "in the model" in refused.stdout + refused.stderr


def test_data_without_annotated_images_is_refused(shards: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(shards, bare)
    manifest = json.loads((bare / "manifest.json").read_text()) if (bare / "manifest.json").exists() else None
    assert manifest is not None
    del manifest["splits"]["train-semi"]
    (bare / "manifest.json").write_text(json.dumps(manifest))
    refused = program("finetune.py", tmp_path, "demo", *options(bare, tmp_path))
    assert refused.returncode == 2 and "train-semi" in refused.stdout + refused.stderr
