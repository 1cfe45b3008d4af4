import json
import socket
from pathlib import Path
from typing import Any

import pytest
import wandb
from fixtures_track import SECRET, rows, wandb_records

from luss_ray.core.errors import UserError
from luss_ray.track import wandb as module
from luss_ray.track.feed import Feed
from luss_ray.track.wandb import WandB


@pytest.fixture
def offline(monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)


def of_kind(folder: Path, kind: str) -> list[Any]:
    wandb.teardown()  # its process writes the last of it down
    return [getattr(record, kind) for record in wandb_records(folder) if record.WhichOneof("record_type") == kind]


def plain(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_rows_settings_and_scores_can_be_read_back(offline, tracked):
    tracker, folder = WandB(tracked), tracked.folder.local_path
    run_id = tracker.begin(None)
    tracker.log("random-backbone/attention", rows(1, 2, 5), at_s=1.0)
    tracker.log("pretrain", rows(1), at_s=1.0)
    tracker.finish({"finetuned/miou": 12.5})
    (run,) = of_kind(folder, "run")
    assert (run.run_id, run.project, run.display_name, run.resume) == (run_id, "luss_ray", "tiny", True)
    assert plain(run.config.update).items() >= dict(tracked.settings).items()
    history = [plain(row.item) for row in of_kind(folder, "history")]
    shown = [{name: value for name, value in row.items() if not name.startswith("_")} for row in history]
    expected = [("random-backbone/attention", row) for row in rows(1, 2, 5)] + [("pretrain", row) for row in rows(1)]
    assert shown == [{f"{stage}/{name}": value for name, value in row.items()} for stage, row in expected]
    axes = {metric.glob_name: metric.step_metric for metric in of_kind(folder, "metric") if metric.glob_name}
    assert axes == {f"{stage}/*": f"{stage}/step" for stage in ("random-backbone/attention", "pretrain")}
    summary = {name: value for record in of_kind(folder, "summary") for name, value in plain(record.update).items()}
    assert summary["finetuned/miou"] == 12.5
    assert str(folder) in tracker.where and of_kind(folder, "exit")[0].exit_code == 0
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert SECRET.encode() not in written


def test_a_run_that_goes_on_is_the_same_run(offline, tracked):
    first = WandB(tracked)
    run_id = first.begin(None)
    first.finish(None)
    second = WandB(tracked)
    assert second.begin(run_id) == run_id
    second.finish({})
    folder = tracked.folder.local_path
    assert [run.run_id for run in of_kind(folder, "run")] == [run_id] * 2
    assert [end.exit_code for end in of_kind(folder, "exit")] == [1, 0]


def test_project_and_name_are_the_users(offline, tracked, monkeypatch, tmp_path):
    for name, value in {"PROJECT": "mine", "NAME": "best", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    tracker = WandB(tracked)
    tracker.begin(None)
    tracker.finish({})
    (run,) = of_kind(tmp_path, "run")
    assert (run.project, run.display_name) == ("mine", "best")


def test_a_key_is_asked_for_in_one_line_and_not_at_the_keyboard(tracked, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"--track wandb: http://127\.0\.0\.1:9: no API key; set WANDB_API_KEY"):
        Feed("wandb", WandB(tracked), tracked.folder / "wandb.json").begin()


def test_a_server_that_is_not_there_is_refused(tracked, monkeypatch):
    monkeypatch.setitem(module._SETTINGS, "init_timeout", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # takes the port and doesn't listen
        host = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", host)
        with pytest.raises(UserError, match=f"--track wandb: {host}: .*WANDB_BASE_URL") as refusal:
            Feed("wandb", WandB(tracked), tracked.folder / "wandb.json").begin()
    assert SECRET not in str(refusal.value)
    written = b"".join(path.read_bytes() for path in tracked.folder.local_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in written
