import sys

import fixtures_run as job
import mlflow
import pytest
import wandb
from fixtures_track import SECRET, as_scalars, rows, scalars, wandb_records

from luss_ray.core.errors import UserError
from luss_ray.track.tracker import TrackerName, flat
from luss_ray.track.trackers import Trackers, open_trackers

ALL = tuple(TrackerName)
METRICS = {
    "finetuned": {"miou": 37.5, "ious": [1.0, 2.0], "f": None},
    "matching": {"protocol": "hungarian"},
    "baselines": {"other": {"miou": 1.5}},
}


@pytest.fixture(autouse=True)
def at_hand(tmp_path, monkeypatch):
    """Trackers that need no server, and secrets all the same."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)


def test_all_of_them_show_the_same_and_nothing_secret(tracked, tmp_path, capsys):
    for given in ((1, 2), (2, 3)):  # the second time, the run goes on
        with open_trackers(ALL + ALL, tracked) as trackers:
            trackers.rows("pretrain", rows(*given))
            trackers.scores(METRICS)
    folder, expected = tracked.folder.local_path, as_scalars("pretrain", rows(1, 2, 3))
    board = scalars([path.read_bytes() for path in sorted((folder / "tensorboard").iterdir())])
    assert {name: sorted(points) for name, points in board.items() if name in expected} == expected
    assert board.keys() - expected.keys() == {"finetuned/miou", "baselines/other/miou"}
    remembered = {name.value: (tracked.folder / "trackers" / f"{name.value}.json").read_json() for name in ALL}
    assert [about["steps"] for about in remembered.values()] == [{"pretrain": 3}] * 3
    (run,) = mlflow.MlflowClient().search_runs([mlflow.MlflowClient().get_experiment_by_name("luss_ray").experiment_id])
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "pretrain/loss")
    assert [point.step for point in history] == [1, 2, 3] and run.info.run_id == remembered["mlflow"]["id"]
    assert run.data.metrics["baselines/other/miou"] == 1.5
    wandb.teardown()
    sent = [record for record in wandb_records(folder) if record.WhichOneof("record_type") == "history"]
    assert len(sent) == 3
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    said = capsys.readouterr()
    assert SECRET.encode() not in written and SECRET not in said.out + said.err


def test_a_run_that_is_broken_off_is_closed_as_such(tracked):
    with pytest.raises(KeyboardInterrupt), open_trackers((TrackerName.MLFLOW,), tracked) as trackers:
        trackers.rows("pretrain", rows(1))
        raise KeyboardInterrupt
    about = (tracked.folder / "trackers" / "mlflow.json").read_json()
    assert mlflow.MlflowClient().get_run(about["id"]).info.status == "FAILED" and about["steps"] == {"pretrain": 1}


def test_one_that_can_not_be_reached_ends_the_others(tracked, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens
    names = (TrackerName.TENSORBOARD, TrackerName.MLFLOW)
    with pytest.raises(UserError, match="--track mlflow"), open_trackers(names, tracked):
        raise AssertionError("it must not begin")


def test_without_trackers_nothing_is_done(tracked):
    with open_trackers((), tracked) as trackers:
        assert not trackers and not Trackers()
        trackers.rows("pretrain", rows(1))
        trackers.scores(METRICS)
    assert not tracked.folder.local_path.exists()


def test_a_missing_library_is_refused_before_anything_starts(monkeypatch):
    options, _ = job.parsed(["demo", "--track", "tensorboard", "mlflow", "wandb"])
    assert options.track == ALL and job.parsed(["demo"])[0].track == ()
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=f"--track {name} needs {name}.*uv sync --inexact --extra trackers"):
            job.parsed(["demo", "--track", "tensorboard", name])


def test_nested_values_are_named_by_the_way_to_them():
    assert flat({"a": {"b": {"c": 1}}, "d": [2], "e": {}}, ".") == {"a.b.c": 1, "d": [2]}
