"""What healthy training looks like: figures of some finished runs of one recipe, as a table and a picture.

`uv run benchmarks/reference_curves.py RUN [RUN …] --out docs/curves/NAME` writes NAME.csv and NAME.webp.

The table has a row for each stage, figure and step: mean, smallest and largest over the runs.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from luss_ray.core.progress import CONSOLE
from luss_ray.storage.uri import Location
from luss_ray.train.figures import METRICS

STAGES = ("pretrain", "attention", "finetune")
FIGURES = ("loss", "code_entropy", "prototype_usage", "embedding_std", "gradient_norm")
POINTS = 60
Curves = dict[tuple[str, str], list[tuple[int, float, float, float]]]


def smoothed(rows: list[dict[str, float]], figure: str) -> dict[int, float]:
    """Return a figure at `POINTS` steps, each the mean since the one before."""
    rows = [row for row in rows if figure in row]
    parts = np.array_split(np.arange(len(rows)), min(POINTS, len(rows))) if rows else []
    return {int(rows[part[-1]]["step"]): float(np.mean([rows[i][figure] for i in part])) for part in parts}


def gather(runs: list[Location]) -> Curves:
    """Return (step, mean, smallest, largest) over the runs, for each stage and figure that there is."""
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for stage in (stage for stage in STAGES if (run / stage).exists(METRICS)):
            rows = [json.loads(line) for line in (run / stage / METRICS).read().splitlines()]
            for figure in FIGURES:
                for step, value in smoothed(rows, figure).items():
                    found[stage, figure][step].append(value)
    if not found:
        raise SystemExit(f"no {METRICS} of any stage below {', '.join(run.uri for run in runs)}")
    return {
        name: [(step, float(np.mean(v)), min(v), max(v)) for step, v in sorted(steps.items())]
        for name, steps in found.items()
    }


def write_table(curves: Curves, path: Path) -> None:
    """Write the numbers."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["stage", "figure", "step", "mean", "min", "max"])
        for (stage, figure), rows in curves.items():
            writer.writerows([stage, figure, step, *(f"{value:.4g}" for value in values)] for step, *values in rows)


def draw(curves: Curves, path: Path) -> None:
    """Draw a panel for each figure of each stage that there is."""
    stages = [stage for stage in STAGES if (stage, "loss") in curves]
    size = (15, 2.5 * len(stages))
    figure, panels = plt.subplots(len(stages), len(FIGURES), figsize=size, layout="constrained", squeeze=False)
    for row, stage in zip(panels, stages, strict=True):
        for panel, name in zip(row, FIGURES, strict=True):
            points = np.array(curves.get((stage, name), []))
            if not len(points):
                panel.axis("off")
                continue
            panel.plot(points[:, 0], points[:, 1], color="#2a6fbb")
            panel.fill_between(points[:, 0], points[:, 2], points[:, 3], color="#2a6fbb", alpha=0.2, linewidth=0)
            panel.set_title(f"{stage}: {name.replace('_', ' ')}", fontsize=10)
            panel.set_xlabel("step", fontsize=8)
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())  # pyright: ignore[reportAttributeAccessIssue]
    Image.fromarray(pixels).convert("RGB").save(path, quality=85)


def main() -> None:
    """Write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    curves = gather([Location.parse(run) for run in given.runs])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_table(curves, given.out.with_suffix(".csv"))
    draw(curves, given.out.with_suffix(".webp"))
    CONSOLE.print(f"{given.out}.csv and {given.out}.webp, from {len(given.runs)} runs")


if __name__ == "__main__":
    main()
