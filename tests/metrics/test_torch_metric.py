import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from luss_ray.core.errors import UserError
from luss_ray.metrics.evaluation import Matching
from luss_ray.metrics.segmentation import SegmentationCounts
from luss_ray.metrics.torch_metric import SegmentationMetric


def batch(seed: int, num_categories: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    ids = [np.kron(rng.integers(0, num_categories + 1, (4, 3, 3)), np.ones((1, 8, 8), int)) for _ in range(2)]
    return torch.from_numpy(ids[0]), torch.from_numpy(ids[1])


def text(metric: SegmentationMetric) -> str:
    return json.dumps(metric.compute().to_json())


def test_scores_are_those_of_the_counts():
    metric, counts = SegmentationMetric(3), SegmentationCounts(3)
    for seed in range(3):
        preds, target = batch(seed)
        metric.update(preds, target)
        for ids, mask in zip(preds.numpy().astype(np.uint16), target.numpy().astype(np.uint16), strict=True):
            counts.update(ids, mask)
    assert metric.compute().scores == counts.compute()
    metric.reset()
    with pytest.raises(UserError, match="no image was evaluated"):
        metric.compute()


@pytest.mark.parametrize("matching", [Matching.NONE, Matching.IMAGES, Matching.MANY_TO_ONE])
def test_merged_metrics_are_one_metric(matching):
    whole, parts = SegmentationMetric(3, matching=matching), [SegmentationMetric(3, matching=matching) for _ in "ab"]
    for seed in range(4):
        whole.update(*batch(seed))
        parts[seed % 2].update(*batch(seed))
    assert text(parts[0].merge_state(parts[1:])) == text(whole)


def _worker(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric = SegmentationMetric(3, matching=Matching.IMAGES)
    for seed in range(rank, 5, 2):
        metric.update(*batch(seed))
    (folder / str(rank)).write_text(text(metric.sync()))
    dist.destroy_process_group()


def test_processes_share_their_counts(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(rank, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    whole = SegmentationMetric(3, matching=Matching.IMAGES)
    for seed in range(5):
        whole.update(*batch(seed))
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text() == text(whole)


@pytest.mark.parametrize("preds", [torch.tensor([[[65537]]]), torch.tensor([[[-1]]])])
def test_what_is_no_id_is_refused(preds: torch.Tensor):
    with pytest.raises(UserError, match="give ids, whole numbers from 0"):
        SegmentationMetric(3).update(preds, torch.zeros(1, 1, 1, dtype=torch.long))


def test_shapes_must_agree():
    with pytest.raises(UserError, match="make them equal"):
        SegmentationMetric(3).update(torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 4, 5, dtype=torch.long))
