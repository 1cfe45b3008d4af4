"""The main job on weights from elsewhere."""

from pathlib import Path

import timm
import torch
from fixtures_run import TINY, arguments, load_program, program, result_of, run_job

from luss_ray.nn.weights import WeightsFile
from luss_ray.storage.uri import Location

VIT = "test_vit"


def test_a_run_on_weights_that_somebody_brings(shards: Path, tmp_path: Path) -> None:
    """No pretraining; the projection head learns with the attention; the backbone stays as it was brought."""
    theirs = timm.create_model(VIT, num_classes=5)
    torch.save({"model": theirs.state_dict()}, tmp_path / "theirs.pth")
    options = f"--data={shards} --storage={tmp_path} --name=brought --weights={tmp_path / 'theirs.pth'} "
    options += f"--backbone=timm:{VIT} --finetune.freeze-backbone --no-random-baseline"
    run_job(tmp_path, *options.split())
    result = result_of(tmp_path / "brought")
    about = result["stages"]["pretrain"]["weights"]
    assert about["uri"].endswith("theirs.pth") and "not known" in about["trained_by"]
    assert result["metrics"]["finetuned"]["miou"] > 0
    weights = {
        stage: WeightsFile(Location.parse(tmp_path / "brought" / stage / "weights.safetensors"))()
        for stage in ("pretrain", "attention", "finetune")
    }
    assert not any(name.startswith("projection_head") for name in weights["pretrain"])
    for name, value in weights["pretrain"].items():
        assert torch.equal(value, weights["attention"][name]) and torch.equal(value, weights["finetune"][name])
    assert any(name.startswith("projection_head") for name in weights["attention"])
    convert = load_program("jobs/convert.py")
    convert.main(convert.Options(source=str(tmp_path / "brought"), out=str(tmp_path / "back.pth")))
    left = timm.create_model(VIT, num_classes=0)
    left.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True), strict=False)
    assert torch.equal(left.state_dict()["blocks.0.attn.qkv.weight"], theirs.state_dict()["blocks.0.attn.qkv.weight"])
    refused = program("pass.py", tmp_path, "demo", *arguments(*TINY, *options.replace("theirs", "other").split()))
    assert refused.returncode == 2 and "no weights at" in refused.stderr + refused.stdout
