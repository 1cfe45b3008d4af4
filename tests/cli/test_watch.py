import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from luss_ray.cli.watch import curve, read_states
from luss_ray.config.recipe import settings
from luss_ray.config.recipes import demo
from luss_ray.core.errors import UserError
from luss_ray.storage.uri import Location


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
    rows = [{"step": float(step), "loss": 5.0 - step / 4, "images_per_s": 64.0, "lr": 0.1} for step in range(1, 11)]
    (folder / "attention" / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_stages_in_their_order_and_how_far_they_are(run: Path) -> None:
    done, going, random = read_states(Location.parse(run))
    assert [state.name for state in (done, going, random)] == ["pretrain", "attention", "random-backbone/pretrain"]
    assert (done.seconds, going.seconds) == (61.0, None)
    assert going.num_steps is not None and going.num_steps > 10
    assert going.remaining_s == pytest.approx((going.num_steps - 10) * 32 / 64)


def test_it_is_shown(run: Path) -> None:
    command = [sys.executable, "-m", "luss_ray.cli.main", "watch", str(run), "--once"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "pretrain" in shown and "1:01" in shown and "█" in shown and "loss 2.5" in shown and "ETA" in shown


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
