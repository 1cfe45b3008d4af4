"""The step that the loop takes, whole: the same on one worker and on two, and in the precision of a GPU.

The file is also the program of the two workers: `python test_step.py FOLDER`.
"""

import math
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from luss_ray.config.recipe import Recipe
from luss_ray.config.recipes import demo
from luss_ray.core.errors import UserError
from luss_ray.data import augment
from luss_ray.data.plan import Plan
from luss_ray.train.finetune import FinetuneTrainee
from luss_ray.train.pixel_attention import PixelAttentionTrainee
from luss_ray.train.pretrain import Pretrainee, pretrain_model
from luss_ray.train.step import GRADIENT_NORM, Precision, ahead, backward, prepared, to_device
from luss_ray.train.swapped import CodeBook
from luss_ray.train.trainee import Trainee, World

BATCH, STEPS = 7, 3
PLAN = Plan(np.zeros(4 * BATCH, np.int64), seed=0, global_batch=BATCH, epochs=1)
Build = Callable[[Recipe, World], Trainee]


def small() -> Recipe:
    """Return the demo with fewer channels and a queue that is full after two steps."""
    recipe = demo()
    pretrain = replace(recipe.pretrain, queue=replace(recipe.pretrain.queue, length=10, start_epoch=0))
    backbone = replace(recipe.backbone, widths=(8, 8, 16, 16))
    prototypes = replace(recipe.prototypes, num=16, hidden=16, embedding_dim=8)
    finetune = replace(recipe.finetune, colour=pretrain.crops.colour, crop_px=32)
    return replace(recipe, backbone=backbone, prototypes=prototypes, pretrain=pretrain, finetune=finetune)


def pretraining(recipe: Recipe, world: World) -> Trainee:
    return Pretrainee(recipe, CodeBook(recipe.prototypes, recipe.pretrain.queue, PLAN, world))


def attention(recipe: Recipe, world: World) -> Trainee:
    book = CodeBook(recipe.prototypes, recipe.pretrain.queue, PLAN, world)
    return PixelAttentionTrainee(recipe, dict(pretrain_model(recipe).state_dict()), book)


def finetuning(recipe: Recipe, world: World) -> Trainee:
    return FinetuneTrainee(recipe, dict(pretrain_model(recipe).state_dict()), 3, PLAN, world)


BUILDS: dict[str, Build] = {"pretrain": pretraining, "attention": attention, "finetune": finetuning}
VARIANTS: dict[str, Recipe] = {
    "pass": small(),
    "no-pixels": replace(small(), pretrain=replace(small().pretrain, pixel_to_pixel=0.0)),
    "no-shallow": replace(small(), pretrain=replace(small().pretrain, shallow_stages=())),
}


def batch_of(recipe: Recipe, step: int, rows: slice) -> dict[str, torch.Tensor]:
    """Return what a stream would give of the global batch's rows."""
    rng, crops = np.random.default_rng(step), recipe.pretrain.crops
    corners, sides = rng.integers(0, 20, (BATCH, 2, 2)), rng.integers(30, 60, (BATCH, 2, 2))
    side = recipe.finetune.crop_px
    arrays = {
        f"crops_{kind}": rng.integers(0, 256, (BATCH, spec.num, spec.size_px, spec.size_px, 3), np.uint8)
        for kind, spec in enumerate(crops.specs())
    }
    arrays |= {"geometry": np.concatenate([corners, sides, rng.integers(0, 2, (BATCH, 2, 1))], axis=2)}
    arrays |= {"crop": rng.integers(0, 256, (BATCH, side, side, 3), np.uint8)}
    arrays |= {"label": rng.integers(0, 4, (BATCH, side, side), np.uint16), "epoch": np.zeros(BATCH, np.int64)}
    arrays |= {"row": np.arange(BATCH), "used_row": np.arange(BATCH)}
    return to_device({name: array[rows] for name, array in arrays.items()}, torch.device("cpu"))


def train(
    build: Build, recipe: Recipe, world: World, precision: Precision | None = None, *, lr: float = 0.1
) -> list[dict[str, float]]:
    """Take some steps and return the figures of each, over all workers; in float32 unless said."""
    precision = precision or Precision(world.device, None)
    trainee, rows = build(recipe, world), slice(*PLAN.bounds(world.rank, world.size))
    network = trainee.network
    if world.size > 1:
        network = DistributedDataParallel(network, broadcast_buffers=False)
    share, found = (rows.stop - rows.start) / BATCH, []
    for step in range(STEPS):
        trainee.optimiser.zero_grad(set_to_none=True)
        batch = trainee.inputs(batch_of(recipe, step, rows))
        figures = backward(trainee, network, batch, step=step, share=share, world=world, precision=precision)
        sums = world.sum(torch.stack([value.float() for value in figures.values()])).tolist()
        trainee.before_update(step)
        for group in trainee.optimiser.param_groups:
            group["lr"] = lr
        precision.update(trainee.optimiser)
        found.append(dict(zip(figures, sums, strict=True)))
    return found


def alone() -> World:
    return World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """Return the figures of two workers' steps."""
    folder = tmp_path_factory.mktemp("workers")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(folder)], check=True, timeout=300, env=environment)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    assert first == second, "all workers hold the same"
    return first


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", BUILDS)
def test_two_workers_take_the_steps_of_one(two_workers, stage: str, variant: str) -> None:
    """Crops, colours, codes with a queue, losses and updates; also where heads have nothing to learn."""
    expected = train(BUILDS[stage], VARIANTS[variant], alone())
    for ours, theirs in zip(two_workers[f"{stage}/{variant}"], expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=2e-2, abs=2e-3), name
    assert two_workers[f"{stage}/{variant}"][0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-4)


@pytest.mark.parametrize("stage", BUILDS)
def test_prepared_batches_are_the_streams_in_its_order(stage: str) -> None:
    """Each with the trainee's inputs of it; a fault of the stream comes through."""

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for step in range(3):
            yield {name: tensor.numpy() for name, tensor in batch_of(small(), step, slice(0, BATCH)).items()}
        raise UserError("the stream breaks")

    trainee = BUILDS[stage](small(), alone())
    coming = prepared(stream(), trainee, alone().device)
    for step in range(3):
        batch, inputs = next(coming)
        expected = batch_of(small(), step, slice(0, BATCH))
        assert (batch["label"] == expected["label"].numpy()).all()
        assert all(torch.equal(tensor, inputs[name]) for name, tensor in trainee.inputs(expected).items())
    with pytest.raises(UserError, match="the stream breaks"):
        next(coming)


class Late:
    """A trainee whose inputs come late on the GPU, after a hundredth of a second or so."""

    def inputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        torch.cuda._sleep(20_000_000)
        return {"crops": batch["crops"].float() + 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_waits_for_inputs_and_keeps_their_memory_until_it_has_used_them() -> None:
    stream = ({"crops": np.full((64, 1024), step, np.uint8)} for step in range(20))
    taken = []
    for _, inputs in prepared(stream, cast("Trainee", Late()), torch.device("cuda")):
        early = inputs["crops"].clone()
        torch.cuda._sleep(60_000_000)
        taken.append((early, inputs["crops"].clone()))
        del inputs
    assert [[tensor.unique().tolist() for tensor in pair] for pair in taken] == [[[s + 1.0]] * 2 for s in range(20)]


def test_what_is_made_ahead_is_waited_for_before_its_source_is_closed() -> None:
    """Else the stream would be closed while the thread is in it."""
    begun, may_end = threading.Event(), threading.Event()

    def stream() -> Iterator[int]:
        yield 0
        begun.set()
        may_end.wait(60)
        yield 1

    source = stream()
    coming = ahead(lambda: next(source, None))
    assert next(coming) == 0 and begun.wait(60)
    threading.Timer(0.2, may_end.set).start()
    coming.close()
    source.close()  # raises where the generator is executing
    assert may_end.is_set()


def test_what_is_made_ahead_keeps_its_order_and_its_faults() -> None:
    source = iter(range(50))
    assert list(ahead(lambda: next(source, None))) == list(range(50))
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda: 1 // 0))


def scaled(dtype: torch.dtype, scale: float) -> Precision:
    """Return a precision whose loss scale, if it has one, is given."""
    precision = Precision(alone().device, dtype)
    precision.load_state(precision.state() and precision.state() | {"scale": torch.tensor(scale)})
    return precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stage", BUILDS)
def test_mixed_precision_is_near_single(stage: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the colours' operations that a GPU takes, and steps so small that roundings don't grow from one to the next:
    they are others on every processor."""
    monkeypatch.setattr(augment, "augment_on_cpu", augment.augment_batched)
    build, recipe, lr = BUILDS[stage], small(), 0.01
    steps = train(build, recipe, alone(), scaled(dtype, 2.0**8), lr=lr), train(build, recipe, alone(), lr=lr)
    for mixed, single in zip(*steps, strict=True):
        assert all(math.isfinite(value) for value in mixed.values())
        assert mixed["loss"] == pytest.approx(single["loss"], rel=5e-2)
        assert mixed[GRADIENT_NORM] == pytest.approx(single[GRADIENT_NORM], rel=0.5)


class TestOverflow:
    """In float16 with a scale that is too large for the gradient."""

    def steps(self, precision: Precision, num: int) -> list[tuple[float, bool, bool]]:
        """Take some steps of fine-tuning; return of each the scale, whether it overflowed, whether weights changed."""
        trainee, found = finetuning(small(), alone()), []
        for step in range(num):
            before = [parameter.detach().clone() for parameter in trainee.network.parameters()]
            trainee.optimiser.zero_grad(set_to_none=True)
            batch, scale = trainee.inputs(batch_of(small(), step, slice(0, BATCH))), precision.scale
            shares = backward(trainee, trainee.network, batch, step=step, share=1.0, world=alone(), precision=precision)
            overflowed = precision.overflowed({name: float(value) for name, value in shares.items()})
            precision.update(trainee.optimiser)
            pairs = zip(before, trainee.network.parameters(), strict=True)
            changed = any(not torch.equal(old, new) for old, new in pairs)
            assert all(parameter.isfinite().all() for parameter in trainee.network.parameters())
            found.append((scale, overflowed, changed))
        return found

    def test_updates_are_left_out_until_the_scale_fits(self) -> None:
        precision = scaled(torch.float16, 2.0**40)
        found = self.steps(precision, 40)
        assert found[0] == (2.0**40, True, False)
        assert all(overflowed != changed for _, overflowed, changed in found)
        assert not found[-1][1]
        overflows = sum(overflowed for _, overflowed, _ in found)
        assert precision.scale == 2.0 ** (40 - overflows)

    def test_what_is_not_finite_by_itself_is_no_overflow(self) -> None:
        precision = Precision(alone().device, torch.float16)
        assert precision.overflowed({"loss": 1.0, GRADIENT_NORM: math.inf})
        assert not precision.overflowed({"loss": math.nan, GRADIENT_NORM: math.nan})
        assert not precision.overflowed({"loss": 1.0, GRADIENT_NORM: 1.0})
        assert not scaled(torch.float16, 1.0).overflowed({"loss": 1.0, GRADIENT_NORM: math.inf}), (
            "no smaller scale would help"
        )
        assert not Precision(alone().device, torch.bfloat16).overflowed({"loss": 1.0, GRADIENT_NORM: math.inf})

    def test_the_scale_goes_on_after_a_restart(self) -> None:
        first, second = scaled(torch.float16, 2.0**20), Precision(alone().device, torch.float16)
        self.steps(first, 3)
        second.load_state(first.state())
        assert {name: float(value) for name, value in second.state().items()} == {
            name: float(value) for name, value in first.state().items()
        }
        bfloat16 = Precision(alone().device, torch.bfloat16)
        bfloat16.load_state(first.state())
        first.load_state(bfloat16.state())
        assert (bfloat16.scale, first.scale) == (1, second.scale), "devices may change between two starts"


def work(rank: int, folder: Path) -> None:
    """Be one of two workers."""
    torch.set_num_threads(1)
    wait = timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2, timeout=wait)
    world = World(rank=rank, size=2, device=torch.device("cpu"))
    pairs = [(stage, variant) for stage in BUILDS for variant in VARIANTS]
    found = {f"{stage}/{variant}": train(BUILDS[stage], VARIANTS[variant], world) for stage, variant in pairs}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(rank, Path(sys.argv[1])), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(max(abs(worker.exitcode or 0) for worker in workers))
