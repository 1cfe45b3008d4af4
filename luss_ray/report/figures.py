"""Curves as inline SVG whose colours and type come from the page's style sheet."""

import html
import math
import re
from collections.abc import Sequence
from io import StringIO

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from luss_ray.report.data import ThresholdSweep
from luss_ray.train.collapse import ALARM

POINTS_PER_INCH = 72
TRAINING_PX, LOSS_PX, STRIP_PX = 320, 110, 28
MAX_POINTS = 240
"""Longer curves are averaged over runs of steps, down to this many points."""
AXIS_KEYS = ("step", "epoch")
LAST_KEYS = ("lr", "images_per_s", "data/wait_s", "data/ready_steps", "data/quarantined")
LABELS = {
    "loss": "loss",
    "i2i": "image to image",
    "p2p": "pixel to pixel",
    "d2s": "deep to shallow",
    "prototype_usage": "prototype usage",
    "code_entropy": "code entropy",
    "swap_of_ln_k": "swapped prediction / ln K",
    "embedding_std": "spread of embeddings",
    "queue_steps": "steps in the queue",
    "gradient_norm": "length of the gradient",
    "lr": "learning rate",
    "images_per_s": "images/s",
    "data/wait_s": "wait for data, s",
    "data/ready_steps": "batches ready",
    "data/quarantined": "unreadable images",
}
INK, MUTED, LINE, ACCENT, SECOND = "#010203", "#020304", "#030405", "#040506", "#050607"
SWEPT = {
    "curve": "mIoU of the pseudo-labels, %",
    "coverage": "training pixels that keep a label, %",
    "histogram": "pixels by attention",
}
THEME = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", SECOND: "--second"}
"""Colours the figures are drawn in -> the page's variables that take their place."""

CLEANING = [
    (r"<metadata>.*?</metadata>|<style.*?</style>", ""),
    (r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"', r"\1"),
    (r'<g id="[^"]*"', "<g"),
    (r' font-family: [^;"]*;', ""),
    (r"\s*\n\s*", " "),
]
"""(pattern, replacement): what the page's style sheet decides, and what nothing refers to."""


def training_figure(rows: list[dict[str, float]], *, prefix: str, label: str) -> str:
    """Return one stage's curves over its steps as SVG: the loss on top, a strip for every other quantity below.

    Args:
        rows: rows in step order, see `ReportData.curves`.
        prefix: makes the figure's ids unique in the page.
        label: what a screen reader says instead of the figure.
    """
    names = quantities(rows)
    heights_px = [LOSS_PX if name == "loss" else STRIP_PX for name in names]
    first, last = rows[0].get("step", 0), rows[-1].get("step", len(rows) - 1)
    figure, places = _stacked(heights_px, width_px=TRAINING_PX, left_px=40, right_px=4)
    for name, axes in zip(names, places, strict=True):
        steps, values = _curve(rows, name)
        axes.plot(steps, values, color=ACCENT if name == "loss" else INK, linewidth=1.8 if name == "loss" else 1.1)
        axes.set_xlim(first, max(last, first + 1))
        _plain(axes, num_ticks=4 if name == "loss" else 2, is_last=axes is places[-1], label="step")
        axes.set_title(_title(name), loc="left", fontsize=11, color=INK, pad=4)
        axes.set_title(_short(values[-1]) if len(values) else "", loc="right", fontsize=11, color=MUTED, pad=4)
    return _svg(figure, prefix=prefix, label=label)


def quantities(rows: list[dict[str, float]]) -> list[str]:
    """Return the names of what rows hold, in the order drawn: loss, its parts, learning rate, speed, data.

    Unreadable images are left out where there were none.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name not in AXIS_KEYS))
    names = [name for name in names if not name.startswith(ALARM)]
    if not any(row.get("data/quarantined") for row in rows):
        names = [name for name in names if name != "data/quarantined"]
    parts = [name for name in names if name not in ("loss", *LAST_KEYS)]
    return [name for name in ("loss", *parts, *LAST_KEYS) if name in names]


def threshold_figure(sweep: ThresholdSweep, *, width_px: int, prefix: str, label: str) -> str:
    """Return mIoU and coverage over the threshold, the histogram of attention below them, and both choices as SVG.

    Args:
        sweep: the curves; any part may be missing.
        width_px: width the page shows it at, so that its letters have the page's size.
        prefix: makes the figure's ids unique in the page.
        label: what a screen reader says instead of the figure.
    """
    heights_px = {"curve": 190} if sweep.mious else {}
    heights_px |= {"coverage": 60} if sweep.coverage else {}
    heights_px |= {"histogram": 80} if sweep.histogram else {}
    figure, places = _stacked(list(heights_px.values()), width_px=width_px, left_px=34, right_px=8, top_px=52)
    last = sweep.thresholds[-1] if sweep.thresholds else sweep.histogram_range[1]
    for part, axes in zip(heights_px, places, strict=True):
        if part == "curve":
            _draw_curve(axes, sweep)
        elif part == "coverage":
            axes.plot(np.linspace(0, 1, len(sweep.coverage)), sweep.coverage, color=INK, linewidth=1.8)
        else:
            _draw_histogram(axes, sweep, last)
        axes.set_xlim(0, last)
        _plain(axes, num_ticks=2 if part == "coverage" else 4, is_last=axes is places[-1], label="attention threshold")
        axes.set_ylim(bottom=0)
        is_first = axes is places[0]
        axes.set_title(SWEPT[part], loc="left", fontsize=11, color=INK, pad=36 if is_first else 4)
        _draw_choices(axes, sweep, named=is_first)
    return _svg(figure, prefix=prefix, label=label)


def share_figure(shares: Sequence[float], *, width_px: int, prefix: str, label: str) -> str:
    """Return how the labelled pixels are shared out among the clusters as SVG, the largest share first.

    Args:
        shares: of each cluster, percent.
        width_px: width the page shows it at.
        prefix: makes the figure's ids unique in the page.
        label: what a screen reader says instead of the figure.
    """
    figure, (axes,) = _stacked([80], width_px=width_px, left_px=34, right_px=8)
    places = np.arange(1, len(shares) + 1)
    axes.bar(places, sorted(shares, reverse=True), width=0.8, color=MUTED)
    axes.axhline(100 / len(shares), color=ACCENT, linewidth=1.4)
    axes.set_xlim(0.5, len(shares) + 0.5)
    _plain(axes, num_ticks=2, is_last=True, label="clusters, by their share")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("labelled pixels by cluster, % (line: even shares)", loc="left", fontsize=11, color=INK)
    return _svg(figure, prefix=prefix, label=label)


def objective_figure(objective: list[list[float | None]], *, width_px: int, prefix: str, label: str) -> str:
    """Return the objective of k-means over its iterations as SVG: a line for each restart, the lowest end stands out.

    Args:
        objective: by iteration, then by restart; None once a restart was given up.
        width_px: width the page shows it at.
        prefix: makes the figure's ids unique in the page.
        label: what a screen reader says instead of the figure.
    """
    figure, (axes,) = _stacked([110], width_px=width_px, left_px=44, right_px=8)
    values = np.array([[math.nan if value is None else value for value in row] for row in objective])
    axes.plot(values, color=MUTED, linewidth=0.8)
    axes.plot(values[:, np.where(np.isnan(values[-1]), math.inf, values[-1]).argmin()], color=ACCENT, linewidth=1.8)
    _plain(axes, num_ticks=3, is_last=True, label="iteration")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title("objective of each restart of k-means", loc="left", fontsize=11, color=INK)
    return _svg(figure, prefix=prefix, label=label)


def silhouette_figure(silhouettes: dict[int, float], *, width_px: int, prefix: str, label: str) -> str:
    """Return the mean silhouette by number of clusters as SVG; the number that was taken stands out.

    Args:
        silhouettes: see `ReportData.silhouettes`.
        width_px: width the page shows it at.
        prefix: makes the figure's ids unique in the page.
        label: what a screen reader says instead of the figure.
    """
    figure, (axes,) = _stacked([110], width_px=width_px, left_px=44, right_px=8)
    axes.plot(list(silhouettes), list(silhouettes.values()), "o-", color=INK, linewidth=1.1, markersize=3)
    best = max(silhouettes, key=silhouettes.__getitem__)
    axes.plot(best, silhouettes[best], "o", color=ACCENT, markersize=7)
    _plain(axes, num_ticks=3, is_last=True, label="clusters")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_title("silhouette by number of clusters", loc="left", fontsize=11, color=INK)
    axes.set_title(f"{best} taken", loc="right", fontsize=11, color=ACCENT)
    return _svg(figure, prefix=prefix, label=label)


def _stacked(
    heights_px: list[int], *, width_px: int, left_px: int, right_px: int, top_px: int = 20
) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes of these heights below each other, so that figures of unlike lengths line up."""
    gap_px, bottom_px = 27, 30
    height_px = top_px + sum(heights_px) + gap_px * (len(heights_px) - 1) + bottom_px
    figure = Figure(figsize=(width_px / POINTS_PER_INCH, height_px / POINTS_PER_INCH))
    width = (width_px - left_px - right_px) / width_px
    places, upper_px = [], height_px - top_px
    for below_px in heights_px:
        upper_px -= below_px
        places.append(figure.add_axes((left_px / width_px, upper_px / height_px, width, below_px / height_px)))
        upper_px -= gap_px
    return figure, places


def _draw_curve(axes: Axes, sweep: ThresholdSweep) -> None:
    values = [math.nan if miou is None else miou for miou in sweep.mious]
    axes.plot(sweep.thresholds, values, color=INK, linewidth=1.8)
    for choice, colour in ((sweep.validation, ACCENT), (sweep.label_free, SECOND)):
        if choice is not None:
            axes.plot(choice, np.interp(choice, sweep.thresholds, values), "o", color=colour, markersize=6)


def _draw_histogram(axes: Axes, sweep: ThresholdSweep, last: float) -> None:
    edges = np.linspace(*sweep.histogram_range, len(sweep.histogram) + 1)
    shown = edges[:-1] < last
    axes.bar(edges[:-1][shown], np.array(sweep.histogram)[shown], np.diff(edges)[shown], align="edge", color=MUTED)
    axes.set_yticks([])


def _draw_choices(axes: Axes, sweep: ThresholdSweep, *, named: bool) -> None:
    choices = [(sweep.validation, ACCENT, "-", "validation"), (sweep.label_free, SECOND, (0, (4, 2)), "label-free")]
    present = sorted((choice for choice in choices if choice[0] is not None), key=lambda choice: choice[0])
    for line, (value, colour, dashes, name) in enumerate(present):
        axes.axvline(value, color=colour, linewidth=1.4, linestyle=dashes)
        if named:
            to_left = value > axes.get_xlim()[1] / 2
            axes.annotate(
                f"{name} {value:.2f}", (value, 1), xycoords=("data", "axes fraction"),
                xytext=(0, 4 + 14 * line), textcoords="offset points", ha="right" if to_left else "left",
                fontsize=11, color=colour,
            )  # fmt: skip


def _curve(rows: list[dict[str, float]], name: str) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    points = [(row.get("step", place), row[name]) for place, row in enumerate(rows) if row.get(name) is not None]
    if name == "images_per_s":  # no rate before the second step
        points = [point for point in points if point[1] > 0]
    finite = np.array([point for point in points if math.isfinite(point[1])], np.float64).reshape(-1, 2)
    runs = np.array_split(finite, min(MAX_POINTS, max(1, len(finite))))
    means = np.array([run.mean(axis=0) for run in runs if len(run)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def _plain(axes: Axes, *, num_ticks: int, is_last: bool, label: str) -> None:
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=MUTED, linewidth=0.8)
    if len(axes.get_yticks()):
        axes.yaxis.set_major_locator(MaxNLocator(num_ticks, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.ticklabel_format(axis="both", style="plain", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=1))
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.tick_params(length=0, labelsize=10, labelcolor=MUTED, pad=4)
    axes.set_axisbelow(True)
    if is_last:
        axes.set_xlabel(label, fontsize=10, color=MUTED, labelpad=1)
    else:
        axes.tick_params(labelbottom=False)


def _title(name: str) -> str:
    part, _, stage = name.rpartition("_")
    return f"{LABELS[part]}, stage {stage}" if part in LABELS else LABELS.get(name, name.replace("_", " "))


def _short(value: float) -> str:
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "\u2212")


def _svg(figure: Figure, *, prefix: str, label: str) -> str:
    text = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    for pattern, replacement in CLEANING:
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="|(?:xlink:)?href="#|url\(#', lambda found: f"{found.group()}{prefix}-", svg)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label, quote=True)}"', 1)
