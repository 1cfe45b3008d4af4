"""Gathers what lies in a run's folder: result.json, and what the report page shows."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from luss_ray.config.recipe import settings
from luss_ray.data.crops import resize_shorter
from luss_ray.data.decode import decode_image
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.soft_label import Maps
from luss_ray.metrics.matching import apply_mapping
from luss_ray.report.data import Cluster, Example, ReportData, ThresholdSweep
from luss_ray.report.inspection import Inspection, inspect_clusters
from luss_ray.report.page import render
from luss_ray.stages.cluster import CLUSTERS, MARGIN_QUANTILES
from luss_ray.stages.coverage import read_label_counts
from luss_ray.stages.evaluate import METRICS
from luss_ray.stages.run import ESTIMATE, STAGE, Run
from luss_ray.stages.threshold import SWEEP, counts_file, example_rows, read_counts, scores_at
from luss_ray.storage.labels import LabelShards
from luss_ray.train.figures import read_rows

RESULT, REPORT = "result.json", "report.html"
LABELS = "pseudo-labels"
_PACKAGES = ("luss-ray", "ray", "torch", "torchvision", "faiss-cpu", "faiss-gpu", "numpy", "pyarrow", "obstore")
_TRAINED = ("pretrain", "attention", "finetune")
_THUMBNAIL_PX = 96
RANDOM = "random-backbone/"


def write_report(run: Run, *, under_way: bool = False, supervised: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write result.json and report.html from what is finished; return the former's content.

    Args:
        run: whose.
        under_way: more will follow: result.json says so, and the page loads itself again every minute.
        supervised: entries of result.json beside or in the place of others, of a network that learnt masks.
    """
    inspection = _inspection(run)
    result = {
        "under_way": under_way,
        "recipe": run.recipe.recipe_name,
        "settings": settings(run.recipe),
        "versions": _versions(),
        "data": {
            "uri": run.data.location.uri,
            "digest": run.data.digest,
            "splits": {name: dict(counts) for name, counts in run.data.manifest.splits.items()},
            "categories": list(run.data.categories),
            "quarantined": len(run.data.manifest.quarantined),
        },
        "weights": (_read(run, f"pretrain/{STAGE}") or {}).get("weights"),
        "stages": _stages(run),
        "threshold": _threshold(run),
        "pseudo_labels": _pseudo_labels(run),
        "clusters": _agreement(inspection),
        "metrics": _metrics(run),
    }
    result |= supervised or {}
    data = _report_data(run, result, inspection, under_way=under_way, supervised=supervised is not None)
    run.folder.write_json(RESULT, result)
    run.folder.write(REPORT, render(data).encode())
    return result


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    found = {name: importlib.metadata.version(name) for name in _PACKAGES if name in installed}
    return {"python": platform.python_version()} | found


def _read(run: Run, name: str) -> Any:
    return run.folder.read_json(name) if run.folder.exists(name) else None


def _stages(run: Run) -> dict[str, dict[str, Any]]:
    names = [name.removesuffix(f"/{STAGE}") for name in run.folder.list(suffix=f"/{STAGE}")]
    about = {name: run.folder.read_json(f"{name}/{STAGE}") for name in names}
    return {name: {key: value for key, value in said.items() if key != "inputs"} for name, said in about.items()}


def _threshold(run: Run) -> dict[str, Any]:
    sweep = _read(run, f"threshold/{SWEEP}")
    return {key: sweep.get(key) for key in ("chosen", "used", "validation", "label_free")} if sweep else {}


def _pseudo_labels(run: Run) -> dict[str, Any]:
    """Return how many training pixels keep a label at the threshold used, and each cluster's share of them, percent."""
    about, threshold = _read(run, f"{LABELS}/{STAGE}"), _threshold(run)
    if not threshold or "coverage" not in (about or {}):
        return {}
    counts = read_label_counts(run.folder / LABELS)
    return {
        "threshold": threshold["chosen"],
        "used": threshold["used"],
        "coverage": round(float(counts.coverage([threshold["chosen"]])[0]), 3),
        "shares": counts.shares(threshold["chosen"]).round(3).tolist(),
        "bytes_per_image": about["bytes_per_image"],
    }


def _inspection(run: Run) -> Inspection | None:
    if not run.folder.exists(f"clusters/{STAGE}"):
        return None
    return inspect_clusters(run.folder, run.data.split("train"))


def _agreement(inspection: Inspection | None) -> dict[str, Any]:
    """Return what `jobs/inspect_clusters.py` says of all clusters together; {} where there are none yet."""
    if inspection is None:
        return {}
    found = {"images": sum(inspection.sizes), "margin": inspection.margin}
    return found | {"nmi": inspection.nmi, "accuracy": inspection.accuracy}


def _metrics(run: Run) -> dict[str, Any]:
    """Return the scores there are; {} without labels."""
    metrics: dict[str, Any] = {}
    evaluation, sweep = _read(run, f"evaluation/{METRICS}"), _read(run, f"threshold/{SWEEP}")
    if evaluation:
        metrics["finetuned"] = evaluation["scores"]
        if "matching" in evaluation:
            metrics["matching"] = {"protocol": evaluation["protocol"], "clusters": evaluation["matching"]}
    if sweep and "scores" in sweep:
        metrics["pseudo_labels"] = scores_at(sweep, sweep["chosen"])
    baselines = _read(run, f"baselines/{METRICS}") or {}
    random_backbone = _read(run, f"{RANDOM}evaluation/{METRICS}")
    if random_backbone:
        baselines["random_backbone"] = random_backbone["scores"]
    return metrics | ({"baselines": baselines} if baselines else {})


def _report_data(
    run: Run, result: dict[str, Any], inspection: Inspection | None, *, under_way: bool, supervised: bool
) -> ReportData:
    histories = {name: read_rows(run.folder / name) for name in _TRAINED}
    return ReportData(
        result=result,
        name=run.folder.uri.rstrip("/").rsplit("/", 1)[-1],
        labelled=run.labelled,
        supervised=supervised,
        under_way=under_way,
        curves={name: history for name, history in histories.items() if history},
        threshold=_sweep(run),
        examples=_predicted_examples(run) if supervised else _examples(run),
        clusters=_clusters(run, result["pseudo_labels"].get("shares"), inspection),
        objective=inspection.objective if inspection else [],
        silhouettes=_silhouettes(run),
        categories=list(run.data.categories),
    )


def _silhouettes(run: Run) -> dict[int, float]:
    estimated = run.finished(ESTIMATE)
    found = estimated.about["silhouettes"] if estimated else {}
    return {number: found[str(number)] for number in sorted(map(int, found))}  # JSON sorts names as words


def _sweep(run: Run) -> ThresholdSweep | None:
    sweep = _read(run, f"threshold/{SWEEP}")
    if sweep is None:
        return None
    return ThresholdSweep(
        thresholds=sweep.get("thresholds", []),
        mious=[scores["miou"] for scores in sweep.get("scores", [])],
        label_free=sweep["label_free"],
        validation=sweep.get("validation"),
        used=sweep["used"],
        histogram=sweep["histogram"],
        coverage=(_read(run, f"{LABELS}/{STAGE}") or {}).get("coverage", []),
    )


def _examples(run: Run) -> list[Example]:
    sweep = _read(run, f"threshold/{SWEEP}")
    if sweep is None:
        return []
    split = run.data.split(run.shown_split)
    evaluation = _read(run, f"evaluation/{METRICS}")
    predicted = LabelShards(run.folder / "predictions", split) if _read(run, f"predictions/{STAGE}") else None
    maps: dict[str, np.ndarray] = {}
    rows = example_rows(split)
    for shard in sorted({int(split.shard_ids[row]) for row in rows}):
        if (run.folder / "threshold").exists(counts_file(split, shard)):
            maps |= read_counts(run.folder / "threshold", split, shard)
    examples = []
    for row in rows:
        if f"attention_{row}" not in maps:
            continue
        attention = maps[f"attention_{row}"]
        labels = Maps(maps[f"clusters_{row}"], attention).pseudo_label(sweep["chosen"])
        prediction = predicted.read([row])[0] if predicted else None
        mask = split.read_masks([row])[0]
        examples.append(
            Example(
                key=split.key(row),
                image=decode_image(split.read_images([row])[0]),
                attention=attention,
                pseudo_label=_mapped(labels, _matching_at(sweep)),
                prediction=_mapped(masks.decode(prediction), evaluation and evaluation["matching"])
                if prediction
                else None,
                truth=masks.decode(mask) if mask else None,
            )
        )
    return examples


def _predicted_examples(run: Run) -> list[Example]:
    """Return what a network predicts that learnt categories; nothing before it has."""
    if _read(run, f"predictions/{STAGE}") is None:
        return []
    split = run.data.split(run.shown_split)
    predicted, rows = LabelShards(run.folder / "predictions", split), example_rows(split)
    read = zip(rows, split.read_images(rows), predicted.read(rows), split.read_masks(rows), strict=True)
    return [
        Example(
            key=split.key(row),
            image=decode_image(image),
            prediction=masks.decode(prediction),
            truth=masks.decode(mask) if mask else None,
        )
        for row, image, prediction, mask in read
        if prediction
    ]


def _matching_at(sweep: dict[str, Any]) -> list[int] | None:
    return sweep["matchings"][round(sweep["chosen"] * 100)] if "matchings" in sweep else None


def _mapped(labels: np.ndarray, mapping: list[int] | None) -> np.ndarray:
    return labels.astype(np.uint16) if mapping is None else apply_mapping(labels, np.array(mapping)).astype(np.uint16)


def _clusters(run: Run, shares: list[float] | None, inspection: Inspection | None) -> list[Cluster]:
    found = _read(run, f"clusters/{CLUSTERS}")
    if found is None or inspection is None:
        return []
    evaluation, split = _read(run, f"evaluation/{METRICS}"), run.data.split("train")
    clusters = []
    for number, (size, rows) in enumerate(zip(found["sizes"], found["nearest"], strict=True), start=1):
        margins = inspection.margins[number - 1]
        category = evaluation["matching"][number] if evaluation else 0
        clusters.append(
            Cluster(
                number=number,
                num_images=size,
                category=run.data.categories[category - 1] if category else None,
                iou=evaluation["scores"]["ious"][category] if category else None,
                margin=margins[MARGIN_QUANTILES.index(0.5)],
                label_share=shares[number - 1] if shares else None,
                nearest=[resize_shorter(decode_image(data), _THUMBNAIL_PX) for data in split.read_images(rows)],
            )
        )
    return clusters
