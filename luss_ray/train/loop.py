"""The one step loop: pretraining, pixel attention and fine-tuning all run through `train_worker`."""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from luss_ray.core.errors import UserError
from luss_ray.data.audit import Consumption
from luss_ray.data.stream import Batch, StreamSpec, started, stream
from luss_ray.optim.schedule import cosine_rate
from luss_ray.storage.uri import Location
from luss_ray.train.checkpoint import Checkpoint, CheckpointStore, load_optimiser, optimiser_tensors, section
from luss_ray.train.figures import METRICS, Figures
from luss_ray.train.ledger import CHECKPOINTS, write_consumption
from luss_ray.train.task import Task, Trainee, World


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker is told: sent to all of them, the same for all."""

    task: Task
    folder: Location
    """Where the stage leaves weights, figures and checkpoints."""
    settings: str
    """Digest of everything that influences the result."""
    num_loaders: int
    """Ray Data actors that decode for one worker."""
    loader_cpus: float
    """Logical CPUs that each of them takes."""
    num_threads: int
    """Threads of the mathematics on a CPU worker."""
    checkpoint_every_s: float
    max_bad_samples: int
    """Unreadable samples after which the run is refused."""
    monitor: Any
    """Handle of the Monitor actor."""


def train_worker(assignment: Assignment) -> None:
    """Run a training stage in one worker of the group, from the newest checkpoint to its end."""
    if ray.get(assignment.monitor.snapshot.remote())[2]:
        return
    try:
        Trainer(assignment).run()
    except UserError as error:
        ray.get(assignment.monitor.refuse.remote(str(error)))
        raise


class Trainer:
    """The state of one worker while it trains."""

    def __init__(self, assignment: Assignment) -> None:
        self.given = assignment
        self.world = _join_world(assignment.num_threads)
        self.spec: StreamSpec = assignment.task.stream()
        self.plan = self.spec.open_plan()
        self.store = CheckpointStore(assignment.folder / CHECKPOINTS)
        found = self.store.latest(assignment.settings)
        self.step = 0 if found is None else found.step
        self.batches = started(self.stream())
        self.trainee: Trainee = assignment.task.build(self.world)
        self.figures = Figures(
            stage=assignment.task.name,
            rank=self.world.rank,
            num_steps=self.plan.num_steps,
            batch_size=assignment.task.optimisation.batch_size,
            show=assignment.monitor.advance.remote,
        )
        self.checkpointed = time.monotonic()
        self.consumption = Consumption()
        self.quarantined: dict[str, str] = {}
        self.mixed = assignment.task.recipe.mixed_precision and _has_bfloat16(self.world.device)
        if found is not None:
            self.resume(found)

    def run(self) -> None:
        """Take every remaining step, leave the weights."""
        network = self.parallel()
        for batch in self.figures.noting_waits(self.batches):
            self.account(batch)
            self.take_step(network, self.to_device(batch))
            if self.checkpoint_is_due():
                self.save_checkpoint()
        self.leave_weights()

    def stream(self) -> Iterator[Batch]:
        """Return this worker's part of the remaining global batches."""
        return stream(
            self.spec,
            rank=self.world.rank,
            world=self.world.size,
            start_step=self.step,
            num_steps=self.plan.num_steps,
            num_loaders=self.given.num_loaders,
            loader_cpus=self.given.loader_cpus,
            num_threads=2,
        )

    def take_step(self, network: nn.Module, batch: dict[str, Tensor]) -> None:
        """One update of the weights from one global batch.

        The losses are means over this rank's samples and gradients are averaged over ranks, so the loss is weighted by
        the rank's share of the global batch: uneven slices give exactly the gradient of the whole batch.
        """
        optimiser, schedule = self.trainee.optimiser, self.given.task.optimisation
        lr = cosine_rate(
            self.step,
            num_steps=self.plan.num_steps,
            base=schedule.lr,
            final=schedule.final_lr,
            num_warmup_steps=schedule.warmup_steps,
        )
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.mixed):
            losses = self.trainee.losses(network, batch, self.step)
        share = len(batch["row"]) / schedule.batch_size
        (losses["loss"] * share * self.world.size).backward()
        figures = self.mean_over_ranks({name: value.detach() * share for name, value in losses.items()})
        if not all(math.isfinite(value) for value in figures.values()):
            raise FloatingPointError(f"{self.given.task.name}: non-finite loss at step {self.step}: {figures}")
        self.trainee.before_update(self.step)
        optimiser.step()
        self.step += 1
        self.figures.record(self.step, figures | {"lr": lr}, num_bad=len(self.quarantined))

    def mean_over_ranks(self, shares: dict[str, Tensor]) -> dict[str, float]:
        """Return the sums over all ranks of figures already weighted by each rank's share."""
        total = self.world.sum(torch.stack([value.float() for value in shares.values()]))
        return dict(zip(shares, total.tolist(), strict=True))

    def parallel(self) -> nn.Module:
        """Return the network, wrapped to average gradients where there are several workers."""
        if self.world.size == 1:
            return self.trainee.network
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(self.trainee.network, device_ids=devices, broadcast_buffers=False)

    def to_device(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the arrays as tensors on this worker's device."""
        return {name: torch.as_tensor(array).to(self.world.device, non_blocking=True) for name, array in batch.items()}

    def account(self, batch: dict[str, Any]) -> None:
        """Count the samples used; put aside those that couldn't be read."""
        self.consumption.add(batch["epoch"], batch["row"], batch["used_row"])
        replaced = batch["row"] != batch["used_row"]
        if replaced.any():
            split = self.spec.open_split()
            pairs = zip(batch["row"][replaced], batch["used_row"][replaced], strict=True)
            self.put_aside({split.sample_uri(bad): split.sample_uri(used) for bad, used in pairs})

    def put_aside(self, replacements: dict[str, str]) -> None:
        """Remember samples that can't be used; refuse to go on when all workers together met too many."""
        new = replacements.keys() - self.quarantined.keys()
        self.quarantined |= replacements
        limit = self.given.max_bad_samples
        num_bad: Any = ray.get(self.given.monitor.put_aside.remote(sorted(new))) if new else 0
        if num_bad > limit:
            raise UserError(
                f"{self.spec.data.uri}: more than {limit} unreadable images (e.g. {min(new)}); "
                "run shards/verify.py, or allow more with --max-bad-samples"
            )

    def resume(self, found: Checkpoint) -> None:
        """Load a checkpoint; on every rank."""
        self.trainee.network.load_state_dict(section(found.tensors, "network"))
        load_optimiser(self.trainee.optimiser, section(found.tensors, "optimiser"))
        self.trainee.load_state(section(found.tensors, "trainee"))
        self.figures.history = found.history
        if self.world.rank == 0:
            self.consumption = Consumption.from_dict(found.consumption)
            self.put_aside(found.quarantined)

    def checkpoint_is_due(self) -> bool:
        """Return whether to save now; rank 0's clock decides for all."""
        if self.step == self.plan.num_steps:
            return False
        due = torch.tensor([float(time.monotonic() - self.checkpointed > self.given.checkpoint_every_s)])
        due = due.to(self.world.device)
        if self.world.size > 1:
            dist.broadcast(due, 0)
        return bool(due.item())

    def save_checkpoint(self) -> None:
        """Write the state of all ranks, in the background, from rank 0."""
        consumption, quarantined = self.gather()
        self.checkpointed = time.monotonic()
        if self.world.rank != 0:
            return
        tensors = {f"network/{key}": value for key, value in self.trainee.network.state_dict().items()}
        tensors |= {f"optimiser/{key}": value for key, value in optimiser_tensors(self.trainee.optimiser).items()}
        tensors |= {f"trainee/{key}": value for key, value in self.trainee.state().items()}
        self.store.save(
            Checkpoint(
                step=self.step,
                settings=self.given.settings,
                consumption=consumption.to_dict(),
                history=list(self.figures.history),
                quarantined=quarantined,
                tensors=tensors,
            )
        )
        self.given.folder.write(METRICS, self.figures.to_jsonl())

    def gather(self) -> tuple[Consumption, dict[str, str]]:
        """Return consumption and quarantine of all ranks."""
        mine = (self.consumption.to_dict(), self.quarantined)
        everyone: list[Any] = [mine]
        if self.world.size > 1:
            everyone = [None] * self.world.size
            dist.all_gather_object(everyone, mine)
        total, quarantined = Consumption(), {}
        for consumption, replacements in everyone:
            total = total + Consumption.from_dict(consumption)
            quarantined |= replacements
        return total, dict(sorted(quarantined.items()))

    def leave_weights(self) -> None:
        """Publish weights and figures; the stage is complete when they lie there."""
        consumption, quarantined = self.gather()
        if self.world.rank == 0:
            self.store.wait()
            folder = self.given.folder
            weights = {
                key: value.detach().cpu().contiguous() for key, value in self.trainee.network.state_dict().items()
            }
            self.given.folder.write(METRICS, self.figures.to_jsonl())
            write_consumption(folder, self.step, consumption, quarantined)
            folder.write("weights.safetensors", safetensors.torch.save(weights))
            (folder / CHECKPOINTS).delete_prefix("")
        if self.world.size > 1:
            dist.barrier()


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; where it is emulated float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _join_world(num_threads: int) -> World:
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        torch.set_num_threads(num_threads)
    return World(rank=context.get_world_rank(), size=context.get_world_size(), device=device)
