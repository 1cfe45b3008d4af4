"""Fine-tuning on the annotated images, whole."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from fixtures_docs import ROOT, documented, type_in
from fixtures_run import TINY, arguments, audit, program, result_of, run_program

from luss_ray.config.recipes import RECIPES, demo
from luss_ray.nn.weights import WeightsFile
from luss_ray.storage.uri import Location
from luss_ray.train.finetune import segmentation_model
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
    page = (run / "report.html").read_text()
    assert "4 kinds of things, learnt from 40 masks" in page and "starts from random weights" in page
    assert "Threshold" not in page and "Prediction" in page and "Ground truth" in page
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


@pytest.mark.long
def test_receptive_fields_are_searched_merged_and_scored_again(shards: Path, tmp_path: Path) -> None:
    """Layer-wise AdamW, colours, drop path on a small ConvNeXt; the merged network's weights give its scores again."""

    def run(name: str, *more: str) -> tuple[dict, Path]:
        own = "--finetune.optimisation.batch-size=16", "--finetune.head.norm", "--finetune.head.patch=2"
        adam = "--finetune.optimisation.optimiser=adamw", "--finetune.optimisation.lr=0.002"
        asked = arguments(*TINY, f"--data={shards}", f"--storage={tmp_path}", f"--name={name}", *own, *adam, *more)
        run_program("finetune.py", tmp_path, "demo", *asked)
        return result_of(tmp_path / name), tmp_path / name / "finetune"

    backbone = "--backbone=rf-next:test_convnext", "--backbone.drop-path=0.1", "--finetune.colour.jitter-p=0.8"
    layers = "--finetune.optimisation.layers.decay=0.8", "--finetune.optimisation.layers.rf-multiplier=10"
    searching = "--finetune.optimisation.epochs=3", "--finetune.search.every-epochs=1", "--finetune.search.times=2"
    _, found = run("search", *backbone, *layers, *searching)
    dilations = [json.loads(line).get("dilation") for line in (found / "metrics.jsonl").read_text().splitlines()]
    assert dilations[0] == 1.5 and len(set(dilations)) >= 1
    merge = *backbone, "--backbone.rf-mode=merge", f"--weights={found / 'weights.safetensors'}"
    result, merged = run("merge", *merge, "--finetune.optimisation.epochs=1")
    assert result["metrics"]["finetuned"]["miou"] > 0
    state = WeightsFile(Location.parse(merged / "weights.safetensors"))()
    kernels = {value.shape[-1] for name, value in state.items() if name.endswith("conv_dw.weight")}
    assert kernels <= {13, 19, 25, 37} and not any(name.endswith("sample_weights") for name in state)
    trained = f"--weights={merged / 'weights.safetensors'}", "--trained"
    again, _ = run("again", *backbone, "--backbone.rf-mode=merge", *trained)
    assert again["trained"] and again["metrics"] == result["metrics"]


def test_the_recipe_follows_from_the_backbone(shards: Path, tmp_path: Path) -> None:
    """The job's own words, without a recipe: the settings published for the backbone, or a refusal."""
    asked = [f"--data={shards}", f"--storage={tmp_path}", "--finetune.optimisation.batch-size=16", "--dry-run"]
    planned = run_program("finetune.py", tmp_path, "--backbone", "timm:convnext_tiny", *asked)
    assert "recipe semi-convnext-t;" in planned
    near = program("finetune.py", tmp_path, "--backbone=timm:convnext_tinny", *asked)
    assert near.returncode == 2 and "did you mean timm:convnext_tiny?" in near.stderr
    none = program("finetune.py", tmp_path, *asked)
    assert none.returncode == 2 and "which recipe" in none.stderr and "semi-resnet50" in none.stderr


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_every_command_of_the_page_works(shards: Path, tmp_path: Path) -> None:
    """The networks in their real size, a few steps on small images; each from weights as others publish them."""
    torch.save({"model": timm.create_model("vit_base_patch16_224").state_dict()}, tmp_path / "mae.pth")
    torch.save({"model": timm.create_model("convnext_tiny").state_dict()}, tmp_path / "convnext.pth")
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "resnet50.pth")
    trained = segmentation_model(RECIPES["semi-convnext-t"](), num_categories=4).state_dict()
    torch.save({"model": trained}, tmp_path / "trained.pth")
    meant = {"s3://BUCKET/imagenet/imagenet-s-919": str(shards), "DATA": str(shards)}
    meant |= {"s3://BUCKET/runs/imagenet-s-919": "resnet50.pth", "mae_pretrain_vit_base.pth": "mae.pth"}
    meant |= {"convnext_tiny.pth": "convnext.pth", "convnext_finetuned.pth": "trained.pth"}
    small = "--shorter-side-px=64", "--finetune.crop-px=64", "--num-workers=1 1"
    small += "--finetune.optimisation.epochs=1", "--finetune.optimisation.batch-size=16"
    commands = documented(ROOT / "docs" / "semi_supervised.md")
    printed = type_in(commands, tmp_path, meant, more={"jobs/finetune.py": arguments(*small)})
    assert all("mIoU" in lines for lines in printed)
    whole = (f"semi-{network}-semi-supervised" for network in ("vit-b16", "resnet50"))
    for name in ("search", "single", "multiple", "merge", *whole):
        assert result_of(tmp_path / "runs" / name)["metrics"]["finetuned"]["miou"] >= 0
