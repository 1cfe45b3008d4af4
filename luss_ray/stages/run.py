"""A run's folder: what it was asked to do, which stages are finished, and how each is resumed or skipped."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from luss_ray.config.recipe import Recipe, digest, recipe_from, settings
from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress, done_line
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.lease import Lease, lease
from luss_ray.storage.store import be_patient
from luss_ray.storage.uri import Location, json_bytes
from luss_ray.track.tracker import Tracked, TrackerName, flat
from luss_ray.track.trackers import Trackers, open_trackers
from luss_ray.train.cluster import Resources
from luss_ray.train.limits import Limits

RUN, STAGE, BEGUN = "run.json", "stage.json", "begun.json"
ESTIMATE = "estimate"
"""The stage that finds how many clusters there are."""
_COPIES_AT_ONCE = 8


class NotDoneError(Exception):
    """A stage of a run that is only looked at is not done."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A stage that is done."""

    folder: Location
    inputs: str
    """Digest of everything its result follows from."""
    about: dict[str, Any]
    """What it has to say: `seconds`, `images`, `images_per_s` and its own figures."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a recipe on a dataset, below one folder."""

    folder: Location
    recipe: Recipe
    data: ShardedDataset
    connect: Callable[[], Resources]
    """Joins the cluster and says what the run takes of it; called once a stage has something to do."""
    limits: Limits
    weights: str | None = None
    """Digest of the weights that take the place of pretraining; None = it pretrains."""
    reuse: Location | None = None
    """Another run, whose finished stages are copied where they follow from the same inputs."""
    track: tuple[TrackerName, ...] = ()
    """Which trackers are shown the run."""
    lease: Lease | None = None
    """What keeps other jobs out; see `claimed`."""
    trackers: Trackers = field(default_factory=Trackers)
    """Their clients, in this process alone; see `claimed`."""
    on_stage: Callable[[str], None] | None = None
    """Takes the name of each stage that is done already; the first one that isn't raises `NotDoneError`, and nothing is
    done or written. None = stages are done."""

    @functools.cached_property
    def resources(self) -> Resources:
        """What the run takes of the cluster, which is joined when they are first asked for."""
        return self.connect()

    @property
    def num_clusters(self) -> int:
        """Clusters N: asked for, or as many as there are categories, or as many as were found."""
        num = self.recipe.num_categories or self._num_named
        if self.estimates and (estimated := self.finished(ESTIMATE)):
            num = estimated.about["chosen"]
        if num < 2:
            raise UserError(
                f"{self.data.location.uri} names no categories: say how many to look for, --num-categories N, or which "
                "numbers to choose from, --category-candidates N N …"
            )
        return num

    @property
    def estimates(self) -> bool:
        """Whether the number of clusters is found from the features."""
        return not (self.recipe.num_categories or self._num_named) and bool(self.recipe.category_candidates)

    @property
    def _num_named(self) -> int:
        """Categories that the dataset names; 0 where it is a single one, which tells nothing apart."""
        num = len(self.data.categories)
        return num if num > 1 or self.labelled else 0

    @property
    def shown_split(self) -> str:
        """The split on which predictions are made: validation, or where there is none the training images."""
        return "validation" if "validation" in self.data.splits else "train"

    @property
    def labelled(self) -> bool:
        """Whether there are masks to match and score with."""
        return "validation" in self.data.splits and self.data.split("validation").has_masks

    @contextlib.contextmanager
    def claimed(self) -> "Iterator[Run]":
        """Return a context with this run as one that no other job writes; its folder says what it is from now on.

        Raises:
            UserError: another job writes it, the name was used with other settings or data, the storage can't be
                written, or a tracker can't be reached.
        """
        if self.reuse is not None:
            read_origin(self.reuse)
        self.folder.check_writable()
        with lease(self.folder) as held:
            self._sign()
            given = flat(settings(self.recipe), ".") | {"data_digest": self.data.digest}
            with open_trackers(self.track, Tracked(folder=self.folder, settings=given)) as trackers:
                yield replace(self, lease=held, trackers=trackers)

    @property
    def _signature(self) -> dict[str, Any]:
        return {"settings": settings(self.recipe), "data": self.data.digest, "weights": self.weights}

    def _sign(self) -> None:
        """Write down what this run is, or check that it is the same run."""
        self.folder.create(RUN, json_bytes(self._signature | {"data_uri": self.data.location.uri}))
        self.check_signature()

    def check_signature(self) -> None:
        """Refuse a folder that another run has signed.

        Raises:
            UserError: the name was used with other settings or data.
        """
        mine, written = self._signature, self.folder.read_json(RUN)
        theirs = {name: written.get(name) for name in mine}
        theirs["settings"] = settings(recipe_from(theirs["settings"]))  # what came since has its default
        changed = [f"{name} = {a} there, {b} here" for name, a, b in _differences(theirs, mine)]
        if changed:
            raise UserError(
                f"{self.folder.uri} was made with other settings ({'; '.join(changed[:3])}): "
                "give the same settings to go on, or choose another --name "
                f"(and --reuse {self.folder.uri} for what both have in common)"
            )

    def finished(self, name: str) -> Finished | None:
        """Return a stage that is done, or None where it isn't."""
        about = _read(self.folder / name, STAGE)
        return None if about is None else Finished(folder=self.folder / name, inputs=about["inputs"], about=about)

    def stage(
        self, name: str, inputs: dict[str, Any], work: Callable[[Location, str], dict[str, Any]], *, label: str = ""
    ) -> Finished:
        """Do a stage's work unless it is done; return where its results are.

        Args:
            name: folder of the stage below the run.
            inputs: everything its result follows from: settings, and the `inputs` of stages before it.
            work: does it, given the folder and the digest of the inputs; goes on from what lies in the folder, and
                returns what it has to say (`images`: how many it went through).
            label: name for people.
        """
        folder, wanted = self.folder / name, digest({"data": self.data.digest, "stage": name, **inputs})
        finished = _read(folder, STAGE)
        if self.on_stage is not None:
            if finished is None or finished["inputs"] != wanted:
                raise NotDoneError(name)
            self.on_stage(name)
            return Finished(folder=folder, inputs=wanted, about=finished)
        if finished is not None and finished["inputs"] == wanted:
            done_line(label or name, None)
            return Finished(folder=folder, inputs=wanted, about=finished)
        begun = _read(folder, BEGUN)
        if begun is not None and begun["inputs"] != wanted:
            folder.delete_prefix("")
        folder.write_json(BEGUN, {"inputs": wanted})
        be_patient()
        copied = self._copied(name, wanted)
        if copied is not None:
            done_line(label or name, None, f"copied from {copied['copied_from']}")
            return Finished(folder=folder, inputs=wanted, about=copied)
        _ = self.resources  # joins the cluster before the clock starts
        self._check_lease()
        started = time.monotonic()
        about = work(folder, wanted)
        self._check_lease()
        seconds = time.monotonic() - started
        about |= {"inputs": wanted, "seconds": round(seconds, 2)}
        about["images_per_s"] = round(about.get("images", 0) / seconds, 2)
        folder.write_json(STAGE, about)
        done_line(label or name, seconds, f"{about['images_per_s']:.0f} images/s" if about.get("images") else "")
        return Finished(folder=folder, inputs=wanted, about=about)

    def _copied(self, name: str, wanted: str) -> dict[str, Any] | None:
        """Copy a stage from the run that is to be reused; None where that one hasn't finished it with these inputs."""
        about = None if self.reuse is None else _read(self.reuse / name, STAGE)
        if self.reuse is None or about is None or about["inputs"] != wanted:
            return None
        folder, source = self.folder / name, self.reuse / name
        parts = [part for part in source.list() if part not in (STAGE, BEGUN)]
        with StageProgress(f"copying {name}", len(parts), "files") as bar, ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
            for done, _ in enumerate(pool.map(functools.partial(folder.copy_from, source), parts), start=1):
                bar.update(done)
        about.setdefault("copied_from", self.reuse.uri)
        self._check_lease()
        folder.write_json(STAGE, about)
        return about

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What made a run's results: read from its folder."""

    recipe: Recipe
    data_digest: str
    """Of the dataset it was made from."""
    data_uri: str
    """Where that dataset was."""


def read_origin(folder: Location) -> Origin:
    """Return what a run was made with.

    Raises:
        UserError: there is no run, or one of another version.
    """
    try:
        written = folder.read_json(RUN)
        recipe, data_digest, data_uri = written["settings"], written["data"], written["data_uri"]
    except (FileNotFoundError, KeyError):
        raise UserError(f"{folder.uri} is no run of this version (no {RUN} that fits)") from None
    return Origin(recipe=recipe_from(recipe), data_digest=data_digest, data_uri=data_uri)


def _read(folder: Location, name: str) -> Any:
    return folder.read_json(name) if folder.exists(name) else None


def _differences(theirs: Any, mine: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = sorted(theirs.keys() | mine.keys())
        return [d for key in keys for d in _differences(theirs.get(key), mine.get(key), f"{name}.{key}".lstrip("."))]
    return [] if theirs == mine else [(name, theirs, mine)]
