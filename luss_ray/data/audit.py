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
    replaced: int = 0
    """Of these, samples that couldn't be read and in whose place another was used."""

    def __add__(self, other: "EpochUse") -> "EpochUse":
        return EpochUse(
            count=self.count + other.count,
            digest=(self.digest + other.digest) % _WRAP,
            replaced=self.replaced + other.replaced,
        )

    def is_of(self, wanted: "EpochUse") -> bool:
        """Return whether exactly the wanted samples were asked for, replaced or not."""
        return (self.count, self.digest) == (wanted.count, wanted.digest)


@dataclass(kw_only=True)
class Consumption:
    """What one rank, or all ranks merged, consumed of every epoch."""

    epochs: dict[int, EpochUse] = field(default_factory=dict)
    """Use of each epoch that was begun, by epoch number."""

    def add(
        self,
        epochs: Int[np.ndarray, " n"],
        rows: Int[np.ndarray, " n"],
        used_rows: Int[np.ndarray, " n"] | None = None,
    ) -> None:
        """Count n consumed samples.

        Args:
            epochs: epoch of each.
            rows: the rows that the plan asks for.
            used_rows: those that took their place, the same where nothing was wrong with them; `rows` unless given.
        """
        epochs, rows = np.asarray(epochs), np.asarray(rows)
        hashes, replaced = _pair_hashes(epochs, rows), rows != (rows if used_rows is None else used_rows)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            digest = int(hashes[here].sum(dtype=np.uint64))
            use = EpochUse(count=int(here.sum()), digest=digest, replaced=int(replaced[here].sum()))
            self.epochs[epoch] = self.epochs.get(epoch, EpochUse()) + use

    def __add__(self, other: "Consumption") -> "Consumption":
        """Return both together: of two ranks, or of the time before and after a restart."""
        merged = {
            e: self.epochs.get(e, EpochUse()) + other.epochs.get(e, EpochUse()) for e in self.epochs | other.epochs
        }
        return Consumption(epochs=dict(sorted(merged.items())))

    def to_dict(self) -> dict[str, list[int]]:
        """Return {epoch: [count, digest, replaced]} for JSON."""
        return {str(epoch): [use.count, use.digest, use.replaced] for epoch, use in self.epochs.items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, list[int]]) -> "Consumption":
        """Return what `to_dict` stored."""
        return cls(
            epochs={
                int(epoch): EpochUse(count=count, digest=digest, replaced=replaced)
                for epoch, (count, digest, replaced) in stored.items()
            }
        )

    def compare(self, expected: "Consumption") -> list["EpochAudit"]:
        """Return what became of each epoch that was begun, or should have been."""
        return [
            EpochAudit(epoch=epoch, expected=expected.epochs.get(epoch, EpochUse()), used=use)
            for epoch, use in sorted((dict.fromkeys(expected.epochs, EpochUse()) | self.epochs).items())
        ]


@dataclass(frozen=True, kw_only=True)
class EpochAudit:
    """One epoch, planned and real."""

    epoch: int
    expected: EpochUse
    used: EpochUse

    @property
    def finding(self) -> str:
        """What is wrong; empty where everything adds up."""
        surplus = self.used.count - self.expected.count
        if surplus:
            return f"{abs(surplus)} {'doubled' if surplus > 0 else 'missing'}"
        return "" if self.used.is_of(self.expected) else "others than planned"


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
