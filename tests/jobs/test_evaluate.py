"""jobs/evaluate.py as people run it: on folders anybody made, and on a run's shards."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import fixtures_run as job
import numpy as np
import pytest

from luss_ray.imagenet_s import masks
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, job.ROOT / "jobs" / "evaluate.py", *map(str, arguments)]
    return subprocess.run(command, env=job.job_environment(), capture_output=True, text=True, check=False, timeout=200)


def on(case: Path, *options: object) -> tuple[object, ...]:
    folders = ("--predictions", case / "validation", "--masks", case / "validation-segmentation")
    return (*folders, "--num-categories", 50, *options)


def refused(expected: str, *arguments: object) -> None:
    done = evaluate(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_the_published_numbers_from_the_command_line(selection: Path, tmp_path: Path) -> None:
    case, out = selection / "eval" / "e50_merged", tmp_path / "out" / "scores.json"
    expected = json.loads((case / "expected.json").read_text())
    match = case / expected["match_file"]
    done = evaluate(*on(case, "--names", case / "names.txt", "--matching", match, "--out", out))
    assert done.returncode == 0, done.stderr
    scores = json.loads(out.read_text())
    for ours, theirs in (("miou", "mIoU"), ("acc", "Acc"), ("f", "FMeasure"), ("mbiou", "mBIoU"), ("bms", "BMS")):
        value = expected["with_match"][theirs]
        assert scores[ours] is None if value is None else scores[ours] == pytest.approx(value, abs=1e-3)
    several = tmp_path / "several.json"
    several.write_text(json.dumps({str(cluster): min(cluster, 40) for cluster in range(51)}))
    warned = evaluate(*on(case, "--matching", several, "--out", out))
    assert warned.returncode == 0 and "matched to several clusters" in warned.stdout
    refused("--strict", *on(case, "--matching", several, "--out", out, "--strict"))


def test_the_matching_that_was_found_is_saved_and_used_again(selection: Path, tmp_path: Path) -> None:
    case, match = selection / "eval" / "e50_edge", tmp_path / "match.json"
    expected = json.loads((case / "expected.json").read_text())["match"]["optimal_total"]
    asked = on(case, "--save-matching", match, "--out", tmp_path / "1.json")
    assert "images to score" in evaluate(*asked, "--dry-run").stdout and not list(tmp_path.iterdir())
    first = evaluate(*asked)
    assert first.returncode == 0, first.stderr
    second = evaluate(*on(case, "--matching", match, "--out", tmp_path / "2.json"))
    assert second.returncode == 0, second.stderr
    found, reused = (json.loads((tmp_path / name).read_text()) for name in ("1.json", "2.json"))
    assert found["matching_total"] == reused["matching_total"] == expected
    assert found.pop("matching_kind") == "auto" and reused.pop("matching_kind") == "file"
    assert found == reused


def test_the_curve_from_the_command_line(selection: Path, tmp_path: Path) -> None:
    case, out = selection / "curve" / "c50_exact", tmp_path / "curve.json"
    expected = json.loads((case / "expected.json").read_text())
    options = ("--attention", case / "validation", "--curve", "--matching", "none", "--out", out)
    done = evaluate(*on(case, *options))
    assert done.returncode == 0, done.stderr
    scores = json.loads(out.read_text())
    assert len(scores["curve"]) == 81 and scores["curve"][80]["threshold"] == pytest.approx(0.8)
    best = max(scores["curve"], key=lambda row: row["miou"])
    assert scores["best_threshold"] == best["threshold"] and scores["miou"] == best["miou"]
    assert len(scores["ious"]) == expected["num_classes"] + 1


def test_a_runs_predictions_in_shards_score_as_in_folders(shards: Path, tmp_path: Path) -> None:
    split = ShardedDataset.open(Location.parse(shards)).split("validation")
    predicted, folder = LabelShards(Location.parse(tmp_path / "predictions"), split), tmp_path / "folder"
    rng = np.random.default_rng(0)
    for shard in range(len(split.shards)):
        rows, labels = split.shard_rows(shard), []
        for row, truth in zip(rows, split.read_masks(rows), strict=True):
            assert truth is not None
            mask = masks.decode(truth)
            ids = np.where(rng.random(mask.shape) < 0.8, (mask % 4 + 1) * (mask > 0), 0).astype(np.uint16)
            labels.append(masks.encode(ids))
            for part, data in (("predictions", labels[-1]), ("masks", truth)):
                file = folder / part / f"{split.key(int(row))}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        if shard == 0:
            common = ("--masks", shards, "--num-categories", 4, "--out", tmp_path / "x.json")
            refused("shards of predictions are missing", "--predictions", tmp_path / "predictions", *common)
        predicted.publish(shard, labels)
    options = ("--num-categories", 4, "--log", tmp_path / "ray.log")
    from_shards = ("--predictions", tmp_path / "predictions", "--masks", shards, "--out", tmp_path / "shards.json")
    from_folders = ("--predictions", folder / "predictions", "--masks", folder / "masks", "--out", tmp_path / "f.json")
    for arguments in (from_shards, from_folders):
        done = evaluate(*arguments, *options)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "shards.json").read_text() == (tmp_path / "f.json").read_text()


def test_what_the_user_got_wrong_is_one_line_and_code_2(selection: Path, tmp_path: Path) -> None:
    case, out = tmp_path / "case", tmp_path / "out.json"
    shutil.copytree(selection / "eval" / "e50_outofrange", case)
    beyond = evaluate(*on(case, "--matching", "none", "--out", out))
    assert beyond.returncode == 0 and "predictions hold ids beyond the categories" in beyond.stdout
    refused("beyond the categories", *on(case, "--matching", "none", "--out", out, "--strict"))
    refused("give --num-clusters", *on(case, "--out", out))
    refused("a matching is one of none, auto, ", *on(case, "--matching", "automatic", "--out", out))
    refused("at least 1", *on(case, "--num-clusters", "0", "--out", out))
    refused("--attention", *on(case, "--curve", "--out", out))
    refused("is not a folder", *on(tmp_path / "nowhere", "--out", out))
    prediction = next((case / "validation").rglob("*.png"))
    prediction.write_bytes(masks.encode(np.ones((3, 5), np.uint16)))
    name = prediction.relative_to(case / "validation").as_posix()
    refused(f"{name}: ", *on(case, "--matching", "none", "--out", out))
    prediction.write_bytes(prediction.read_bytes()[:40])
    refused(str(prediction), *on(case, "--matching", "none", "--out", out))
