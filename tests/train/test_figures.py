"""Rows of figures from a worker's first rank to the driver, and to the trackers."""

from typing import Any

import pytest
from fixtures_track import as_scalars, scalars

from luss_ray.core.progress import StageProgress
from luss_ray.storage.uri import Location
from luss_ray.track.tracker import Tracked, TrackerName
from luss_ray.track.trackers import open_trackers
from luss_ray.train.figures import METRICS, Figures, read_rows
from luss_ray.train.monitor import Monitor, watch

NUM_STEPS = 7


def figures(monitor: Any, rank: int = 0, *, tracked: bool = True) -> Figures:
    """Return the figures of a worker that a monitor listens to."""
    return Figures(
        stage="pretrain",
        rank=rank,
        num_steps=NUM_STEPS,
        batch_size=32,
        show=monitor.advance.remote,
        note=monitor.note.remote,
        track=monitor.track.remote if tracked else None,
    )


def take_steps(worker: Figures, first: int, last: int) -> None:
    for step in range(first, last + 1):
        worker.record(step, {"loss": 1 / step, "lr": 0.5}, num_bad=0)


@pytest.mark.usefixtures("ray_cluster")
def test_the_rows_of_rank_0_reach_the_trackers_once_through_restarts(tmp_path) -> None:
    run, stage = Tracked(folder=Location.parse(tmp_path), settings={}), Location.parse(tmp_path / "pretrain")
    with (
        open_trackers((TrackerName.TENSORBOARD,), run) as trackers,
        StageProgress("pretrain", NUM_STEPS, "steps") as progress,
        watch(progress, 8, lambda rows: trackers.rows("pretrain", rows)) as monitor,
    ):
        take_steps(figures(monitor, rank=1), 1, NUM_STEPS)
        take_steps(first := figures(monitor), 1, 5)
        again = figures(monitor)  # from a checkpoint after step 3
        again.go_on(first.history[:3])
        take_steps(again, 4, NUM_STEPS)
        stage.write(METRICS, again.to_jsonl())
    (board,) = (tmp_path / "tensorboard").iterdir()
    seen, rows = scalars([board.read_bytes()]), read_rows(stage)
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert rows[:3] == first.history[:3] and rows[3] != first.history[3]  # in what a machine's speed is
    assert seen == as_scalars("pretrain", first.history + rows[5:])


def test_rows_of_a_checkpoint_that_no_driver_has_seen_come_before_new_ones():
    sent: list[dict[str, float]] = []
    for rank in (0, 1):
        worker = Figures(
            stage="pretrain",
            rank=rank,
            num_steps=NUM_STEPS,
            batch_size=32,
            show=lambda *_: None,
            note=lambda _: None,
            track=sent.extend,
        )
        worker.go_on([{"step": 1, "loss": 1.0}])
        take_steps(worker, 2, NUM_STEPS)
    assert [row["step"] for row in sent] == list(range(1, NUM_STEPS + 1))


@pytest.mark.usefixtures("ray_cluster")
def test_nothing_is_sent_when_nothing_tracks() -> None:
    import ray

    with StageProgress("pretrain", NUM_STEPS, "steps") as progress, watch(progress, 8) as monitor:
        worker = figures(monitor, tracked=False)
        take_steps(worker, 1, NUM_STEPS)
        assert ray.get(monitor.take_rows.remote()) == [] and len(worker.history) == NUM_STEPS


def test_a_monitor_hands_out_each_row_once():
    monitor = Monitor("pretrain", max_failures=1)
    monitor.track([{"step": 1}])
    monitor.track([{"step": 2}, {"step": 3}])
    assert monitor.take_rows() == [{"step": 1}, {"step": 2}, {"step": 3}] and monitor.take_rows() == []


def test_a_stage_without_figures_has_no_rows(tmp_path):
    assert read_rows(Location.parse(tmp_path)) == []


def test_a_rate_is_that_since_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run that has become slow looks slow."""
    now = 0.0
    monkeypatch.setattr("luss_ray.train.figures.time.monotonic", lambda: now)
    nothing = {"show": lambda *_: None, "note": lambda _: None}
    worker = Figures(stage="pretrain", rank=0, num_steps=NUM_STEPS, batch_size=32, **nothing)
    for step, seconds in enumerate([1, 1, 1, 4, 4, 4, 4], start=1):
        now += seconds
        worker.record(step, {"loss": 1.0}, num_bad=0)
    assert [row["images_per_s"] for row in worker.history] == [0, 32, 32, 8, 8, 8, 8]
