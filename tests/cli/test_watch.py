import contextlib
import functools
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from luss_ray.cli.watch import curve, read_states, watch
from luss_ray.config.recipe import settings
from luss_ray.config.recipes import demo
from luss_ray.core.errors import UserError
from luss_ray.report.collect import write_report
from luss_ray.stages.run import Run
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.lease import HOLDER, Holder, lease
from luss_ray.storage.uri import Location
from luss_ray.train.cluster import Resources
from luss_ray.train.ledger import ORDER
from luss_ray.train.limits import Limits


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def run(tmp_path: Path, shards: Path) -> Path:
    """A run that is pretrained, in the midst of its attention, with a random backbone's stage beside it."""
    folder, recipe = tmp_path / "run", demo()
    recipe = replace(
        recipe, attention=replace(recipe.attention, optimisation=replace(recipe.attention.optimisation, epochs=10))
    )
    write(folder / "run.json", {"settings": settings(recipe), "data": "0", "weights": None, "data_uri": str(shards)})
    for name in ("pretrain", "attention", "random-backbone/pretrain"):
        write(folder / name / "begun.json", {"inputs": "1"})
    for name in ("pretrain", "random-backbone/pretrain"):
        write(folder / name / "stage.json", {"inputs": "1", "seconds": 61.0})
    write(folder / "attention" / ORDER, {"split": "train", "global_batch": 32, "epochs": 10})
    rows = [{"step": float(step), "loss": 5.0 - step / 4, "images_per_s": 64.0, "lr": 0.1} for step in range(1, 11)]
    (folder / "attention" / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_stages_in_their_order_and_how_far_they_are(run: Path) -> None:
    done, going, random = read_states(Location.parse(run))
    assert [state.name for state in (done, going, random)] == ["pretrain", "attention", "random-backbone/pretrain"]
    assert (done.seconds, going.seconds) == (61.0, None)
    assert going.num_steps == 10 * 120 // 32
    assert going.remaining_s == pytest.approx((going.num_steps - 10) * 32 / 64)


def test_it_is_shown(run: Path) -> None:
    command = [sys.executable, "-m", "luss_ray.cli.main", "watch", str(run), "--once"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "pretrain" in shown and "1:01" in shown and "█" in shown and "loss 2.5" in shown and "ETA" in shown


def test_steps_are_those_of_the_split_that_is_trained_on(run: Path, shards: Path) -> None:
    """jobs/finetune.py trains on train-semi, in a stage of the same name as that of jobs/pass.py."""
    write(run / "finetune" / "begun.json", {"inputs": "1"})
    steps = {}
    for split in ("train", "train-semi"):
        write(run / "finetune" / ORDER, {"split": split, "global_batch": 4, "epochs": 100})
        steps[split] = next(state for state in read_states(Location.parse(run)) if state.name == "finetune").num_steps
    data = ShardedDataset.open(Location.parse(shards))
    assert steps == {split: 100 * len(data.split(split)) // 4 for split in steps}
    assert steps["train-semi"] < steps["train"]


def test_data_that_can_not_be_read_leave_the_steps_unknown(run: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    write(run / "run.json", about | {"data_uri": str(run / "gone")})
    assert read_states(Location.parse(run))[1].num_steps is None


def test_no_run_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run at"):
        read_states(Location.parse(tmp_path))


def test_curves() -> None:
    assert curve([]) == "" and curve([1.0]) == "▁"
    assert curve([0.0, 1.0, 2.0]) == "▁▅█"
    assert len(curve([float(number) for number in range(1000)])) == 32


def looks(run: Path, monkeypatch: pytest.MonkeyPatch, *happenings: Callable[[], None], silence_s: float = 60) -> int:
    """Watch on a terminal, while something happens between looks; return how often it was waited for the end."""
    pending, num_waits = list(happenings), 0

    def wait(seconds: float) -> None:
        nonlocal num_waits
        num_waits += 1
        assert num_waits < 20, "it doesn't end"
        if pending:
            pending.pop(0)()

    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("luss_ray.cli.watch.CONSOLE", terminal)
    monkeypatch.setattr("luss_ray.cli.watch.time.sleep", wait)
    watch(str(run), 5.0, once=False, silence_s=silence_s)
    assert "the run has ended" in terminal.file.getvalue() and not pending  # pyright: ignore
    return num_waits


def reported(run: Path, shards: Path, *, under_way: bool) -> None:
    """Write the run's report, after a stage or at its end."""

    def no_cluster() -> Resources:
        raise AssertionError

    location, data = Location.parse(run), ShardedDataset.open(Location.parse(shards))
    write_report(
        Run(folder=location, recipe=demo(), data=data, connect=no_cluster, limits=Limits(max_bad_samples=0)),
        under_way=under_way,
    )


def test_it_follows_until_the_last_report(tmp_path: Path, run: Path, shards: Path, monkeypatch) -> None:
    begun = tmp_path / "begun"
    write(begun / "run.json", json.loads((run / "run.json").read_text()))
    after_a_stage = functools.partial(reported, begun, shards, under_way=True)
    at_the_end = functools.partial(reported, begun, shards, under_way=False)
    assert looks(begun, monkeypatch, lambda: None, after_a_stage, after_a_stage, at_the_end) == 4


def test_a_resumed_run_has_not_ended_because_it_had_before(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run / "result.json", {"recipe": "demo"})
    job = contextlib.ExitStack()
    job.enter_context(lease(Location.parse(run)))
    assert looks(run, monkeypatch, lambda: None, job.close) == 2
    assert looks(run, monkeypatch) == 0


def test_a_job_that_was_killed_does_not_keep_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run / "result.json", {"recipe": "demo"})
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    here = replace(Holder.mine(), process=f"{ended.stdout.decode().strip()} 1")
    write(run / HOLDER, asdict(here))
    assert looks(run, monkeypatch) == 0


def test_a_job_elsewhere_is_believed_as_long_as_it_gives_signs_of_life(run: Path, monkeypatch) -> None:
    write(run / "result.json", {"recipe": "demo"})
    now = [100.0]
    monkeypatch.setattr("luss_ray.cli.watch.time.monotonic", lambda: now[0])

    def later(beat: int) -> Callable[[], None]:
        def happen() -> None:
            now[0] += 40
            write(run / HOLDER, asdict(replace(there, beat=beat)))

        return happen

    there = replace(Holder.mine(), machine="another")
    later(0)()
    assert looks(run, monkeypatch, later(1), later(2), later(2), later(2)) == 4
