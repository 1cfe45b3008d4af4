"""The pretraining step beside a plain eager one and beside the bare network, and where its time goes.

`uv run benchmarks/step.py [--preset demo|resnet50] [--batch N] [--rounds 5] [--steps 20] [--quick] [--json FILE]`

Needs no Ray: torch, the project's folder on `PYTHONPATH`, and of its other packages tyro, pydantic, jaxtyping, NumPy,
OpenCV, simplejpeg and Pillow. Batches are random 8-bit crops as the
stream gives them. In each round the contenders take turns, `--steps` steps each, on the same device, each in a process
of its own:

- `ours`: the product's own step, in the precision that its recipe takes on this device, and with the settings of the
  memory allocator that the product's workers have
- `plain_float32`, `plain_autocast`: `step_plain.py`, the same step as one writes it down first
- `plain_coloured`: the plain step in our precision without its augmentation, on crops that are coloured already
- `bare`: forward and backward of the network alone, in our precision and memory order, on crops that are floats already
- `bare_tuned`: the same with the allocator's settings of `ours`
- `compiled`, with `--compile`: ours after `torch.compile`, as the jobs' `--compile` has it

`vs_eager` is ours over the plain step in the same precision (images/s), `vs_eager_coloured` ours, colours and all, over
the plain step without them, `of_bare_network` and `of_bare_network_tuned` are ours over the bare network's. Then the
parts of our step, each waited for. On a GPU copying and colouring the next batch go on beside them: what these take
alone is told apart.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_plain import PlainStep
from torch import Tensor

from luss_ray.config.recipe import Recipe
from luss_ray.config.recipes import RECIPES
from luss_ray.data.grid import pair_grid
from luss_ray.data.plan import Plan
from luss_ray.nn.backbone import on_device
from luss_ray.nn.models import PretrainModel
from luss_ray.train.pretrain import Pretrainee, pretrain_model
from luss_ray.train.step import Precision, backward, compile_network, half_precision, prepared, to_device, tune
from luss_ray.train.swapped import CodeBook
from luss_ray.train.trainee import World
from luss_ray.train.views import coloured_crops, crops_of

PRESETS = {"demo": ("demo", 64), "resnet50": ("imagenet-s-300", 128)}
"""Recipe and images in a batch."""
IMAGENET_IMAGES = 1_281_167
LATE = 10**6
"""A step after which the queue is in use and the prototypes learn."""
PLAIN_FLOAT32, PLAIN_AUTOCAST, PLAIN_COLOURED = "plain_float32", "plain_autocast", "plain_coloured"
BARE, BARE_TUNED = "bare", "bare_tuned"
OURS, COMPILED = "ours", "compiled"
TUNED = (OURS, COMPILED, BARE_TUNED)
"""Contenders whose process has the allocator's settings that importing the product leaves to its workers."""
PARTS = ("data wait", "augment", "forward", "losses", "backward", "optimiser", "other")


def make_batch(recipe: Recipe, num: int) -> dict[str, np.ndarray]:
    """Return what a stream gives: random crops, their geometry and names."""
    rng = np.random.default_rng(0)
    crops = recipe.pretrain.crops
    geometry = np.concatenate([rng.integers(0, 100, (num, 2, 2)), rng.integers(150, 300, (num, 2, 2))], axis=2)
    geometry = np.concatenate([geometry, rng.integers(0, 2, (num, 2, 1))], axis=2)
    pixels = {
        f"crops_{kind}": rng.integers(0, 256, (num, spec.num, spec.size_px, spec.size_px, 3), np.uint8)
        for kind, spec in enumerate(crops.specs())
    }
    names = {"epoch": np.zeros(num, np.int64), "row": np.arange(num), "used_row": np.arange(num)}
    return {**pixels, **names, "geometry": geometry}


class OurStep:
    """The product's step, as its loop takes it."""

    def __init__(self, recipe: Recipe, batch: dict[str, np.ndarray], device: torch.device, *, mixed: bool) -> None:
        self.recipe, self.batch, self.device = recipe, batch, device
        self.precision = Precision(device, torch.bfloat16 if mixed else None)
        num = len(batch["row"])
        self.world = World(rank=0, size=1, device=device)
        plan = Plan(np.zeros(4 * num, np.int64), seed=0, global_batch=num, epochs=1)
        book = CodeBook(recipe.prototypes, recipe.pretrain.queue, plan, self.world)
        if book.queue is not None:
            fill_queue(book.queue.embeddings)
            book.queue.num_rows = recipe.pretrain.queue.length
        self.trainee = Pretrainee(recipe, book)
        self.coming = prepared(itertools.repeat(batch), self.trainee, device)

    def __call__(self) -> None:
        """Take a step."""
        _, inputs = next(self.coming)
        self.trainee.optimiser.zero_grad(set_to_none=True)
        figures = backward(
            self.trainee, self.trainee.network, inputs, step=LATE, share=1.0, world=self.world, precision=self.precision
        )
        torch.stack([value.float() for value in figures.values()]).tolist()
        self.trainee.before_update(LATE)
        self.precision.update(self.trainee.optimiser)

    def parts(self) -> dict[str, float]:
        """Take a step and return the seconds of each part, waiting for the device after each of them."""
        marks = [self._now()]
        network, optimiser = self.trainee.network, self.trainee.optimiser
        hooks = [
            network.register_forward_pre_hook(lambda *_: marks.append(self._now())),
            network.register_forward_hook(lambda *_: marks.append(self._now())),
        ]
        if self.device.type == "cuda":
            _, inputs = next(self.coming)
            marks.append(self._now())
        else:
            batch = to_device(self.batch, self.device)
            marks.append(self._now())
            inputs = self.trainee.inputs(batch)
        optimiser.zero_grad(set_to_none=True)
        with self.precision.autocast():
            losses = self.trainee.losses(network, inputs, LATE)
        marks.append(self._now())
        losses["loss"].backward()
        marks.append(self._now())
        self.trainee.before_update(LATE)
        optimiser.step()
        marks.append(self._now())
        torch.stack([value.detach().float() for value in losses.values()]).tolist()
        marks.append(self._now())
        for hook in hooks:
            hook.remove()
        parts = dict(zip(PARTS, [later - earlier for earlier, later in itertools.pairwise(marks)], strict=True))
        if self.device.type == "cuda":
            parts["data wait"] += parts.pop("augment")  # which goes on beside the step
        return parts

    def beside(self) -> dict[str, float]:
        """Return the seconds of what goes on beside a step on a GPU, done alone."""
        marks = [self._now()]
        batch = to_device(self.batch, self.device)
        marks.append(self._now())
        self.trainee.inputs(batch)
        marks.append(self._now())
        return {"copying": marks[1] - marks[0], "augment": marks[2] - marks[1]}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # not of what goes on beside it
        return time.perf_counter()


def bare_network(
    recipe: Recipe, batch: dict[str, np.ndarray], device: torch.device, *, mixed: bool
) -> Callable[[], None]:
    """Return a function that takes the network forward and back."""
    model = on_device(pretrain_model(recipe), device).train()
    tensors = to_device(batch, device)
    crops = crops_of(coloured_crops(tensors, recipe.pretrain.crops, 0), recipe.pretrain.crops)
    grids = to_grids(recipe, batch).to(device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            output = model(crops, grids if recipe.pretrain.pixel_to_pixel else None)
        outputs = [output.scores, *output.shallow_scores, output.predictions]
        torch.autograd.backward(
            [o for o in outputs if o is not None], [torch.ones_like(o) for o in outputs if o is not None]
        )

    return step


def fill_queue(rows: Tensor) -> None:
    """Put embeddings into a queue in place."""
    rows.copy_(torch.nn.functional.normalize(torch.randn_like(rows), dim=-1))


def to_grids(recipe: Recipe, batch: dict[str, np.ndarray]) -> Tensor:
    """Return the grids of the batch's crop pairs."""
    geometry = batch["geometry"]
    return torch.from_numpy(np.stack(pair_grid(geometry[:, 0], geometry[:, 1], recipe.pretrain.grid)))


def synchronise(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Setting:
    """What all contenders work on."""

    recipe: Recipe
    num: int
    """Images in a batch."""
    mixed: bool
    """Whether ours computes in bfloat16."""

    @property
    def device(self) -> torch.device:
        """Return the GPU, or the CPU where there is none."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def contender(self, name: str) -> Callable[[], Any]:
        """Return a function that takes one step."""
        recipe, device = self.recipe, self.device
        batch = make_batch(recipe, self.num)
        if name in {OURS, COMPILED}:
            ours = OurStep(recipe, batch, device, mixed=self.mixed)
            if name == COMPILED:
                compile_network(ours.trainee.network, device)
            return ours
        if name in {BARE, BARE_TUNED}:
            return bare_network(recipe, batch, device, mixed=self.mixed)
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()} | {"grids": to_grids(recipe, batch)}
        model, coloured = pretrain_model(recipe), name == PLAIN_COLOURED
        assert isinstance(model, PretrainModel)
        mixed = self.mixed if coloured else name == PLAIN_AUTOCAST
        length = recipe.pretrain.queue.length
        plain = PlainStep(recipe, model, device, mixed=mixed, queue_length=length, coloured=coloured)
        if coloured:
            found = coloured_crops(to_device(batch, device), recipe.pretrain.crops, 0)
            tensors |= {name: crops.contiguous() for name, crops in found.items()}
        return lambda: plain(tensors)


def serve(connection: Connection, name: str, setting: Setting) -> None:
    """Take as many steps as asked and tell the images/s, again and again; after 0, tell the most memory used and end.

    Ours are followed, at the end, by as many whose parts are told, and on a GPU what goes on beside them.
    """
    device = setting.device
    tune(device)
    step = setting.contender(name)
    last = 0
    while num_steps := connection.recv():
        step()
        synchronise(device)
        started, last = time.perf_counter(), num_steps
        for _ in range(num_steps):
            step()
        synchronise(device)
        connection.send(num_steps * setting.num / (time.perf_counter() - started))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the next contender needs the room
    memory_gib = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    parts, beside = [], []
    if name == OURS and isinstance(step, OurStep):
        parts = [step.parts() for _ in range(last)]
        beside = [step.beside() for _ in range(last)] if device.type == "cuda" else []
    connection.send((memory_gib, parts, beside))


class Contender:
    """A process that takes steps when asked."""

    def __init__(self, name: str, setting: Setting) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(theirs, name, setting), daemon=True)
        kept = dict(os.environ)
        for variable in [] if name in TUNED else [each for each in kept if each.startswith("MALLOC_")]:
            del os.environ[variable]
        process.start()  # a copy of this environment goes with it
        os.environ.update(kept)

    def rate(self, num_steps: int) -> float:
        """Return images/s over some steps."""
        self.connection.send(num_steps)
        return self.connection.recv()

    def end(self) -> tuple[float | None, list[dict[str, float]], list[dict[str, float]]]:
        """Return the most GPU memory used, GiB, seconds of further steps' parts and of what is beside; it ends."""
        self.connection.send(0)
        return self.connection.recv()


def summary(values: list[float]) -> dict[str, float]:
    """Return median and spread."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--batch", type=int, help="images in a batch; by default the preset's")
    parser.add_argument("--precision", choices=("recipe", "float32", "bfloat16"), default="recipe")
    parser.add_argument("--compile", action="store_true", help="measure the compiled step, too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two rounds of three steps: a check of the program")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    name, num = PRESETS[given.preset]
    num, recipe = given.batch or num, RECIPES[name]()
    if given.precision != "recipe":
        recipe = replace(recipe, mixed_precision=given.precision == "bfloat16")
    rounds, num_steps = (2, 3) if given.quick else (given.rounds, given.steps)
    setting = Setting(recipe, num, mixed=False)
    device = setting.device
    able = half_precision(device) is torch.bfloat16
    setting = replace(setting, mixed=recipe.mixed_precision and able)
    names = [OURS, PLAIN_FLOAT32, *([PLAIN_AUTOCAST] if able else []), PLAIN_COLOURED, BARE, BARE_TUNED]
    names += [COMPILED] if given.compile else []
    contenders = {name: Contender(name, setting) for name in names}
    for contender in contenders.values():
        contender.rate(5)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _, name in itertools.product(range(rounds), names):
        rates[name].append(contenders[name].rate(num_steps))
    memory_gib, seconds, beside = contenders[OURS].end()
    for name in names[1:]:
        contenders[name].end()
    shares = {part: statistics.median(each[part] / sum(each.values()) for each in seconds) for part in seconds[0]}
    peers = {"vs_eager": PLAIN_AUTOCAST if setting.mixed else PLAIN_FLOAT32, "vs_eager_float32": PLAIN_FLOAT32}
    peers["vs_eager_coloured"] = PLAIN_COLOURED
    peers |= {"of_bare_network": BARE, "of_bare_network_tuned": BARE_TUNED}
    peers |= {"vs_compiled": COMPILED} if given.compile else {}
    ratios = {
        ratio: summary([a / b for a, b in zip(rates[OURS], rates[name], strict=True)]) for ratio, name in peers.items()
    }
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads of a CPU"
    print(f"{given.preset}: batches of {num}, {'bfloat16' if setting.mixed else 'float32'}, {where}")
    for name, values in rates.items():
        print(f"  {name:<22} {statistics.median(values):9.1f} images/s ({min(values):.1f} to {max(values):.1f})")
    for name, spread in ratios.items():
        print(f"  {name:<22} {spread['median']:9.2f} ({spread['min']:.2f} to {spread['max']:.2f})")
    print("  of our step: " + ", ".join(f"{part} {share:.1%}" for part, share in shares.items()))
    alone_ms = {part: 1000 * statistics.median(each[part] for each in beside) for part in (beside or [{}])[0]}
    if alone_ms:
        print("  beside it, each alone: " + ", ".join(f"{part} {each:.1f} ms" for part, each in alone_ms.items()))
    epoch_h = IMAGENET_IMAGES / statistics.median(rates[OURS]) / 3600
    extra = "" if memory_gib is None else f", {memory_gib:.1f} GiB"
    print(f"  an epoch of ImageNet-1k on one such device: {epoch_h:.2f} h{extra}")
    if given.json:
        found = {"device": where, "batch": num, "mixed": setting.mixed, "memory_gib": memory_gib}
        found |= {"ratios": ratios, "rates": rates, "shares": shares, "beside_ms": alone_ms}
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
