"""The report: one HTML file with everything inside that opens from disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from luss_ray.report import gallery, scores
from luss_ray.report.data import ReportData
from luss_ray.report.figures import (
    objective_figure,
    quantities,
    share_figure,
    silhouette_figure,
    threshold_figure,
    training_figure,
)
from luss_ray.train.collapse import ALARM, meaning

WIDTHS_PX = {"wide": 620, "narrow": 340}
"""Wide figures are drawn twice, and the style sheet shows the one that fits."""
STAGES = {
    "pretrain": "Pretraining",
    "attention": "Pixel attention",
    "features": "Features",
    "estimate": "Number of clusters",
    "clusters": "Clustering",
    "threshold": "Attention threshold",
    "pseudo-labels": "Pseudo-labels",
    "finetune": "Fine-tuning",
    "predictions": "Inference",
    "evaluation": "Evaluation",
    "baselines": "Baselines",
}
"""Stage -> what the page calls it, in the order of the run."""
RANDOM_BACKBONE = "random-backbone/"
"""How the names of the random backbone's own stages start; the page adds them up."""
NUM_OPEN_EXAMPLES = 8
NUM_OPEN_CATEGORIES = 40
NUM_LARGEST = 8
"""Clusters whose sizes stand beside the first pictures where there are no scores."""


def render(data: ReportData) -> str:
    """Return the report page as the text of one HTML file that needs nothing else.

    Args:
        data: the run; parts that it lacks are named as not there yet.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": duration, "number": number, "stage": stage_name}
    return environment.get_template("template.html.j2").render(**_context(data))


def percent(value: float | None, digits: int = 1) -> str:
    """Return a score as text, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def number(value: float | None) -> str:
    """Return a count or rate as text with thin spaces between thousands."""
    if value is None:
        return "–"
    return f"{value:,.0f}".replace(",", "\u2009") if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Return a duration as text of two units at most."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def stage_name(key: str) -> str:
    """Return what the page calls a stage."""
    return STAGES.get(key, key.replace("_", " ").replace("-", " ").capitalize())


def _context(data: ReportData) -> dict[str, Any]:
    names = gallery.Names(data)
    cards = gallery.example_cards(data, names)
    methods = scores.methods(data) if data.labelled else []
    categories = scores.category_rows(methods, data.categories, names.colours)
    stages = _stages(data)
    seconds = [stage.get("seconds") or 0.0 for stage in stages.values()]
    return {
        "data": data,
        "result": data.result,
        "title": data.name or _recipe(data),
        "recipe": _recipe(data),
        "names": names,
        "hero": gallery.hero(data, cards),
        "cards": cards,
        "num_open": NUM_OPEN_EXAMPLES,
        "clusters": gallery.cluster_cards(data, names),
        "num_largest": NUM_LARGEST,
        "methods": methods,
        "by_key": {method.key: method for method in methods},
        "measures": scores.MEASURES,
        "best": max([method.score("miou") or 0.0 for method in methods] + [1e-6]),
        "size_columns": scores.size_columns(methods),
        "categories": categories,
        "num_open_categories": NUM_OPEN_CATEGORIES,
        "training": _training(data),
        "threshold": _threshold(data),
        "cluster_figures": _cluster_figures(data),
        "agreement": data.result.get("clusters") or {},
        "stages": stages,
        "total_s": sum(seconds),
        "longest_s": max([*seconds, 1e-6]),
        "settings": scores.groups(data.result.get("settings") or {}),
        "versions": data.result.get("versions") or {},
        "facts": data.result.get("data") or {},
        "splits": _splits(data),
    }


def _recipe(data: ReportData) -> str:
    recipe = data.result.get("recipe")
    return str((recipe.get("name") if isinstance(recipe, dict) else recipe) or "run")


def _stages(data: ReportData) -> dict[str, dict[str, Any]]:
    stages = data.result.get("stages") or {}
    own = {key: stage for key, stage in stages.items() if not key.startswith(RANDOM_BACKBONE)}
    ordered = {key: own[key] for key in [*STAGES, *own] if key in own}
    others = [stage.get("seconds") or 0.0 for key, stage in stages.items() if key not in own]
    return ordered | ({"random backbone, all stages": {"seconds": sum(others)}} if others else {})


def _splits(data: ReportData) -> dict[str, dict[str, Any]]:
    counts = (data.result.get("data") or {}).get("splits") or {}
    return {split: value if isinstance(value, dict) else {"images": value} for split, value in counts.items()}


def _training(data: ReportData) -> list[dict[str, Any]]:
    figures = []
    for place, (stage, rows) in enumerate(data.curves.items()):
        if not rows or not quantities(rows):
            continue
        losses = [row["loss"] for row in rows if row.get("loss") is not None]
        words = f"from {losses[0]:.3g} to {losses[-1]:.3g}" if losses else ""
        label = f"{stage_name(stage)}: loss {words} over {len(rows)} recorded steps"
        svg = training_figure(rows, prefix=f"training-{place}", label=label)
        figures.append({"stage": stage, "svg": Markup(svg), "words": words, "alarms": _alarms(rows)})
    return figures


def _alarms(rows: list[dict[str, float]]) -> list[str]:
    """Return what each collapse alarm says and the steps between which it held."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(ALARM))
    steps = {name: [int(row["step"]) for row in rows if name in row] for name in names}
    texts = {name: name.removeprefix(ALARM) for name in names}
    return [f"{texts[name]}: {meaning(texts[name])} (steps {held[0]} to {held[-1]})" for name, held in steps.items()]


def _cluster_figures(data: ReportData) -> list[dict[str, Markup]]:
    """Return the figures of number, objective and labels' shares, at both widths; without those not there yet."""
    figures = []
    if data.silhouettes:
        best = max(data.silhouettes, key=data.silhouettes.__getitem__)
        label = (
            f"silhouettes of {len(data.silhouettes)} numbers of clusters: {data.silhouettes[best]} at {best} is best"
        )
        figures.append(_both_widths(silhouette_figure, data.silhouettes, "silhouettes", label))
    if data.objective:
        label = f"objective of {len(data.objective[0])} restarts of k-means over {len(data.objective)} iterations"
        figures.append(_both_widths(objective_figure, data.objective, "objective", label))
    shares = [cluster.label_share for cluster in data.clusters if cluster.label_share is not None]
    if shares:
        extent = f"{max(shares):.2g} to {min(shares):.2g} %"
        label = f"shares of {len(shares)} clusters in the labelled training pixels: {extent}"
        figures.append(_both_widths(share_figure, shares, "shares", label))
    return figures


def _both_widths(draw: Callable[..., str], values: Any, name: str, label: str) -> dict[str, Markup]:
    return {
        kind: Markup(draw(values, width_px=width, prefix=f"{name}-{kind}", label=label))
        for kind, width in WIDTHS_PX.items()
    }


def _threshold(data: ReportData) -> dict[str, Any] | None:
    sweep = data.threshold
    if sweep is None or not (sweep.mious or sweep.histogram or sweep.coverage):
        return None
    choices = [("validation", sweep.validation), ("label-free", sweep.label_free)]
    named = ", ".join(f"{name} choice {value:.2f}" for name, value in choices if value is not None)
    parts = {"mIoU by threshold": sweep.mious, "coverage": sweep.coverage, "histogram of attention": sweep.histogram}
    shown = " and ".join(name for name, values in parts.items() if values)
    svgs = _both_widths(threshold_figure, sweep, "threshold", f"{shown}; {named}")
    return {"svgs": svgs, "choices": _choices(data)}


def _choices(data: ReportData) -> list[dict[str, Any]]:
    sweep = data.threshold
    assert sweep is not None
    by_threshold = {round(t, 6): miou for t, miou in zip(sweep.thresholds, sweep.mious, strict=False)}
    named = {"validation": sweep.validation, "label-free": sweep.label_free}
    return [
        {
            "name": name,
            "value": value,
            "miou": scores.finite(_nearest(by_threshold, value)),
            "coverage": sweep.coverage[round(value * (len(sweep.coverage) - 1))] if sweep.coverage else None,
            "used": name == sweep.used,
        }
        for name, value in named.items()
        if value is not None
    ]


def _nearest(by_threshold: dict[float, float | None], value: float) -> float | None:
    if not by_threshold:
        return None
    return by_threshold[min(by_threshold, key=lambda threshold: abs(threshold - value))]
