"""What each part of the method is worth: the ablations side by side, over seeds.

`uv run benchmarks/quality.py [RECIPE] [--seeds 3] [--rows swav pass …] [--storage URI] [--figure FILE] [--json FILE]
[--option=--data --option=s3://…]`

Every row is a run of jobs/pass.py (the supervised ones of jobs/finetune.py), which shares with the seed's run of PASS
whatever follows from the same settings. Runs that are finished are not run again, so rows can be added later.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from rich.table import Table

from luss_ray.core.progress import CONSOLE
from luss_ray.report.collect import RESULT
from luss_ray.storage.uri import Location

JOBS = Path(__file__).parents[1] / "jobs"
FIRST_SEED = 10010
PASS = "pass"
_NO_SHALLOW, _NO_PIXELS = ("--pretrain.shallow-stages",), ("--pretrain.pixel-to-pixel", "0")
_PRIOR = ("--labels.image-prior", "4")
_PER_IMAGE = ("--labels.attention-per-image", "--threshold.max", "0.95")
_BOTH = _PRIOR + _PER_IMAGE
_GUIDED = ("--prediction.guided-radius", "1.25")
_LABEL_FREE = ("--threshold.choice", "label-free")
_MULTI_CROP = (
    *("--attention.crops.num-local", "2", "--attention.crops.local-px", "24"),
    *("--attention.crops.local-scale", "0.15", "0.4"),
)
_SUPERVISED = ("--finetune.optimisation.epochs", "100")
"""The annotated images are few: as many updates as the pseudo-labels of all images get."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    title: str
    options: tuple[str, ...] = ()
    supervised: bool = False
    """Fine-tuned on true masks."""
    pretrained: bool = True
    """From the weights of PASS; only of supervised rows."""


ROWS = {
    PASS: Row("PASS: SwAV + pixel-to-pixel + deep-to-shallow", ("--random-baseline",)),
    "swav": Row("SwAV alone", _NO_SHALLOW + _NO_PIXELS),
    "pixels": Row("SwAV + pixel-to-pixel", _NO_SHALLOW),
    "shallow": Row("SwAV + deep-to-shallow", _NO_PIXELS),
    "no-attention": Row("PASS without pixel attention", ("--attention.no-enabled",)),
    "label-free": Row("PASS, threshold label-free", _LABEL_FREE),
    "image-prior": Row("PASS, the image's cosine beside the pixel's", _PRIOR),
    "per-image": Row("PASS, attention stretched image by image", _PER_IMAGE),
    "per-image-label-free": Row("PASS, attention stretched, threshold label-free", (*_PER_IMAGE, *_LABEL_FREE)),
    "guided": Row("PASS, predictions follow outlines", _GUIDED),
    "both": Row("PASS, the image's cosine and stretched attention", _BOTH),
    "both-longer": Row("both, fine-tuned twice as long", (*_BOTH, "--finetune.optimisation.epochs", "12")),
    "both-head": Row("both, classifier at twice the resolution", (*_BOTH, "--finetune.head.upsampling", "2")),
    "both-parts": Row("both, four parts a cluster, merged", (*_BOTH, "--clustering.parts-per-cluster", "4")),
    "both-multi-crop": Row("both, multi-crop for the attention", (*_BOTH, *_MULTI_CROP)),
    "both-label-free": Row("both, threshold label-free", (*_BOTH, *_LABEL_FREE)),
    "both-pixels": Row("both, without deep-to-shallow", (*_NO_SHALLOW, *_BOTH)),
    "plus": Row("pass-plus: both, predictions follow outlines", _BOTH + _GUIDED),
    "plus-label-free": Row("pass-plus, threshold label-free", (*_BOTH, *_GUIDED, *_LABEL_FREE)),
    "plus-pixels": Row("pass-plus without deep-to-shallow", (*_NO_SHALLOW, *_BOTH, *_GUIDED)),
    "supervised": Row("PASS backbone, true masks of train-semi", _SUPERVISED, supervised=True),
    "supervised-guided": Row(
        "PASS backbone, true masks, predictions follow outlines", (*_SUPERVISED, *_GUIDED), supervised=True
    ),
    "from-scratch": Row("random backbone, true masks of train-semi", _SUPERVISED, supervised=True, pretrained=False),
}
RANDOM = "random backbone, whole method"


@dataclass(frozen=True)
class Bench:
    """Where runs lie and what all of them are given."""

    recipe: str
    storage: str
    options: tuple[str, ...]

    def folder(self, row: str, seed: int) -> Location:
        """Return a run's folder."""
        return Location.parse(self.storage) / f"quality-{row}-{seed}"

    def run(self, row: str, seed: int) -> dict:
        """Return the result of a row's run with a seed."""
        asked, folder = ROWS[row], self.folder(row, seed)
        words = ["--seed", str(seed), "--storage", self.storage, "--name", folder.uri.rsplit("/", 1)[-1]]
        if row != PASS and asked.pretrained:
            words += ["--weights" if asked.supervised else "--reuse", self.folder(PASS, seed).uri]
        if row != PASS and not asked.supervised:
            words += ["--no-random-baseline"]
        job = JOBS / ("finetune.py" if asked.supervised else "pass.py")
        command = [sys.executable, str(job), self.recipe, *words, *self.options, *asked.options]
        CONSOLE.print(f"[bold]{asked.title}[/bold], seed {seed}")
        subprocess.run(command, check=True)
        return folder.read_json(RESULT)


def scores(bench: Bench, rows: Sequence[str], seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Return mIoU over seeds, for each row before and after fine-tuning."""
    found: dict[str, dict[str, list[float]]] = {}

    def note(title: str, when: str, value: float) -> None:
        found.setdefault(title, {}).setdefault(when, []).append(value)

    for seed in seeds:
        for row in (PASS, *(row for row in rows if row != PASS)):
            metrics = bench.run(row, seed)["metrics"]
            note(ROWS[row].title, "fine-tuned", metrics["finetuned"]["miou"])
            if "pseudo_labels" in metrics:
                note(ROWS[row].title, "pseudo-labels", metrics["pseudo_labels"]["miou"])
            random = metrics.get("baselines", {}).get("random_backbone")
            if random:
                note(RANDOM, "fine-tuned", random["miou"])
    return found


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation over seeds."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw a bar a row, and a dot a seed."""
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(found) + 1.2), layout="constrained")
    titles = sorted(found, key=lambda title: statistics.mean(found[title]["fine-tuned"]))
    for place, title in enumerate(titles):
        for when, offset, colour in (("fine-tuned", 0.18, "#2a6fbb"), ("pseudo-labels", -0.18, "#a9c7e8")):
            values = found[title].get(when)
            if values:
                axes.barh(place + offset, statistics.mean(values), 0.34, color=colour)
                axes.plot(values, [place + offset] * len(values), "o", color="black", markersize=3)
    axes.set_yticks(range(len(titles)), titles)
    axes.set_xlabel("mIoU on validation, percent\n(dark: fine-tuned, light: pseudo-labels, dots: seeds)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--option", action="append", default=[], help="one more word for every job, e.g. --option=--data"
    )
    given = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    found = scores(Bench(given.recipe, given.storage, tuple(given.option)), given.rows, seeds)
    table = Table("mIoU, mean ± std over seeds", "pseudo-labels", "fine-tuned")
    for title, values in found.items():
        before = values.get("pseudo-labels")
        table.add_row(title, spread(before) if before else "", spread(values["fine-tuned"]))
    CONSOLE.print(table)
    if given.figure:
        draw(found, given.figure)
    if given.json:
        given.json.write_text(json.dumps({"seeds": list(seeds), "miou": found}, indent=1))


if __name__ == "__main__":
    main()
