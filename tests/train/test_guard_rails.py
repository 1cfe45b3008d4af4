"""Losses and weights that are not finite, and workers that can not start: on real Ray, two workers."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fixtures_sabotage
import pytest
import ray
from fixtures_run import TINY, arguments
from fixtures_sabotage import Sabotaged

from luss_ray.config.command_line import parse
from luss_ray.core.errors import UserError
from luss_ray.storage.uri import Location
from luss_ray.train.cluster import Resources
from luss_ray.train.launch import train
from luss_ray.train.ledger import NOT_FINITE, audit_run
from luss_ray.train.limits import Limits
from luss_ray.train.task import PretrainTask

pytestmark = [pytest.mark.chaos, pytest.mark.e2e]


@dataclass(frozen=True)
class NoOptions:
    """Nothing but the recipe."""


@pytest.fixture
def run(ray_cluster: None, shards: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return what trains with a mishap, with two workers; it returns the stage's folder."""
    ray.cloudpickle.register_pickle_by_value(fixtures_sabotage)  # workers can't import it
    _, recipe = parse(NoOptions, ["demo", *arguments(*TINY[1:])], program="test", about="")
    task = PretrainTask(recipe=recipe, data=Location.parse(shards))
    resources = Resources(
        num_workers=(2, 2),
        use_gpu=False,
        num_loaders=1,
        loader_cpus=1,
        num_threads=1,
        preemptible=False,
        num_actors=1,
    )

    def trained(name: str, limits: Limits, **mishaps: object) -> Path:
        done = tmp_path / f"{name}-done"
        done.mkdir()
        sabotaged = Sabotaged(task=task, done=done, **mishaps)
        folder = tmp_path / name / "pretrain"
        train(sabotaged, Location.parse(folder), settings="s" * 64, resources=resources, limits=limits)
        return folder

    return trained


def limits(**given: float) -> Limits:
    return Limits(max_bad_samples=10, checkpoint_every_s=0, **given)


def test_what_is_not_finite_is_undone_and_recorded(run: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    calm = run("calm", limits())
    folder = run("mishaps", limits(max_rewinds=2), bad_loss_at=3, bad_weights_at=5)
    assert (folder / "weights.safetensors").read_bytes() == (calm / "weights.safetensors").read_bytes()
    loss, weights = Location.parse(folder).read_json(NOT_FINITE)
    assert loss["step"] == 3 and "loss nan" in loss["figures"]
    assert weights["step"] == 5 and weights["figures"] == "weights"
    assert len(loss["samples"]) == 32 and all(".tar#" in sample for sample in loss["samples"])
    (stage,) = audit_run(Location.parse(folder.parent))
    assert stage.adds_up and stage.step == stage.num_steps == 7
    assert "goes back to the newest checkpoint" in caplog.text


@pytest.mark.long
def test_weights_of_the_last_step_and_a_driver_that_ends_too_soon(run: Callable[..., Path]) -> None:
    """Until the stage counts as done, what is started again goes on from the newest checkpoint."""
    calm = run("calm", limits())
    folder = run("mishap", limits(), bad_weights_at=6)
    assert Location.parse(folder).read_json(NOT_FINITE)[0]["step"] == 6
    weights = (folder / "weights.safetensors").read_bytes()
    assert weights == (calm / "weights.safetensors").read_bytes()
    newest = max((folder / "checkpoints").iterdir())
    (folder / "weights.safetensors").unlink()
    shutil.rmtree(tmp_done := folder.parents[1] / "mishap-done")
    again = run("mishap", limits(), bad_loss_at=0)
    assert again == folder and (folder / "weights.safetensors").read_bytes() == weights
    assert not list(tmp_done.iterdir()), f"it went on from {newest.name}, not from the first step"


def test_a_folder_that_workers_can_not_see_is_refused(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luss_ray.train.launch.write_order", lambda folder, spec: None)
    with pytest.raises(UserError, match=r"is on another machine than .*give --storage s3://"):
        run("unseen", limits())


@pytest.mark.long
def test_a_loss_that_is_never_finite_ends_the_run_with_one_line(run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"not finite at step 3 .*1 times before.*--max-rewinds"):
        run("hopeless", limits(max_rewinds=1), bad_loss_at=3, for_ever=True)


@pytest.mark.long
def test_workers_that_never_start_end_the_run_with_the_reason(run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="gave up after 1 restarts without progress: ZeroDivisionError: sabotage"):
        run("broken", limits(max_failures=1), broken=True)
