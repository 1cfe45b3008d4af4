#!/usr/bin/env -S uv run
"""Check a sharded dataset, or a run's pseudo-labels of it, from end to end. Exit code 1 when something is broken.

`python shards/verify.py URI` or `python shards/verify.py URI --labels RUN/pseudo-labels`
"""

from collections.abc import Iterator
from typing import Annotated

import tyro

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location
from luss_ray.storage.verify import Problem, verify, verify_labels


def check(uri: Annotated[str, tyro.conf.Positional], *, labels: str | None = None) -> int:
    """Check counts, digests and offsets of a dataset, and that every member decodes.

    Args:
        uri: the dataset: a folder or s3://bucket/prefix.
        labels: check pseudo-labels of it instead: the folder of that stage of a run, RUN/pseudo-labels. Their shards
            have the image shards' keys in the same order, decode, and name clusters that there are.
    """
    dataset = ShardedDataset.open(Location.parse(uri))
    if labels is None:
        total = sum(counts["images"] for counts in dataset.manifest.splits.values())
        return _report(verify(dataset), dataset.location, total, len(dataset.manifest.shards))
    shards = LabelShards(Location.parse(labels), dataset.split("train"))
    found = _labels_findings(shards)
    return _report(found, shards.location, len(shards.split), len(shards.split.shards))


def _labels_findings(shards: LabelShards) -> Iterator[tuple[int, list[Problem]]]:
    from luss_ray.stages.run import STAGE

    try:
        about = shards.location.read_json(STAGE)
        num_clusters, quarantined = about["clusters"], about["quarantined"]
    except (FileNotFoundError, KeyError):
        raise UserError(
            f"{shards.location.uri} is no finished stage of pseudo-labels (no {STAGE} that fits): "
            "give RUN/pseudo-labels"
        ) from None
    return verify_labels(shards, num_clusters, unlabelled={name.rpartition("#")[2] for name in quarantined})


def _report(findings: Iterator[tuple[int, list[Problem]]], location: Location, total: int, num_shards: int) -> int:
    num_checked, problems = 0, []
    with StageProgress("verifying", total, "samples", images_per_unit=1) as progress:
        for num_samples, found in findings:
            num_checked += num_samples
            problems += found
            progress.update(num_checked)
    for problem in problems:
        print(f"broken: {problem}")
    verdict = f"{len(problems)} problems" if problems else "all good"
    print(f"{location.uri}: {num_checked} samples in {num_shards} shards: {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    run(lambda: parsed(lambda: tyro.cli(check)))
