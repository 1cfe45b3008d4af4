"""ImageNet-S from a copy of ImageNet-1k: packed once over the cluster, every subset a view of the same shards."""

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import ray
from ray.util import ActorPool

from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress, done_line
from luss_ray.imagenet_s.layout import Source, SourceSplit
from luss_ray.imagenet_s.lists import MERGES, PUBLISHED, SUBSETS, Listed, Subset
from luss_ray.storage.dataset import Manifest
from luss_ray.storage.imagenet import ImageNet
from luss_ray.storage.pack import ShardResult, pack
from luss_ray.storage.pack_plan import PackSettings, PlannedShard
from luss_ray.storage.source_files import LocationFiles
from luss_ray.storage.uri import Location
from luss_ray.storage.views import ViewPart, write_view
from luss_ray.train.refusals import user_errors

FULL = 1000
"""The tier of the ImageNet classes that are in no subset; S919 pretrains on all tiers."""


_NUM_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is prepared from what."""

    imagenet: ImageNet
    """The user's copy."""
    subsets: dict[int, Subset]
    """Lists of all three subsets by size: they decide the tiers, whichever of them are prepared."""
    annotations: dict[int, Location]
    """Folder with `validation-segmentation` and `train-semi-segmentation` of each subset that is prepared."""
    out: Location
    """Where datasets and shards go."""
    settings: PackSettings
    copy: bool = False
    """Whether each subset gets training shards of its own."""
    incomplete: bool = False
    """Whether to go on when listed images are missing, or counts are not the published ones."""

    def __post_init__(self) -> None:
        for small, large in itertools.pairwise(SUBSETS):
            outside = sorted(self.subsets[small].ids.keys() - self.subsets[large].ids.keys())
            if outside:
                raise UserError(f"the lists don't belong together: {outside[0]} of S{small} is not in S{large}")

    def tiers(self) -> dict[int, list[str]]:
        """Return the training images (stems) of each tier: the classes of S50, those S300 adds, S919's, the rest."""
        tier_of: dict[str, int] = {}
        tiers: dict[int, list[str]] = {size: [] for size in (*SUBSETS, FULL)}
        for stem in self.imagenet.train_stems():
            wnid = stem.partition("_")[0]
            if wnid not in tier_of:
                tier_of[wnid] = next((size for size in SUBSETS if self.subsets[size].category(wnid)), FULL)
            tiers[tier_of[wnid]].append(stem)
        return tiers


def prepare(given: Preparation) -> dict[int, Manifest]:
    """Pack what is missing and write the datasets; return their manifests by size.

    Raises:
        UserError: images or masks can't be packed.
    """
    tiers, manifests = given.tiers(), {}
    for size in sorted(given.annotations):
        subset = given.subsets[size]
        root = given.out / subset.name if given.copy else given.out
        used = [tier for tier in (*SUBSETS, FULL) if tiers[tier] and (tier <= size or size == SUBSETS[-1])]
        for tier in used:
            _pack(_tier_source(given, tier, tiers[tier]), root / "packs" / f"train-{tier}", given.settings)
        labelled = _labelled_source(given, subset)
        _pack(labelled, root / "packs" / f"labelled-{size}", given.settings)
        made = {"copy": given.copy, "images_per_shard": given.settings.images_per_shard, "seed": given.settings.seed}
        manifests[size] = write_view(
            root / ("dataset" if given.copy else subset.name),
            name=subset.name,
            categories=tuple(subset.ids),
            parts=_parts(root, subset, used, labelled),
            made={"from": given.imagenet.location.uri, **made},
        )
    return manifests


def check(given: Preparation) -> list[str]:
    """Return what falls short of the lists and the published counts but is allowed to.

    Raises:
        UserError: something falls short and isn't allowed to.
    """
    tiers = given.tiers()
    return [line for size in sorted(given.annotations) for line in _check_subset(given, size, tiers)]


def _check_subset(given: Preparation, size: int, tiers: dict[int, list[str]]) -> list[str]:
    subset, said = given.subsets[size], []
    if subset.test is None:
        said.append(f"S{size}: no list of test images, so no test split; everything else is prepared")
    wanted = {"train-semi": subset.train_semi, "validation": subset.validation, "test": subset.test or ()}
    problems = []
    for split, listed in wanted.items():
        missing = [image.stem for image in listed if image.stem not in given.imagenet]
        if missing:
            problems.append(f"S{size}: {len(missing)} images of {split} are missing: {_some(missing)}")
    masks = set(given.annotations[size].list(suffix=".png"))
    for split, listed in (("train-semi", subset.train_semi), ("validation", subset.validation)):
        missing = [name for name in (_mask_name(split, image) for image in listed) if name not in masks]
        if missing:
            where = given.annotations[size].uri
            problems.append(f"S{size}: {len(missing)} masks of {split} are missing in {where}: {_some(missing)}")
    counts = {"train": sum(len(tiers[tier]) for tier in SUBSETS if tier <= size)}
    counts |= {split: len(listed) for split, listed in wanted.items() if listed}
    for split, count in counts.items():
        if count != PUBLISHED[size][split]:
            problems.append(f"S{size}: {count} images of {split}, the published number is {PUBLISHED[size][split]}")
    if problems and not given.incomplete:
        raise UserError("; ".join(problems) + " (--incomplete prepares what is there)")
    return said + problems


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more


def _tier_source(given: Preparation, tier: int, stems: list[str]) -> Source:
    categories = [MERGES.get(wnid, wnid) for wnid in (stem.partition("_")[0] for stem in stems)]
    ids = {wnid: number for number, wnid in enumerate(sorted(set(categories)), 1)}
    split = SourceSplit(
        name="train",
        images=stems,
        masks=[""] * len(stems),
        keys=[f"{category}/{stem}" for category, stem in zip(categories, stems, strict=True)],
        class_ids=np.array([ids[category] for category in categories], np.int32),
        sizes=np.array([given.imagenet.size_of(stem) for stem in stems], np.int64),
    )
    files = given.imagenet
    return Source(name=f"train-{tier}", files=files, mask_files=files, categories=tuple(ids), splits=(split,))


def _labelled_source(given: Preparation, subset: Subset) -> Source:
    """Return the splits that are a subset's own: few images, whose masks have its ids."""
    masks = LocationFiles(given.annotations[subset.size])
    there = set(masks.location.list(suffix=".png"))
    wanted = {"train-semi": subset.train_semi, "validation": subset.validation, "test": subset.test or ()}
    splits = []
    for name, listed in wanted.items():
        images = [image for image in listed if image.stem in given.imagenet]
        names = [_mask_name(name, image) for image in images]
        split = SourceSplit(
            name=name,
            images=[image.stem for image in images],
            masks=[mask if mask in there else "" for mask in names],
            keys=[f"{image.category}/{image.stem}" for image in images],
            class_ids=np.array([subset.ids[image.category] for image in images], np.int32),
            sizes=np.array([given.imagenet.size_of(image.stem) for image in images], np.int64),
        )
        if images:
            splits.append(split)
    return Source(
        name=f"labelled-{subset.size}",
        files=given.imagenet,
        mask_files=masks,
        categories=tuple(subset.ids),
        splits=tuple(splits),
        every_category=False,
    )


def _mask_name(split: str, image: Listed) -> str:
    return f"{split}-segmentation/{image.category}/{image.stem}.png"


def _parts(root: Location, subset: Subset, tiers: Sequence[int], labelled: Source) -> list[ViewPart]:
    def category_id(key: str) -> int:
        return subset.ids.get(key.partition("/")[0], 0)

    packs = root / "packs"
    parts = [
        ViewPart(dataset=packs / f"train-{tier}", split="train", becomes="train", category_id=category_id)
        for tier in tiers
        if tier <= subset.size
    ]
    parts += [
        ViewPart(dataset=packs / f"labelled-{subset.size}", split=split.name, becomes=split.name)
        for split in labelled.splits
    ]
    if subset.size == SUBSETS[-1]:
        parts += [
            ViewPart(dataset=packs / f"train-{tier}", split="train", becomes="train-full", category_id=category_id)
            for tier in tiers
        ]
    return parts


def _pack(source: Source, out: Location, settings: PackSettings) -> None:
    with StageProgress(source.name, source.num_images, "images", images_per_unit=1) as progress:
        pack(source, out, settings, on_progress=progress.update, spread=over_the_cluster)
    done_line(source.name, progress.seconds, f"{source.num_images} images")


class Packer:
    """Packs shards in an actor, which takes the source's long lists once."""

    def __init__(self, work: Callable[[PlannedShard], ShardResult], shards: list[PlannedShard]) -> None:
        self.work, self.shards = work, shards

    def pack(self, number: int) -> ShardResult:
        """Pack one of the shards."""
        return self.work(self.shards[number])


def over_the_cluster(
    work: Callable[[PlannedShard], ShardResult], shards: Sequence[PlannedShard]
) -> Generator[ShardResult, None, None]:
    """Do the work on the cluster's CPUs, an actor each; yield the results in the shards' order."""
    if not shards:
        return
    num_actors = min(len(shards), max(1, int(ray.cluster_resources().get("CPU", 1))))
    shared = [ray.put(work), ray.put(list(shards))]
    actors = [
        ray.remote(Packer).options(num_cpus=1, max_restarts=-1, max_task_retries=-1).remote(*shared)
        for _ in range(num_actors)
    ]
    try:
        with user_errors():
            pool = ActorPool(actors)
            yield from pool.map(lambda actor, number: actor.pack.remote(number), list(range(len(shards))))  # pyright: ignore[reportReturnType]
    finally:
        for actor in actors:
            ray.kill(actor)  # pyright: ignore[reportArgumentType]
