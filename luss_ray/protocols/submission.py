"""From a finished run to the zip that the benchmark's server takes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.submission import Method, check_submission, write_submission
from luss_ray.protocols.plan import PlannedStage, plan
from luss_ray.protocols.rules import ANNOTATED, Protocol
from luss_ray.report.collect import RESULT
from luss_ray.stages.evaluate import METRICS
from luss_ray.stages.infer import infer
from luss_ray.stages.run import Finished, Run
from luss_ray.storage.dataset import Split
from luss_ray.storage.labels import LabelShards

LINK = "https://arxiv.org/abs/2106.03149"


def submit(run: Run, split_name: str, path: Path, *, name: str, description: str) -> Method:
    """Write and check the submission of a run; return what it says of the method.

    A run of PASS or of fine-tuning on masks predicts the split first, and the former takes the matching found on
    validation along; one of distance matching must have predicted it.

    Args:
        run: finished.
        split_name: the split to be submitted.
        path: the zip.
        name: of the method.
        description: a few sentences.

    Raises:
        UserError: the run is not far enough, or what was written does not pass the check.
    """
    split, predicted = run.data.split(split_name), _predict(run, split_name)
    method = Method(
        name=name,
        training_data=predicted.trained_on,
        training_scheme=f"{predicted.scheme} protocol",
        networks=run.recipe.backbone.name,
        link=LINK,
        description=description,
    )
    labels = LabelShards(predicted.stage.folder, split)
    with StageProgress("submission", len(split), "images", images_per_unit=1) as progress:
        write_submission(path, _predictions(split, labels, progress), method=method, matching=predicted.matching)
    sizes = {
        split.key(row): (int(height), int(width))
        for row, (height, width) in enumerate(zip(split.heights, split.widths, strict=True))
    }
    check_submission(path, sizes, num_categories=len(run.data.categories))
    return method


def plan_submission(run: Run, split_name: str) -> list[PlannedStage]:
    """Return what `submit` would have to predict first, and whether that is done.

    Raises:
        UserError: the run is not far enough.
    """
    stage = f"predictions-{split_name}"
    return plan(run, lambda walked: [_predict(walked, split_name)], [stage], {stage: split_name})


@dataclass(frozen=True, kw_only=True)
class _Predicted:
    """A split's predictions, and what a submission says of them."""

    stage: Finished
    matching: dict[int, int] | None
    """Category of each cluster; None where ids are categories."""
    scheme: str
    trained_on: str


def _predict(run: Run, split_name: str) -> _Predicted:
    matching, scheme = None, Protocol.UNSUPERVISED.value
    trained_on = f"{run.recipe.pretrain.split} of {run.data.manifest.name}"
    if run.finished("references") is None:
        finetuned, evaluation = run.finished("finetune"), run.finished("evaluation")
        if finetuned is None or evaluation is None:
            raise UserError(f"{run.folder.uri} is not finished: run jobs/pass.py again, it goes on where it stopped")
        mapping = (evaluation.folder / METRICS).read_json().get("matching")
        if mapping is None:  # of jobs/finetune.py: what it predicts are categories
            scheme = run.folder.read_json(RESULT)["protocol"]
            trained_on = f"{ANNOTATED} of {run.data.manifest.name} and its masks"
        else:
            matching = {cluster: category for cluster, category in enumerate(mapping) if cluster}
        pretrained = run.finished("pretrain")
        if pretrained is not None and "weights" in pretrained.about:
            trained_on += f"; backbone: {pretrained.about['weights']['trained_by']}"
        num_outputs = len(run.data.categories) if mapping is None else run.num_clusters
        predicted = infer(run, "", finetuned, split_name=split_name, num_outputs=num_outputs)
    else:
        predicted = run.finished(f"predictions-{split_name}")
        if predicted is None:
            raise UserError(f"{run.folder.uri}: run jobs/distance_matching.py --split {split_name} first")
        result = run.folder.read_json(RESULT)
        scheme, trained_on = result["protocol"], f"backbone: {result['weights']['trained_by']}"
    return _Predicted(stage=predicted, matching=matching, scheme=scheme, trained_on=trained_on)


def _predictions(split: Split, labels: LabelShards, progress: StageProgress) -> Iterator[tuple[str, bytes]]:
    """Yield key and prediction of every image; one that could not be read is predicted as other everywhere."""
    for shard in range(len(split.shards)):
        rows = split.shard_rows(shard)
        for row, data in zip(rows.tolist(), labels.read(rows), strict=True):
            nothing = np.zeros((split.heights[row], split.widths[row]), np.uint16)
            yield split.key(row), masks.encode(nothing) if data is None else data
        progress.update(int(rows[-1]) + 1)
