"""The one step loop: pretraining, pixel attention and fine-tuning all run through `Trainer`."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from luss_ray.core.errors import UserError
from luss_ray.data.audit import Consumption
from luss_ray.data.stream import Batch, StreamSpec, started, stream
from luss_ray.optim.schedule import cosine_rate
from luss_ray.train.assignment import Assignment
from luss_ray.train.checkpoint import Checkpoint, CheckpointStore, load_optimiser, optimiser_tensors, section
from luss_ray.train.figures import METRICS, Figures
from luss_ray.train.ledger import CHECKPOINTS, NOT_FINITE, write_consumption, write_not_finite
from luss_ray.train.optimiser import RATE
from luss_ray.train.stall import StallGuard
from luss_ray.train.step import GRADIENT_NORM, Precision, backward, compile_network, prepared
from luss_ray.train.trainee import Trainee, World

_ASK_EVERY_S = 2.0


class NotFiniteError(Exception):
    """The loss, before an update, or the weights, before they are saved, are not finite; on all ranks alike.

    Args:
        figures: what is not.
        step: whose update it was, or would have been.
    """

    def __init__(self, figures: str, step: int) -> None:
        super().__init__(figures)
        self.figures, self.step = figures, step


@dataclass(frozen=True)
class Wishes:
    """What rank 0 wants all ranks to do after a step."""

    checkpoint: bool = False
    """Save the state."""
    ask: bool = False
    """Ask Ray whether a node is about to be taken away."""


class Trainer:
    """The state of one worker while it trains."""

    def __init__(self, assignment: Assignment, world: World, guard: StallGuard) -> None:
        self.given, self.world, self.guard = assignment, world, guard
        self.spec: StreamSpec = assignment.task.stream()
        self.plan = self.spec.open_plan()
        self.store = CheckpointStore(assignment.folder / CHECKPOINTS)
        found = self.find_checkpoint()
        self.step = 0 if found is None else found
        self.batches = started(self.stream())
        self.trainee: Trainee = assignment.task.build(world)
        self.figures = Figures(
            stage=assignment.task.name,
            rank=world.rank,
            num_steps=self.plan.num_steps,
            batch_size=assignment.task.optimisation.batch_size,
            show=assignment.monitor.advance.remote,
            note=assignment.monitor.note.remote,
            track=assignment.monitor.track.remote if assignment.tracked else None,
        )
        self.checkpointed = self.asked = time.monotonic()
        self.announced: set[str] = set()
        self.consumption = Consumption()
        self.quarantined: dict[str, str] = {}
        if assignment.compiled:
            compile_network(self.trainee.network, world.device)
        self.precision = Precision.best(world.device, mixed=assignment.task.recipe.mixed_precision)
        if found is not None:
            self.resume(self.store.load(found))
            if world.rank == 0:
                self.tell(f"{world.size} worker{'s' if world.size > 1 else ''} from step {found} on")

    def find_checkpoint(self) -> int | None:
        """Return the step of the newest checkpoint; rank 0 looks, so that all ranks take the same."""
        found = None
        if self.world.rank == 0:
            self.store.clear_leftovers()
            found = self.store.newest(self.given.settings)
        return self.world.from_first(found)

    def run(self) -> bool:
        """Take every remaining step and leave the weights; return False where it must go on from a checkpoint."""
        try:
            self.take_steps()
            self.check_weights()
        except NotFiniteError as error:
            self.give_up_steps(error)
            return False
        self.leave_weights()
        return True

    def take_steps(self) -> None:
        """Take every remaining step."""
        network = self.parallel()
        with contextlib.closing(prepared(self.batches, self.trainee, self.world.device)) as coming:
            for batch, inputs in self.figures.noting_waits(coming):
                self.account(batch)
                wishes = self.take_step(network, inputs)
                self.guard.alive()
                if self.step < self.plan.num_steps:
                    self.fulfil(wishes)

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

    def take_step(self, network: nn.Module, batch: dict[str, Tensor]) -> Wishes:
        """One update of the weights from one global batch; return what rank 0 wants done after it.

        Raises:
            NotFiniteError: the loss is not finite on some rank; no rank has updated its weights.
        """
        optimiser, schedule = self.trainee.optimiser, self.given.task.optimisation
        lr = cosine_rate(
            self.step,
            num_steps=self.plan.num_steps,
            base=schedule.lr,
            final=schedule.final_lr,
            num_warmup_steps=schedule.num_warmup_steps(self.plan.num_steps / schedule.epochs),
        )
        for group in optimiser.param_groups:
            group["lr"] = lr * group.get(RATE, 1.0)
        optimiser.zero_grad(set_to_none=True)
        share = len(batch["row"]) / schedule.batch_size
        shares = backward(
            self.trainee, network, batch, step=self.step, share=share, world=self.world, precision=self.precision
        )
        figures, wishes = self.over_ranks(shares)
        if self.precision.overflowed(figures):
            figures[GRADIENT_NORM] = 0.0  # this update is left out
        if not all(math.isfinite(value) for value in figures.values()):
            raise NotFiniteError(", ".join(f"{name} {value:.4g}" for name, value in figures.items()), self.step)
        self.trainee.before_update(self.step)
        self.precision.update(optimiser)
        self.step += 1
        self.figures.record(self.step, figures | {"lr": lr}, num_bad=len(self.quarantined))
        return wishes

    def over_ranks(self, shares: dict[str, Tensor]) -> tuple[dict[str, float], Wishes]:
        """Return the sums over all ranks of figures already weighted by each rank's share, and rank 0's wishes.

        These travel with the figures, so that all ranks do the same after the same step and nobody waits once more.
        """
        mine = self.wishes() if self.world.rank == 0 else Wishes()
        values = torch.stack([value.float() for value in shares.values()])
        flags = torch.tensor([float(mine.checkpoint), float(mine.ask)]).to(values.device, non_blocking=True)
        *total, checkpoint, ask = self.world.sum(torch.cat([values, flags])).tolist()
        return dict(zip(shares, total, strict=True)), Wishes(checkpoint=checkpoint > 0, ask=ask > 0)

    def wishes(self) -> Wishes:
        """Return what is to be done by the clock."""
        now = time.monotonic()
        return Wishes(
            checkpoint=now - self.checkpointed > self.given.limits.checkpoint_every_s,
            ask=self.given.preemptible and now - self.asked > _ASK_EVERY_S,
        )

    def fulfil(self, wishes: Wishes) -> None:
        """Do what rank 0 wants done between two steps; on all ranks."""
        if wishes.checkpoint:
            self.save_checkpoint()
        if wishes.ask:
            self.ask_for_notice()

    def ask_for_notice(self) -> None:
        """Save at once where a node is about to be taken away; asked by all ranks together."""
        self.asked = time.monotonic()
        notice = ray.train.get_preemption_info()
        nodes = set(notice.preempted_node_ids) if notice else set()
        if nodes - self.announced:
            self.announced |= nodes
            self.save_checkpoint()
            if self.world.rank == 0:
                self.store.wait()
                self.tell(f"{len(nodes)} node(s) will be taken away; checkpoint at step {self.step}")

    def check_weights(self) -> None:
        """Raise NotFiniteError unless all parameters are finite; they are the same on every rank."""
        if not torch.stack([p.isfinite().all() for p in self.trainee.network.parameters()]).all():
            raise NotFiniteError("weights", self.step - 1)

    def give_up_steps(self, error: NotFiniteError) -> None:
        """Record the samples of the step that failed and stop the stream; refuse to go on after too many times.

        Raises:
            UserError: this happened more than `max_rewinds` times.
        """
        self.batches.close()
        if self.world.rank == 0:
            self.store.wait()
            name, limit = self.given.task.name, self.given.limits.max_rewinds
            rows, split = self.plan.slice(error.step, 0, 1)[1], self.spec.open_split()
            write_not_finite(
                self.given.folder, error.step, error.figures, [split.sample_uri(row) for row in rows.tolist()]
            )
            times: Any = ray.get(self.given.monitor.rewind.remote())
            what = f"not finite at step {error.step} ({error.figures})"
            if times > limit:
                where = self.given.folder.child(NOT_FINITE).uri
                raise UserError(
                    f"{name}: {what}, and {limit} times before: lower the learning rate, look at {where}, "
                    "or allow more --max-rewinds"
                )
            self.tell(f"{what}; goes back to the newest checkpoint")

    def tell(self, line: str) -> None:
        """Let people know."""
        ray.get(self.given.monitor.note.remote(line))

    def parallel(self) -> nn.Module:
        """Return the network, wrapped to average gradients where there are several workers."""
        if self.world.size == 1:
            return self.trainee.network
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(self.trainee.network, device_ids=devices, broadcast_buffers=False)

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
        limit = self.given.limits.max_bad_samples
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
        self.precision.load_state(section(found.tensors, "precision"))
        self.figures.go_on(found.history)
        if self.world.rank == 0:
            self.consumption = Consumption.from_dict(found.consumption)
            self.put_aside(found.quarantined)

    def save_checkpoint(self) -> None:
        """Write the state of all ranks, in the background, from rank 0.

        Raises:
            NotFiniteError: the weights are not finite; the newest checkpoint stays.
        """
        self.check_weights()
        consumption, quarantined = self.gather()
        self.checkpointed = time.monotonic()
        if self.world.rank != 0:
            return
        tensors = {f"network/{key}": value for key, value in self.trainee.network.state_dict().items()}
        tensors |= {f"optimiser/{key}": value for key, value in optimiser_tensors(self.trainee.optimiser).items()}
        tensors |= {f"trainee/{key}": value for key, value in self.trainee.state().items()}
        tensors |= {f"precision/{key}": value for key, value in self.precision.state().items()}
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
        self.given.monitor.save.remote()

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
        """Publish weights and figures; checkpoints stay until the driver has seen all workers end."""
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
        if self.world.size > 1:
            dist.barrier()
