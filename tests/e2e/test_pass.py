"""The main job from end to end on real Ray: on local disk, on S3, killed and started again."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import fixtures_run as job
import numpy as np
import pytest
from fixtures_faults import RunningJob, kill_trainers
from fixtures_track import as_scalars, scalars

import luss_ray
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.soft_label import SoftLabel
from luss_ray.storage.dataset import ShardedDataset, Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location
from luss_ray.train.figures import read_rows

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a finished run's folder and what was printed."""
    folder = tmp_path_factory.mktemp("run")
    printed = job.run_job(folder, f"--data={shards}", f"--storage={folder}", "--name=tiny", "--track=tensorboard")
    return folder / "tiny", printed


def test_a_run_leaves_scores_of_everything_asked_for(finished: tuple[Path, str]) -> None:
    run, printed = finished
    result = job.result_of(run)
    metrics = result["metrics"]
    scored = [metrics["finetuned"], metrics["pseudo_labels"], *metrics["baselines"].values()]
    assert set(metrics["baselines"]) == {"other", "whole_image", "random_backbone"}
    for scores in scored:
        assert 0 <= scores["miou"] <= 100 and len(scores["ious"]) == 5
    assert metrics["baselines"]["other"]["ious"][1:] == [0, 0, 0, 0]
    assert metrics["baselines"]["whole_image"]["acc"] == 100
    assert result["recipe"] == "demo" and result["data"]["splits"]["train"]["images"] == 120
    for stage in ("pretrain", "attention", "features", "clusters", "pseudo-labels", "finetune", "predictions"):
        assert result["stages"][stage]["seconds"] > 0 and result["stages"][stage]["images_per_s"] > 0
    threshold, labels = result["threshold"], result["pseudo_labels"]
    assert labels["used"] == threshold["used"] == "validation" and labels["threshold"] == threshold["chosen"]
    assert f"attention threshold {threshold['chosen']:.2f}, chosen by the validation masks" in printed
    assert len(labels["shares"]) == 4
    assert sum(labels["shares"]) == pytest.approx(100 if labels["coverage"] else 0, abs=0.01)
    last = printed.splitlines()
    assert str(run / "result.json") in printed and str(run / "report.html") in printed
    assert "mIoU" in "".join(last[-7:]) and "random backbone" in last[-1]


def test_every_sample_was_used_exactly_once_an_epoch(finished: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = finished
    done = job.audit(run)
    assert done.returncode == 0, done.stderr
    assert "5 training stages add up" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith(" ok")]
    assert [row[2:5] for row in rows if row[0] == "pretrain"] == [["0", "120", "120"], ["1", "104", "104"]]
    assert [row[3:5] for row in rows if row[0] != "pretrain"] == [["96", "96"]] * 4
    for stage in ("pretrain", "attention", "random-backbone/attention"):  # fine-tuning's one epoch leaves it out
        assert f"{stage}: 1 sample could not be read" in done.stdout
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    ledger = json.loads((changed / "attention" / "consumption.json").read_text())
    ledger["consumed"]["0"][0] -= 1
    (changed / "attention" / "consumption.json").write_text(json.dumps(ledger))
    done = job.audit(changed)
    assert done.returncode == 1 and "1 missing" in done.stdout and "attention" in done.stdout
    done = job.audit(tmp_path / "nowhere")
    assert done.returncode == 2 and "no training stage that was begun" in done.stderr


def test_the_tracker_shows_the_rows_of_every_stage_and_the_scores(finished: tuple[Path, str]) -> None:
    run, printed = finished
    (board,) = (run / "tensorboard").iterdir()
    seen, shown = scalars([board.read_bytes()]), {}
    for stage in ("pretrain", "attention", "finetune", "random-backbone/attention", "random-backbone/finetune"):
        shown |= as_scalars(stage, read_rows(Location.parse(run / stage)))
    assert {name: seen[name] for name in shown} == shown and len(shown["pretrain/loss"]) == 7
    metrics = job.result_of(run)["metrics"]
    scores = {"finetuned": metrics["finetuned"], "baselines/random_backbone": metrics["baselines"]["random_backbone"]}
    for name, score in scores.items():
        assert seen[f"{name}/miou"] == [(0, pytest.approx(score["miou"]))]
    assert f"tracked by tensorboard: {run / 'tensorboard'}" in printed


def test_labels_and_predictions_are_there_for_every_image(finished: tuple[Path, str], shards: Path) -> None:
    run, _ = finished
    data = ShardedDataset.open(Location.parse(shards))
    for folder, split in (("pseudo-labels", data.split("train")), ("predictions", data.split("validation"))):
        labels = LabelShards(Location.parse(run / folder), split)
        missing = [row for row, label in enumerate(labels.read(range(len(split)))) if label is None]
        assert labels.is_complete and missing == ([job.UNREADABLE_ROW] if split.name == "train" else [])


def test_the_model_to_take_away_gives_the_runs_predictions(finished: tuple[Path, str], shards: Path) -> None:
    run, _ = finished
    model, result = luss_ray.load(run), job.result_of(run)
    split = ShardedDataset.open(Location.parse(shards)).split("validation")
    matching = result["metrics"]["matching"]["clusters"]
    categories = result["data"]["categories"]
    assert model.names[0] == "other" and len(model.names) == 5
    for cluster, category in enumerate(matching[1:], start=1):
        assert model.names[cluster] == (categories[category - 1] if category else f"cluster {cluster}")
    rows = np.arange(6)
    predicted = LabelShards(Location.parse(run / "predictions"), split).read(rows)
    for image, label in zip(split.read_images(rows), predicted, strict=True):
        assert label is not None
        assert (model.predict(image) == masks.decode(label)).mean() > 0.999
    card = (run / "model" / "README.md").read_text()
    assert f"{result['metrics']['finetuned']['miou']:.1f}" in card and result["data"]["digest"] in card


def test_pseudo_labels_are_counted_and_verified(finished: tuple[Path, str], shards: Path, tmp_path: Path) -> None:
    run, _ = finished
    split = ShardedDataset.open(Location.parse(shards)).split("train")
    about = json.loads((run / "pseudo-labels" / "stage.json").read_text())
    stored = [data for data in LabelShards(Location.parse(run / "pseudo-labels"), split).read(range(120)) if data]
    attention = np.concatenate([SoftLabel.decode(data).attention.ravel() for data in stored])
    expected = [100 * float((attention >= np.float32(255) * np.float32(level / 100)).mean()) for level in (0, 37, 100)]
    assert [about["coverage"][level] for level in (0, 37, 100)] == pytest.approx(expected, abs=1e-3)
    assert about["bytes_per_image"] > 512
    done = _verify_labels(shards, run / "pseudo-labels")
    assert done.returncode == 0 and "120 samples in 4 shards: all good" in done.stdout, done.stderr
    changed = tmp_path / "changed"
    shutil.copytree(run / "pseudo-labels", changed)
    (changed / split.shards[1]).write_bytes(bytes(10240))
    done = _verify_labels(shards, changed)
    assert done.returncode == 1 and f"broken: {changed / split.shards[1]}" in done.stdout
    done = _verify_labels(shards, run / "predictions")
    assert done.returncode == 2 and "no finished stage of pseudo-labels" in done.stderr


def _verify_labels(shards: Path, labels: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(job.ROOT / "shards" / "verify.py"), str(shards), "--labels", str(labels)]
    return subprocess.run(program, env=job.job_environment(), capture_output=True, text=True, check=False)


def test_a_run_becomes_a_submission(finished: tuple[Path, str], shards: Path, tmp_path: Path) -> None:
    run, _ = finished
    out = tmp_path / "submission.zip"
    asked = str(run), "--split", "validation", "--out", str(out)
    shown = job.run_program("submit.py", tmp_path, *asked, "--dry-run")
    assert "predictions-validation" in shown and "to do: 1 of 1 stages" in shown and not out.exists()
    printed = job.run_program("submit.py", tmp_path, *asked)
    assert "Training data: train of scenes" in printed and "every image of validation is there" in printed
    matching = json.loads((run / "evaluation" / "metrics.json").read_text())["matching"]
    labels = LabelShards(Location.parse(run / "predictions"), split := _validation(shards))
    with zipfile.ZipFile(out) as archive:
        assert json.loads(archive.read("match.json")) == {str(c): matching[c] for c in range(1, 5)}
        for row, data in enumerate(labels.read(range(len(split)))):
            assert archive.read(f"{split.key(row)}.png") == data


def test_the_pretrained_backbone_is_scored_by_distance_matching(
    finished: tuple[Path, str], shards: Path, scenes: Path, tmp_path: Path
) -> None:
    run, _ = finished
    given = ("demo", *job.arguments(*job.TINY[1:4], f"--data={shards}", f"--storage={tmp_path}"))
    shown = job.run_program("distance_matching.py", tmp_path, *given, "--weights", str(run), "--dry-run")
    assert "to do: 3 of 3 stages" in shown and not (tmp_path / "demo-distance-matching").exists()
    job.run_program("distance_matching.py", tmp_path, *given, "--weights", str(run))
    tuned = str(run / "finetune" / "weights.safetensors")
    mixed = job.program("distance_matching.py", tmp_path, *given, "--weights", tuned)
    assert mixed.returncode == 2 and "was made with other settings (weights = " in mixed.stdout + mixed.stderr
    result = job.result_of(tmp_path / "demo-distance-matching")
    scores = result["metrics"]["distance_matching"]
    assert result["protocol"] == "distance-matching" and result["num_references"] >= 40
    assert 5 < scores["miou"] <= 100 and len(scores["ious"]) == 5
    assert result["weights"]["trained_by"] == f"run {run}"
    other = tmp_path / "other"
    job.pack_scenes(scenes, str(other), images_per_shard=50)
    refused = job.program("distance_matching.py", tmp_path, "demo", "--data", str(other), "--weights", str(run))
    assert refused.returncode == 2 and f"trained on {shards}, not on {other}" in refused.stderr


def _validation(shards: Path) -> Split:
    return ShardedDataset.open(Location.parse(shards)).split("validation")


def test_the_same_command_again_skips_everything(finished: tuple[Path, str], shards: Path) -> None:
    run, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    printed = job.run_job(run.parent, f"--data={shards}", f"--storage={run.parent}", "--name=tiny")
    assert printed.count("already done") >= 10
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before


def test_a_plan_marks_what_is_done(finished: tuple[Path, str], shards: Path, tmp_path: Path) -> None:
    run, _ = finished
    before = sorted(path.stat().st_mtime_ns for path in run.rglob("*"))
    asked = job.arguments(*job.TINY, f"--data={shards}", f"--storage={run.parent}", "--name=tiny")
    shown = job.run_program("pass.py", tmp_path, "demo", *asked, "--dry-run")
    assert "✓ pretrain" in " ".join(shown.split()) and "to do: 0 of 9 stages" in shown
    assert sorted(path.stat().st_mtime_ns for path in run.rglob("*")) == before
    refused = job.program("pass.py", tmp_path, "demo", *asked, "--dry-run", "--seed", "3")
    assert refused.returncode == 2 and "was made with other settings" in refused.stdout + refused.stderr


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_run_killed_with_sigkill_three_times_has_the_same_result(finished: tuple[Path, str], shards: Path) -> None:
    """A training worker, then the driver in feature extraction and in fine-tuning."""
    run, _ = finished
    folder = run.parent / "killed"
    options = (f"--data={shards}", "--checkpoint-every-s=0", "--no-random-baseline", "--track=tensorboard")
    folder.mkdir()
    running = RunningJob(folder, str(folder), *options).start()
    kill_trainers(running, 1)
    for event in ("features/train/*.parquet", "finetune/checkpoints/*"):
        if running.process is None:
            running.start()
        running.wait_for(lambda: list(running.run.local_path.glob(event)), event)  # noqa: B023
        running.kill()
    page = folder / "demo" / "report.html"
    assert "loads itself again" in page.read_text()
    running.start().finish()
    assert "loads itself again" not in page.read_text()
    assert not list((folder / "demo").glob("**/checkpoints/*"))
    assert "3 training stages add up" in job.audit(folder / "demo").stdout
    undisturbed = job.result_of(run)["metrics"]
    del undisturbed["baselines"]["random_backbone"]
    assert job.result_of(folder / "demo")["metrics"] == undisturbed
    boards = sorted((folder / "demo" / "tensorboard").iterdir())
    seen = scalars([board.read_bytes() for board in boards])
    rows = {stage: read_rows(Location.parse(run / stage)) for stage in ("pretrain", "attention", "finetune")}
    steps = {stage: sorted({step for step, _ in seen[f"{stage}/loss"]}) for stage in rows}
    assert steps == {stage: [row["step"] for row in rows[stage]] for stage in rows}
    assert seen["pretrain/loss"] == as_scalars("pretrain", rows["pretrain"])["pretrain/loss"]  # each of them once
    assert running.weights("finetune") == (run / "finetune" / "weights.safetensors").read_bytes()


def test_the_same_run_on_an_object_store_and_a_cluster(
    s3_server, start_cluster: Callable[[dict[str, str]], str], scenes: Path, tmp_path: Path
) -> None:
    """Two trainers and their loaders take all four CPUs of the cluster."""
    bucket, environment = s3_server.bucket("end-to-end"), s3_server.environment()
    job.pack_scenes(scenes, f"{bucket}/scenes", environment)
    environment |= {"RAY_ADDRESS": start_cluster(environment), "RAY_AUTH_MODE": "disabled"}
    options = (f"--data={bucket}/scenes", f"--storage={bucket}/runs", "--no-random-baseline", "--track=tensorboard")
    printed = job.run_job(tmp_path, *options, environment=environment)
    assert f"{bucket}/runs/demo/report.html" in printed
    body = s3_server.client().get_object(Bucket="end-to-end", Key="runs/demo/result.json")["Body"].read()
    assert set(json.loads(body)["metrics"]["baselines"]) == {"other", "whole_image"}
    stored = s3_server.client().list_objects_v2(Bucket="end-to-end", Prefix="runs/demo/tensorboard/")["Contents"]
    board = s3_server.client().get_object(Bucket="end-to-end", Key=stored[0]["Key"])["Body"].read()
    assert len(stored) == 1 and len(scalars([board])["pretrain/loss"]) == 7
    secret = environment["AWS_SECRET_ACCESS_KEY"].encode()
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret not in everything and secret not in body and secret.decode() not in printed
