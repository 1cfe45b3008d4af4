"""The benchmark's scores as a metric for a training loop: updated per batch, merged across workers."""

import numpy as np
import torch.distributed as dist
from jaxtyping import Integer, UInt16
from torch import Tensor

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.label_files import LabelledImage
from luss_ray.metrics.evaluation import Evaluation, Matching, Question, Tally


class SegmentationMetric:
    """Scores of predicted label maps, with `update`, `compute`, `reset` and `merge_state` as in torchmetrics.

    Args:
        num_categories: N; ids are 0 (other), 1..N, and 1000 in targets (ignore).
        num_clusters: C; ids in predictions, N unless given.
        matching: how clusters become categories when `compute` is called.
    """

    def __init__(
        self, num_categories: int, *, num_clusters: int | None = None, matching: Matching = Matching.NONE
    ) -> None:
        if matching is Matching.FILE:
            raise UserError("a matching from a file is for jobs/evaluate.py; map the predictions yourself")
        self.question = Question(
            num_categories=num_categories,
            num_clusters=num_categories if num_clusters is None else num_clusters,
            matching=matching,
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.tally: Tally = self.question.tally()

    def update(self, preds: Integer[Tensor, "B H W"], target: Integer[Tensor, "B1 H1 W1"]) -> None:
        """Count a batch.

        Args:
            preds: predicted ids, on any device.
            target: ground truth.

        Raises:
            UserError: shapes differ, or an id that is none.
        """
        if preds.shape != target.shape:
            raise UserError(f"preds are {tuple(preds.shape)} and target {tuple(target.shape)}: make them equal")
        for place, (ids, mask) in enumerate(zip(preds.cpu().numpy(), target.cpu().numpy(), strict=True)):
            name = f"sample {place} of the batch"
            self.tally.add(LabelledImage(name=name, prediction=_ids(ids, "preds"), mask=_ids(mask, "target")))

    def merge_state(self, others: list["SegmentationMetric"]) -> "SegmentationMetric":
        """Add what others have counted, as torchmetrics' and torcheval's metrics do."""
        for other in others:
            self.tally += other.tally
        return self

    def sync(self) -> "SegmentationMetric":
        """Give every process of the default group the counts of all of them; nothing happens without a group."""
        if dist.is_available() and dist.is_initialized():
            tallies: list[Tally] = [self.question.tally()] * dist.get_world_size()
            dist.all_gather_object(tallies, self.tally)
            self.reset()
            for tally in tallies:
                self.tally += tally
        return self

    def compute(self) -> Evaluation:
        """Return the scores of everything counted so far (`.scores.miou` and so on, percent).

        Raises:
            UserError: nothing was counted.
        """
        return self.tally.evaluation()


def _ids(values: np.ndarray, what: str) -> UInt16[np.ndarray, "H W"]:
    if values.dtype.kind not in "iu" or values.min(initial=0) < 0 or values.max(initial=0) > np.iinfo(np.uint16).max:
        raise UserError(
            f"{what} are {values.dtype} from {values.min()} to {values.max()}: give ids, whole numbers from 0"
        )
    return values.astype(np.uint16)
