"""Check a sharded dataset from end to end: `python shards/verify.py URI`. Exit code 1 when something is broken."""

from typing import Annotated

import tyro

from luss_ray.core.command import parsed, run
from luss_ray.core.progress import StageProgress
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.storage.verify import verify


def check(uri: Annotated[str, tyro.conf.Positional]) -> int:
    """Check counts, digests and offsets of a dataset, and that every member decodes.

    Args:
        uri: the dataset: a folder or s3://bucket/prefix.
    """
    dataset = ShardedDataset.open(Location.parse(uri))
    total = sum(counts["images"] for counts in dataset.manifest.splits.values())
    num_checked, problems = 0, []
    with StageProgress("verifying", total, "samples", images_per_unit=1) as progress:
        for num_samples, found in verify(dataset):
            num_checked += num_samples
            problems += found
            progress.update(num_checked)
    for problem in problems:
        print(f"broken: {problem}")
    verdict = f"{len(problems)} problems" if problems else "all good"
    print(f"{dataset.location.uri}: {num_checked} samples in {len(dataset.manifest.shards)} shards: {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    run(lambda: parsed(lambda: tyro.cli(check)))
