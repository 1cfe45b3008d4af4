"""The pages on ImageNet-S, on clusters, on stopped runs: every command in its order, as somebody would type it."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from fixtures_docs import ROOT, documented, type_in
from fixtures_head import Head
from fixtures_imagenet import make_look_alike
from fixtures_run import TINY, arguments, pack_scenes, result_of
from fixtures_s3 import S3Server

from luss_ray.nn.weights import WeightsFile
from luss_ray.storage.uri import Location

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]
_DOCS = ROOT / "docs"
_SMALL = arguments(*TINY, "--num-workers=1 1")


def test_imagenet_s_from_its_files_to_scores(s3_server: S3Server, selection: Path, tmp_path: Path) -> None:
    """All subsets of a look-alike in which the smallest has images of each category, and networks on tiny settings.

    Predictions to score are those that were scored by the published evaluator.
    """
    bucket = s3_server.bucket("imagenet-page")
    look_alike = make_look_alike(tmp_path, of_smallest=50, num_train=3)
    assert look_alike.forms["folders"].rename(tmp_path / "imagenet").is_dir()
    case = selection / "curve" / "c50_exact"
    shutil.copytree(case / "validation", tmp_path / "preds")
    shutil.copytree(case / "validation-segmentation", tmp_path / "validation-segmentation")
    torch.save({"model": timm.create_model("test_vit", num_classes=5).state_dict()}, tmp_path / "dino.pth")
    torch.save({"state_dict": timm.create_model("resnet18").state_dict()}, tmp_path / "checkpoint.pth.tar")
    scored = "--predictions preds/ --masks validation-segmentation/ --num-categories 50"
    meant = {"… --attention": f"{scored} --out curve.json --attention"}
    meant |= {"--data …": f"--data {bucket}/imagenet/imagenet-s-50", "s3://BUCKET": bucket}
    meant |= {"ImageNet-S/datapreparation/data": "lists", "~": str(tmp_path), "vit_small_patch16_224": "test_vit"}
    more = {
        "shards/imagenet_s.py": ["--incomplete", "--images-per-shard", "20"],
        "jobs/pass.py": _SMALL,
        "jobs/distance_matching.py": arguments("--shorter-side-px=48", "--backbone.widths=8 8 16 16"),
    }
    commands = documented(_DOCS / "imagenet_s.md")
    printed = type_in(commands, tmp_path, meant, more=more, environment=s3_server.environment())
    by_program = dict(zip((name for name, _ in commands), printed, strict=True))
    assert "mIoU" in by_program["jobs/distance_matching.py"] and (tmp_path / "scores.json").exists()
    assert (tmp_path / "match.json").exists() and (tmp_path / "submission.zip").exists()
    assert result_of(tmp_path / "runs" / "imagenet-s-50")["metrics"]["finetuned"]["miou"] >= 0
    assert WeightsFile(Location.parse(tmp_path / "backbone.pth"))()["conv1.weight"].shape == (64, 3, 7, 7)


@pytest.fixture
def head(s3_server: S3Server) -> Iterator[Head]:
    """Return a cluster of one node to which jobs are submitted without a token, and which knows the store."""
    folder = Path(f"/tmp/head-{os.getpid()}")
    folder.mkdir()
    open_to_all = {"RAY_AUTH_MODE": "disabled"}
    environment = {**open_to_all, **s3_server.environment(), "OMP_NUM_THREADS": "1"}
    head = Head(folder, "--port=0", "--num-cpus=6", environment=environment, client=open_to_all)
    try:
        yield head
    finally:
        head.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_that_is_submitted_to_watched_and_audited(
    head: Head, s3_server: S3Server, scenes: Path, tmp_path: Path
) -> None:
    page, bucket, environment = _DOCS / "cluster.md", s3_server.bucket("cluster-page"), s3_server.environment()
    data = f"{bucket}/scenes"
    pack_scenes(scenes, data, environment)
    (line,) = re.findall(r"^uv run ray (job submit .*)$", page.read_text(), re.MULTILINE)
    line = line.replace("--data s3://…", f"--data {data}").replace("--storage s3://…", f"--storage {bucket}/runs")
    words = shlex.split(line.replace("--num-workers 4 16", "--num-workers 2 3"))
    small = arguments(*(option for option in TINY if "num-workers" not in option), f"--log={tmp_path / 'ray.log'}")
    done = head.ray(*words, *small, folder=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    _, *commands = documented(page)
    meant = {"s3://BUCKET": bucket}
    environment |= {"MLFLOW_TRACKING_URI": str(tmp_path / "mlflow"), "MLFLOW_ALLOW_FILE_STORE": "true"}
    environment |= {"WANDB_MODE": "offline"}
    more = {"jobs/pass.py": [*_SMALL, "--data", data]}
    watched, _ = type_in(commands, tmp_path, meant, more=more, environment=environment)
    assert "finetune" in watched
    assert list(tmp_path.glob("runs/*/tensorboard/*")) and list(tmp_path.rglob("*.wandb"))
    assert list((tmp_path / "mlflow").rglob("metrics"))
    meant |= {f"{bucket}/imagenet/imagenet-s-50": data}
    again = [*small, "--num-workers", "1", "1"]
    gone_on, audited = type_in(
        documented(page.with_name("resume.md")), tmp_path, meant, more={"jobs/pass.py": again}, environment=environment
    )
    assert "add up" in audited and "worker from step" not in gone_on, "a finished run is not trained again"
