"""What a training stage consumed of its plan: left beside its weights, and audited from there."""

import socket
from dataclasses import dataclass
from typing import Any

from luss_ray.core.errors import UserError
from luss_ray.data.audit import Consumption, EpochAudit, expected_consumption
from luss_ray.data.plan import Plan
from luss_ray.data.stream import StreamSpec
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.train.checkpoint import CheckpointStore

ORDER, CONSUMPTION, CHECKPOINTS = "order.json", "consumption.json", "checkpoints"
NOT_FINITE, STALLS = "not_finite.json", "stalls"


@dataclass(frozen=True, kw_only=True)
class StageAudit:
    """A training stage, planned and real."""

    stage: str
    """Its folder below the run's."""
    step: int
    """Global steps done: all of them, or those up to the newest checkpoint."""
    num_steps: int
    """Global steps of the whole stage."""
    epochs: list[EpochAudit]
    """Every epoch that was begun."""
    quarantined: dict[str, str]
    """Samples that couldn't be used, as shard URI#key, and what was used instead."""

    @property
    def adds_up(self) -> bool:
        """Whether exactly the planned samples were consumed."""
        return not any(epoch.finding for epoch in self.epochs)


def write_order(folder: Location, spec: StreamSpec) -> None:
    """Leave in a stage's folder what its plan follows from."""
    order = {
        "data": spec.data.uri,
        "digest": ShardedDataset.open(spec.data).digest,
        "split": spec.split,
        "seed": spec.seed,
        "global_batch": spec.global_batch,
        "epochs": spec.epochs,
    }
    folder.write_json(ORDER, order)


def check_seen(folder: Location) -> None:
    """Refuse a stage's folder that this machine can't see.

    Raises:
        UserError: what the driver wrote there is not there.
    """
    if not folder.exists(ORDER):
        raise UserError(
            f"{folder.uri} is on another machine than {socket.gethostname()}, which is to train: "
            "give --storage s3://bucket/prefix, or a folder that all nodes share"
        )


def write_consumption(folder: Location, step: int, consumption: Consumption, quarantined: dict[str, str]) -> None:
    """Leave in a stage's folder what was consumed by its end."""
    folder.write_json(CONSUMPTION, {"step": step, "consumed": consumption.to_dict(), "quarantined": quarantined})


def write_not_finite(folder: Location, step: int, reason: str, samples: list[str]) -> None:
    """Add to a stage's folder what a step that was not finite was made of: the samples of its global batch."""
    before = folder.read_json(NOT_FINITE) if folder.exists(NOT_FINITE) else []
    folder.write_json(NOT_FINITE, [*before, {"step": step, "figures": reason, "samples": samples}])


def audit_run(run: Location) -> list[StageAudit]:
    """Return what became of the plan of every training stage of a run that was begun.

    Raises:
        UserError: no training stage was begun there, or its dataset is gone or replaced.
    """
    return [_audit_stage(run, stage) for stage in begun_stages(run)]


def begun_stages(run: Location) -> list[str]:
    """Return the names of a run's training stages that were begun; UserError where there are none."""
    begun = [name.rpartition("/")[0] for name in run.list(suffix=ORDER)]
    if not begun:
        raise UserError(f"{run.uri} has no training stage that was begun: give the folder of a run, STORAGE/NAME")
    return begun


def _audit_stage(run: Location, stage: str) -> StageAudit:
    folder = run / stage
    plan, state = _plan(folder.read_json(ORDER)), _state(folder)
    expected = expected_consumption(plan, state["step"])
    return StageAudit(
        stage=stage,
        step=state["step"],
        num_steps=plan.num_steps,
        epochs=Consumption.from_dict(state["consumed"]).compare(expected),
        quarantined=state["quarantined"],
    )


def _plan(order: dict[str, Any]) -> Plan:
    data = ShardedDataset.open(Location.parse(order["data"]))
    if data.digest != order["digest"]:
        raise UserError(f"the dataset at {order['data']} was replaced since the run: its order can't be audited")
    shard_ids = data.split(order["split"]).shard_ids
    return Plan(shard_ids, seed=order["seed"], global_batch=order["global_batch"], epochs=order["epochs"])


def _state(folder: Location) -> dict[str, Any]:
    """Return step, consumption and quarantine: at the stage's end, or at its newest checkpoint."""
    if folder.exists(CONSUMPTION):
        return folder.read_json(CONSUMPTION)
    about = CheckpointStore(folder / CHECKPOINTS).newest_about()
    if about is None:
        return {"step": 0, "consumed": {}, "quarantined": {}}
    return {"step": about["step"], "consumed": about["consumption"], "quarantined": about["quarantined"]}
