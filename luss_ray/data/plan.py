"""The canonical order: which samples form global batch g, for all epochs in one continuous sequence.

An epoch's order is made of *runs*: neighbouring rows of one shard, which a reader fetches with one range request.
The runs are shuffled, laid end to end, and the line is cut into `global_batch` lanes of equal length; the order takes
one row from each lane in turn. So a global batch draws on `global_batch` places of the dataset at once, and a rank,
whose slice of every global batch is the same lanes, reads its runs whole and no other rank's.
"""

import numpy as np
from jaxtyping import Int, Int64

from luss_ray.core.errors import UserError
from luss_ray.core.seeds import ORDER, generator

RUNS_PER_LANE = 16


class Plan:
    """The order of all samples of a training run, a pure function of its arguments; the cursor is the global step.

    Args:
        shard_ids: shard number of each row of the dataset, N of them; rows of one shard stand together.
        seed: the run's seed.
        global_batch: samples of a global batch, over all ranks.
        epochs: passes over the dataset.
        run_rows: rows of a run at most. Small datasets get shorter ones, so that each lane crosses at least
            `RUNS_PER_LANE` runs an epoch and neither shuffling nor mixing suffers.

    Raises:
        UserError: no rows, no epochs, or less data than one global batch.
    """

    def __init__(
        self, shard_ids: Int[np.ndarray, " N"], *, seed: int, global_batch: int, epochs: int, run_rows: int = 32
    ) -> None:
        self.shard_ids = np.asarray(shard_ids)
        self.num_rows = len(self.shard_ids)
        self.seed, self.global_batch, self.epochs = seed, global_batch, epochs
        if min(self.num_rows, global_batch, epochs) < 1 or self.num_steps < 1:
            raise UserError(
                f"{self.num_rows} images x {epochs} epochs do not fill one global batch of {global_batch}: "
                "give more images or epochs, or a smaller global batch"
            )
        self.run_rows = int(np.clip(self.num_rows // (RUNS_PER_LANE * global_batch), 1, run_rows))
        self._orders: dict[int, np.ndarray] = {}

    @property
    def num_steps(self) -> int:
        """Global steps of the whole run; the last incomplete global batch is left out."""
        return self.epochs * self.num_rows // self.global_batch

    def batch(self, step: int) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
        """Return (epochs, rows) of global batch `step`; a batch may straddle two epochs."""
        return self.slice(step, 0, 1)

    def slice(self, step: int, rank: int, world: int) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """Return (epochs, rows) of one rank's slice of global batch `step`; joined over the ranks it is the batch.

        Args:
            step: global step, 0 up to `num_steps`.
            rank: this rank, 0 up to `world`.
            world: number of ranks.
        """
        assert 0 <= step < self.num_steps and 0 <= rank < world
        start, stop = self.bounds(rank, world)
        return self.sequence(step * self.global_batch + start, step * self.global_batch + stop)

    def bounds(self, rank: int, world: int) -> tuple[int, int]:
        """Return where a rank's slice of every global batch begins and ends."""
        return rank * self.global_batch // world, (rank + 1) * self.global_batch // world

    def sizes(self, world: int) -> list[int]:
        """Return every rank's number of samples in each global batch; they differ by one at most."""
        return [stop - start for start, stop in (self.bounds(rank, world) for rank in range(world))]

    def sequence(self, start: int, stop: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Return (epochs, rows) of places `start` up to `stop` of the continuous sequence over all epochs."""
        epochs, places = np.divmod(np.arange(start, stop), self.num_rows)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self.order(int(epoch))[places[chosen]]
        return epochs, rows

    def order(self, epoch: int) -> Int64[np.ndarray, " N"]:
        """Return the rows of one epoch in the order they are used: a permutation. The last two asked for are kept."""
        if epoch not in self._orders:
            kept = dict(list(self._orders.items())[-1:])
            self._orders = kept | {epoch: self._make_order(epoch)}
        return self._orders[epoch]

    def _make_order(self, epoch: int) -> np.ndarray:
        line = self._shuffled_runs(generator(self.seed, ORDER, epoch))
        num_lanes = min(self.global_batch, self.num_rows)
        rows_per_lane, num_longer = divmod(self.num_rows, num_lanes)
        lane_starts = np.arange(num_lanes) * rows_per_lane + np.minimum(np.arange(num_lanes), num_longer)
        offsets, lanes = np.divmod(np.arange(self.num_rows), num_lanes)
        return line[lane_starts[lanes] + offsets]

    def _shuffled_runs(self, random: np.random.Generator) -> np.ndarray:
        """Return all rows, run after run; cuts between the runs move from epoch to epoch, so their company changes."""
        rows = np.arange(self.num_rows)
        new_run = (rows + random.integers(self.run_rows)) % self.run_rows == 0
        new_run[0] = True
        new_run[1:] |= self.shard_ids[1:] != self.shard_ids[:-1]
        starts = np.flatnonzero(new_run)
        lengths = np.diff(starts, append=self.num_rows)
        shuffled = random.permutation(len(starts))
        starts, lengths = starts[shuffled], lengths[shuffled]
        first_places = np.cumsum(lengths) - lengths
        return np.repeat(starts - first_places, lengths) + rows

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_orders": {}}
