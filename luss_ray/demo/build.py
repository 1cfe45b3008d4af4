"""Write a demo dataset to disk in ImageNet-S layout."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from luss_ray.core.errors import UserError
from luss_ray.demo.compose import category_of, scene
from luss_ray.demo.variants import VARIANTS, DemoVariant
from luss_ray.imagenet_s import masks

JPEG_QUALITY = 92


@dataclass(frozen=True)
class _Job:
    """One scene and the files it goes to (folder names below the dataset's; empty: not written)."""

    split: str
    index: int
    images: tuple[str, ...]
    masks: tuple[str, ...]


def build(
    folder: Path,
    *,
    variant: str | DemoVariant = "demo",
    seed: int = 0,
    num_train: int | None = None,
    num_validation: int | None = None,
    num_test: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a demo dataset and return its folder; the same arguments always write the same bytes.

    Args:
        folder: where to; made when absent, its files are overwritten.
        variant: demo, demo-hard, or settings of one's own.
        seed: another seed gives other scenes of the same assets.
        num_train: train images instead of the variant's number.
        num_validation: validation images instead of the variant's number.
        num_test: test images, made of validation's assets (never of train's).
        progress: called with (scenes done, scenes in all) now and then.

    Returns:
        `folder`, now with `train/<category>/*.jpg`, `validation/…`, `validation-segmentation/<category>/*.png`,
        `train-semi/…`, `train-semi-segmentation/…`, `categories.txt` and, with `num_test`, the same for `test`.

    Raises:
        UserError: unknown variant.
    """
    settings = _settings(variant)
    settings = replace(
        settings,
        num_train=settings.num_train if num_train is None else num_train,
        num_validation=settings.num_validation if num_validation is None else num_validation,
    )
    jobs = list(_jobs(settings, num_test))
    for below in {f"{part}/{name}" for job in jobs for part in job.images + job.masks for name in settings.categories}:
        (folder / below).mkdir(parents=True, exist_ok=True)
    (folder / "categories.txt").write_text("\n".join(settings.categories) + "\n", encoding="utf-8")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(lambda job: _write(folder, seed, job, settings), jobs), 1):
            if progress and (done % 100 == 0 or done == len(jobs)):
                progress(done, len(jobs))
    return folder


def _settings(variant: str | DemoVariant) -> DemoVariant:
    if isinstance(variant, DemoVariant):
        return variant
    if variant not in VARIANTS:
        raise UserError(f"unknown demo dataset {variant!r}: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[variant]


def _jobs(variant: DemoVariant, num_test: int) -> Iterator[_Job]:
    num_semi = variant.num_train_semi * len(variant.categories)
    for index in range(variant.num_train):
        semi = ("train-semi",) if index < num_semi else ()
        yield _Job("train", index, ("train", *semi), tuple(f"{part}-segmentation" for part in semi))
    for split, num in (("validation", variant.num_validation), ("test", num_test)):
        for index in range(num):
            yield _Job(split, index, (split,), (f"{split}-segmentation",))


def _write(folder: Path, seed: int, job: _Job, variant: DemoVariant) -> None:
    image, mask = scene(seed, job.split, job.index, variant)
    name = variant.categories[category_of(job.index, variant) - 1]
    stem = f"{name}/{job.split}_{job.index:06d}"
    jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
    for part in job.images:
        (folder / part / f"{stem}.jpg").write_bytes(jpeg)
    for part in job.masks:
        (folder / part / f"{stem}.png").write_bytes(masks.encode(mask))
