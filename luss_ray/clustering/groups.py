"""Neighbouring rows that are worked on together, and the cluster that each of them is in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Integer

from luss_ray.clustering.kmeans import move_members
from luss_ray.clustering.nearest import (
    TILE_COLUMNS,
    Nearest,
    decide,
    half_norms,
    largest_norm,
    nearest_centroids,
    rounding,
    tile_rows,
)

_MOVED_AT_ONCE = 4096
_DEVICE_SHARE = 0.7
"""Of the free memory of a GPU that rows may take."""
_DEVICE_TILE_ROWS = 1 << 15
_WORTH_SKIPPING = 0.8
"""Share of all distances above which all of them are worked out."""
_FEW_LOOSE = 0.3


@dataclass
class Moved:
    """How rows that have moved change the clusters of one restart."""

    sums: Float64[np.ndarray, "k C"]
    sizes: Int64[np.ndarray, " k"]


@dataclass
class Placed:
    """Where the rows of a group are in one restart."""

    clusters: Int32[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    """Of each row with its centroid, see `Nearest`; within `rounding`."""


class Group:
    """Rows in memory, or mapped from a file.

    A centroid whose cluster has neither lost nor won a row stays where it is. So a row of a cluster like that need only
    be compared with the centroids that did move: late in a clustering these are few.

    Args:
        pieces: rows of one file each, on the grid of `round_to_grid`.

    Source: Kaukoranta, Franti & Nevalainen, "A fast exact GLA based on code vector activity detection", IEEE
    Transactions on Image Processing 9(8), 2000.
    """

    def __init__(self, pieces: Sequence[Float32[np.ndarray, "_ C"]]) -> None:
        self.pieces = list(pieces)
        self.ends = np.cumsum([len(piece) for piece in pieces])
        self.placed: dict[int, Placed] = {}
        self._norm = max(largest_norm(piece) for piece in pieces)

    def forget(self) -> None:
        """Put all rows back into no cluster."""
        self.placed = {}

    def move(
        self,
        restarts: Integer[np.ndarray, " R"],
        centroids: Float32[np.ndarray, "R k C"],
        changed: Bool[np.ndarray, "R k"],
    ) -> Iterator[Moved]:
        """Put every row into the cluster whose centroid is nearest; yield what that changes, restart by restart.

        Which one that is depends on the row and the centroids alone, bit by bit: not on the pass before, the other
        rows, or the processor.

        Args:
            restarts: their numbers.
            centroids: theirs.
            changed: which of them are not the same as in the pass before; all of them in a restart's first.
        """
        k, numbers = centroids.shape[1], restarts.tolist()
        anew = [place for place, number in enumerate(numbers) if self._work(number, changed[place]) > _WORTH_SKIPPING]
        fresh = dict(zip(anew, self._place(centroids[anew]), strict=True)) if anew else {}
        for place, number in enumerate(numbers):
            now = fresh[place] if place in fresh else self._place_again(number, centroids[place], changed[place])
            before = self.placed[number].clusters if number in self.placed else np.full_like(now.clusters, -1)
            places = np.flatnonzero(now.clusters != before)
            new, old = now.clusters[places], before[places]
            sizes = np.bincount(new, minlength=k) - np.bincount(old[old >= 0], minlength=k)
            yield Moved(self.change(places, new, old, k), sizes)
            self.placed[number] = now

    def _work(self, number: int, changed: Bool[np.ndarray, " k"]) -> float:
        """Return the share of all distances that have to be worked out."""
        if number not in self.placed:
            return 1.0
        loose = changed[self.placed[number].clusters].mean()
        return float(loose + (1 - loose) * changed.mean())

    def _place(
        self, centroids: Float32[np.ndarray, "R k C"], places: Int64[np.ndarray, " m"] | None = None
    ) -> list[Placed]:
        """Find the nearest of all centroids for some rows (None: all of them)."""
        found, decided = self.nearest(centroids, places), []
        for one, clusters, scores, leads in zip(centroids, found.clusters, found.scores, found.leads, strict=True):
            unsure = np.flatnonzero(leads <= self._slack(one))
            if len(unsure):
                rows = self.take(unsure if places is None else places[unsure])
                clusters[unsure], scores[unsure] = decide(rows, one, self._slack(one))
            decided.append(Placed(clusters, scores))
        return decided

    def _place_again(
        self, number: int, centroids: Float32[np.ndarray, "k C"], changed: Bool[np.ndarray, " k"]
    ) -> Placed:
        """Find the nearest centroids of a restart's rows by way of what has changed."""
        clusters, scores = self.placed[number].clusters.copy(), self.placed[number].scores.copy()
        loose = changed[clusters]
        if loose.any():
            rows = np.flatnonzero(loose)
            (placed,) = self._place(centroids[None], rows)
            clusters[rows], scores[rows] = placed.clusters, placed.scores
        if changed.any() and not loose.all():
            rows, candidates, slack = np.flatnonzero(~loose), np.flatnonzero(changed), self._slack(centroids)
            if loose.mean() < _FEW_LOOSE:  # then to look at them too is cheaper than to copy the others
                found = self.nearest(centroids[None, candidates])
                best, highest, lead = found.clusters[0, rows], found.scores[0, rows], found.leads[0, rows]
            else:
                found = self.nearest(centroids[None, candidates], rows)
                best, highest, lead = found.clusters[0], found.scores[0], found.leads[0]
            ahead = highest - scores[rows]
            over = ahead > 0
            clusters[rows[over]], scores[rows[over]] = candidates[best[over]], highest[over]
            unsure = rows[(np.abs(ahead) <= slack) | (over & (lead <= slack))]
            if len(unsure):
                clusters[unsure], scores[unsure] = decide(self.take(unsure), centroids, slack)
        return Placed(clusters, scores)

    def _slack(self, centroids: Float32[np.ndarray, "k C"]) -> float:
        return rounding(centroids.shape[1], self._norm, largest_norm(centroids))

    def nearest(
        self, centroids: Float32[np.ndarray, "R k C"], places: Int64[np.ndarray, " m"] | None = None
    ) -> Nearest:
        """Return the best centroids of some rows, which ascend (None: of all), in float32."""
        if places is None:
            return _joined([nearest_centroids(piece, centroids) for piece in self.pieces])
        parts = range(0, len(places), tile_rows(centroids.shape[2]))
        return _joined([nearest_centroids(self.take(places[at : at + parts.step]), centroids) for at in parts])

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


def fits(pieces: Sequence[Float32[np.ndarray, "_ C"]], device: str) -> bool:
    """Return whether rows find room in a GPU's memory, beside what a pass over them needs."""
    free, _ = torch.cuda.mem_get_info(device)
    return sum(piece.nbytes for piece in pieces) <= _DEVICE_SHARE * free


class DeviceGroup(Group):
    """Rows in the memory of a GPU (or of another device of torch).

    Args:
        pieces: as for `Group`.
        device: where they go.
    """

    def __init__(self, pieces: Sequence[Float32[np.ndarray, "_ C"]], device: str) -> None:
        super().__init__(pieces)
        self.tensors = [torch.from_numpy(np.ascontiguousarray(piece)).to(device) for piece in pieces]

    def nearest(
        self, centroids: Float32[np.ndarray, "R k C"], places: Int64[np.ndarray, " m"] | None = None
    ) -> Nearest:
        """Return the same, worked out on the device."""
        num_sets, k, _ = centroids.shape
        device = self.tensors[0].device
        there, norms = torch.from_numpy(centroids).to(device), torch.from_numpy(half_norms(centroids)).to(device)
        together, found = max(1, TILE_COLUMNS // k), []
        for tile in self._tiles(places):
            parts = []
            for first in range(0, num_sets, together):
                some = slice(first, first + together)
                scores = torch.addmm(-norms[some].flatten(), tile, there[some].flatten(0, 1).T).view(len(tile), -1, k)
                highest, best = scores.max(dim=2, keepdim=True)
                second = scores.scatter_(2, best, -torch.inf).amax(dim=2)
                parts.append((best[..., 0].int(), highest[..., 0], highest[..., 0] - second))
            found.append(Nearest(*(torch.cat(kind, dim=1).T.cpu().numpy() for kind in zip(*parts, strict=True))))
        return _joined(found)

    def _tiles(self, places: Int64[np.ndarray, " m"] | None) -> Iterator[Float32[torch.Tensor, "_ C"]]:
        if places is None:
            for rows in self.tensors:
                yield from rows.split(_DEVICE_TILE_ROWS)
            return
        for rows, inside, _ in self._by_piece(places):
            for part in torch.from_numpy(inside).to(rows.device).split(_DEVICE_TILE_ROWS):
                yield rows[part]

    def _by_piece(
        self, places: Int64[np.ndarray, " m"]
    ) -> Iterator[tuple[Float32[torch.Tensor, "_ C"], Int64[np.ndarray, " _"], slice]]:
        """Yield for each piece its rows, which of them are meant, and where these are among the places."""
        starts = self.ends - [len(piece) for piece in self.pieces]
        bounds = np.searchsorted(places, np.append(starts, self.ends[-1]))
        for rows, start, first, last in zip(self.tensors, starts, bounds[:-1], bounds[1:], strict=True):
            if first < last:
                yield rows, places[first:last] - start, slice(first, last)

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
        for rows, inside, among in self._by_piece(places):
            for at in range(0, len(inside), _DEVICE_TILE_ROWS):
                part = slice(at, at + _DEVICE_TILE_ROWS)
                here, now, before = (
                    torch.from_numpy(numbers[part]).to(device) for numbers in (inside, new[among], old[among])
                )
                wide, left = rows[here].double(), before >= 0
                sums.index_add_(0, now, wide)
                sums.index_add_(0, before[left], wide[left], alpha=-1)
        return sums.cpu().numpy()


def _joined(parts: Sequence[Nearest]) -> Nearest:
    """Put rows that follow one another side by side."""
    return Nearest(
        *(np.concatenate(kind, axis=1) for kind in zip(*(vars(part).values() for part in parts), strict=True))
    )
