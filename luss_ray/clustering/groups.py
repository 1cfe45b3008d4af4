"""Neighbouring rows that are worked on together, and the cluster that each of them is in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64, Integer

from luss_ray.clustering.kmeans import TILE_COLUMNS, half_norms, move_members, nearest_centroids

_MOVED_AT_ONCE = 4096
_DEVICE_TILE_ROWS = 1 << 15


@dataclass
class Moved:
    """How rows that have moved change the clusters of one restart."""

    sums: Float64[np.ndarray, "k C"]
    sizes: Int64[np.ndarray, " k"]


class Group:
    """Rows in memory, or mapped from a file.

    Args:
        pieces: rows of one file each, on the grid of `round_to_grid`.
    """

    def __init__(self, pieces: Sequence[Float32[np.ndarray, "_ C"]]) -> None:
        self.pieces = list(pieces)
        self.ends = np.cumsum([len(piece) for piece in pieces])
        self.clusters: dict[int, Int32[np.ndarray, " n"]] = {}

    def forget(self) -> None:
        """Put all rows back into no cluster."""
        self.clusters = {}

    def move(self, restarts: Integer[np.ndarray, " R"], centroids: Float32[np.ndarray, "R k C"]) -> Iterator[Moved]:
        """Put every row into the cluster whose centroid is nearest; yield what that changes, restart by restart.

        Args:
            restarts: their numbers.
            centroids: theirs.
        """
        k = centroids.shape[1]
        for number, now in zip(restarts.tolist(), self.nearest(centroids), strict=True):
            before = self.clusters[number] if number in self.clusters else np.full_like(now, -1)
            places = np.flatnonzero(now != before)
            new, old = now[places], before[places]
            sizes = np.bincount(new, minlength=k) - np.bincount(old[old >= 0], minlength=k)
            yield Moved(self.change(places, new, old, k), sizes)
            self.clusters[number] = now

    def nearest(self, centroids: Float32[np.ndarray, "R k C"]) -> Int32[np.ndarray, "R n"]:
        """Return the number of each row's nearest centroid."""
        return np.concatenate([nearest_centroids(piece, centroids) for piece in self.pieces], axis=1)

    def change(
        self,
        places: Int64[np.ndarray, " m"],
        new: Int32[np.ndarray, " m"],
        old: Int32[np.ndarray, " m"],
        k: int,
    ) -> Float64[np.ndarray, "k C"]:
        """Return what some rows add to their new clusters' sums and take from their old ones', exactly.

        Args:
            places: the rows, ascending.
            new: cluster of each.
            old: the cluster it was in, -1 where it was in none.
            k: clusters.
        """
        sums = np.zeros((k, self.pieces[0].shape[1]))
        for start in range(0, len(places), _MOVED_AT_ONCE):
            part = slice(start, start + _MOVED_AT_ONCE)
            move_members(sums, self.take(places[part]), new[part], old[part])
        return sums

    def take(self, places: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m C"]:
        """Return the rows at some places, which ascend."""
        starts = self.ends - [len(piece) for piece in self.pieces]
        bounds = np.searchsorted(places, np.append(starts, self.ends[-1]))
        parts = zip(self.pieces, starts, bounds[:-1], bounds[1:], strict=True)
        return np.concatenate(
            [piece[places[first:last] - start] for piece, start, first, last in parts if first < last]
        )


class DeviceGroup(Group):
    """Rows in the memory of a GPU (or of another device of torch).

    Args:
        pieces: as for `Group`.
        device: where they go.
    """

    def __init__(self, pieces: Sequence[Float32[np.ndarray, "_ C"]], device: str) -> None:
        super().__init__(pieces)
        self.tensors = [torch.from_numpy(np.ascontiguousarray(piece)).to(device) for piece in pieces]

    def nearest(self, centroids: Float32[np.ndarray, "R k C"]) -> Int32[np.ndarray, "R n"]:
        """Return the number of each row's nearest centroid; in float32."""
        num_restarts, k, _ = centroids.shape
        device = self.tensors[0].device
        there, norms = torch.from_numpy(centroids).to(device), torch.from_numpy(half_norms(centroids)).to(device)
        together, found = max(1, TILE_COLUMNS // k), []
        for tile in (tile for rows in self.tensors for tile in rows.split(_DEVICE_TILE_ROWS)):
            parts = []
            for first in range(0, num_restarts, together):
                some = slice(first, first + together)
                scores = torch.addmm(-norms[some].flatten(), tile, there[some].flatten(0, 1).T)
                parts.append(scores.view(len(tile), -1, k).argmax(dim=2).int())
            found.append(torch.cat(parts, dim=1))
        return torch.cat(found).T.cpu().numpy()

    def change(
        self,
        places: Int64[np.ndarray, " m"],
        new: Int32[np.ndarray, " m"],
        old: Int32[np.ndarray, " m"],
        k: int,
    ) -> Float64[np.ndarray, "k C"]:
        """Return the same, bit by bit, worked out on the device."""
        device, width = self.tensors[0].device, self.pieces[0].shape[1]
        sums = torch.zeros(k, width, dtype=torch.float64, device=device)
        starts = self.ends - [len(piece) for piece in self.pieces]
        bounds = np.searchsorted(places, np.append(starts, self.ends[-1]))
        for rows, start, first, last in zip(self.tensors, starts, bounds[:-1], bounds[1:], strict=True):
            for at in range(first, last, _DEVICE_TILE_ROWS):
                part = slice(at, min(at + _DEVICE_TILE_ROWS, last))
                here, now, before = (
                    torch.from_numpy(numbers[part]).to(device) for numbers in (places - start, new, old)
                )
                wide, left = rows[here].double(), before >= 0
                sums.index_add_(0, now, wide)
                sums.index_add_(0, before[left], wide[left], alpha=-1)
        return sums.cpu().numpy()
