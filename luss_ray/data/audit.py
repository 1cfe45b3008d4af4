"""What was really consumed: a count and an order-free hash of (epoch, row) pairs, to compare with the plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from luss_ray.data.plan import Plan

_WRAP = 1 << 64


@dataclass(frozen=True, kw_only=True)
class EpochUse:
    """How often and which samples of one epoch were consumed."""

    count: int = 0
    """Samples consumed, doubled ones counted twice."""
    digest: int = 0
    """Sum of the pairs' 64-bit hashes modulo 2**64: the same for any order, other for a missing or doubled sample."""

    def __add__(self, other: "EpochUse") -> "EpochUse":
        return EpochUse(count=self.count + other.count, digest=(self.digest + other.digest) % _WRAP)


@dataclass(kw_only=True)
class Consumption:
    """What one rank, or all ranks merged, consumed of every epoch."""

    epochs: dict[int, EpochUse] = field(default_factory=dict)
    """Use of each epoch that was begun, by epoch number."""

    def add(self, epochs: Int[np.ndarray, " n"], rows: Int[np.ndarray, " n"]) -> None:
        """Count n consumed samples."""
        hashes = _pair_hashes(np.asarray(epochs), np.asarray(rows))
        for epoch in np.unique(epochs).tolist():
            chosen = hashes[np.asarray(epochs) == epoch]
            use = EpochUse(count=len(chosen), digest=int(chosen.sum(dtype=np.uint64)))
            self.epochs[epoch] = self.epochs.get(epoch, EpochUse()) + use

    def __add__(self, other: "Consumption") -> "Consumption":
        """Return both together: of two ranks, or of the time before and after a restart."""
        merged = {
            e: self.epochs.get(e, EpochUse()) + other.epochs.get(e, EpochUse()) for e in self.epochs | other.epochs
        }
        return Consumption(epochs=dict(sorted(merged.items())))

    def to_dict(self) -> dict[str, list[int]]:
        """Return {epoch: [count, digest]} for JSON."""
        return {str(epoch): [use.count, use.digest] for epoch, use in self.epochs.items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, list[int]]) -> "Consumption":
        """Return what `to_dict` stored."""
        return cls(
            epochs={int(epoch): EpochUse(count=count, digest=digest) for epoch, (count, digest) in stored.items()}
        )

    def compare(self, expected: "Consumption") -> dict[int, tuple[int, int, bool]]:
        """Return {epoch: (expected count, consumed count, whether exactly the expected samples were consumed)}."""
        nothing = EpochUse()
        pairs = {
            e: (expected.epochs.get(e, nothing), self.epochs.get(e, nothing)) for e in expected.epochs | self.epochs
        }
        return {epoch: (wanted.count, used.count, wanted == used) for epoch, (wanted, used) in sorted(pairs.items())}


def expected_consumption(plan: Plan, upto_step: int) -> Consumption:
    """Return what all ranks together must have consumed when global steps 0 up to `upto_step` are done."""
    consumption = Consumption()
    num_full, num_begun = divmod(upto_step * plan.global_batch, plan.num_rows)
    for epoch in range(num_full):
        consumption.add(np.full(plan.num_rows, epoch), np.arange(plan.num_rows))
    if num_begun:
        consumption.add(np.full(num_begun, num_full), plan.order(num_full)[:num_begun])
    return consumption


def _pair_hashes(epochs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return splitmix64's finalisation of each pair, twice over, so that neither epochs nor rows add up linearly."""
    return _mixed(_mixed(epochs.astype(np.uint64)) + rows.astype(np.uint64))


def _mixed(words: np.ndarray) -> np.ndarray:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
