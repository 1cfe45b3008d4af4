"""Compare with the published systems' own numbers: `python tests/golden/run.py DIR [--only eval|curve|method]`.

Every case below DIR is checked, one line a check with the largest difference seen; exit code 1 if any is off. A case
of `eval` holds masks, predictions, a names file and what the ImageNet-S toolbox answered (`expected.json`, exact
counts in `accum_*.npz`); one of `curve` holds attention maps too and what PASS's evaluator answered at 81 thresholds.
`method` holds arrays of the method's parts, from Sinkhorn to whole training steps. The tests that are marked
`reference` compare them, one line a test; a file that none of them opened counts as off.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.label_files import LabelledImage, find_label_files
from luss_ray.metrics.curve import PUBLISHED_THRESHOLDS, ThresholdCurve
from luss_ray.metrics.evaluation import Matching, Question, read_matching
from luss_ray.metrics.matching import MatchingCounts, match_by_images, matching_total
from luss_ray.metrics.scores import F_UNIT, Scores
from luss_ray.metrics.segmentation import SegmentationCounts

PERCENT_TOLERANCE = 1e-3
_BUCKETS = ("S", "MS", "ML", "L", "BS", "BMS", "BML", "BL")
FIELDS = {"Acc": "acc", "mIoU": "miou", "mBIoU": "mbiou", "FMeasure": "f", "IoUs": "ious"}
FIELDS |= {name: name.lower() for name in _BUCKETS}


@dataclass(frozen=True)
class Check:
    """One comparison: the largest difference to a stored number, and how much of it is allowed."""

    name: str
    difference: float
    allowed: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the difference is within what is allowed."""
        return self.difference <= self.allowed

    def __str__(self) -> str:
        return f"{'ok ' if self.holds else 'OFF'} {self.name}: {self.difference:.3g} (allowed {self.allowed:g})"


def difference(ours: Any, stored: Any) -> float:
    """Return the largest absolute difference; infinite where shapes differ or only one side is NaN."""
    a, b = (np.asarray(value, np.float64) for value in (ours, stored))
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return math.inf
    return float(np.nanmax(np.abs(a - b), initial=0.0))


def eval_case(case: Path) -> Iterator[Check]:
    """Yield the checks of one case of the toolbox's evaluation and matching."""
    expected = json.loads((case / "expected.json").read_text())
    num_categories = expected["num_classes"]
    images = _images(case, names=case / "names.txt")
    yield from _scores(
        images,
        Question(num_categories=num_categories, num_clusters=num_categories, matching=Matching.NONE),
        expected["no_match"],
        "no_match",
    )
    yield from _counts(images, num_categories, None, case / "accum_no_match.npz")
    if expected["with_match"] is not None:
        mapping, _ = read_matching(case / expected["match_file"], num_categories)
        question = Question(
            num_categories=num_categories, num_clusters=len(mapping) - 1, matching=Matching.FILE, mapping=mapping
        )
        yield from _scores(images, question, expected["with_match"], "with_match")
        yield from _counts(images, num_categories, np.array(mapping), case / "accum_with_match.npz")
    yield from _matching(images, num_categories, expected["match"], case / "cooccurrence.npz")


def _images(case: Path, **options: Any) -> list[LabelledImage]:
    files, findings = find_label_files(case / "validation", case / "validation-segmentation", **options)
    return [files.read(name, findings) for name in files.names]


def _scores(images: list[LabelledImage], question: Question, expected: dict, name: str) -> Iterator[Check]:
    tally = question.tally()
    for image in images:
        tally.add(image)
    yield from _fields(tally.evaluation().scores, expected, name)


def _fields(scores: Scores, expected: dict, name: str) -> Iterator[Check]:
    for column, field in FIELDS.items():
        stored = math.nan if expected[column] is None else expected[column]
        yield Check(f"{name} {column}", difference(getattr(scores, field), stored), PERCENT_TOLERANCE)


def _counts(
    images: list[LabelledImage], num_categories: int, mapping: np.ndarray | None, file: Path
) -> Iterator[Check]:
    """Compare the integer counts behind the scores, and F image by image."""
    counts, f_images = SegmentationCounts(num_categories), []
    for image in images:
        assert image.prediction is not None
        before = counts.f_units
        counts.update(image.prediction, image.mask, mapping=mapping)
        f_images.append((counts.f_units - before) / F_UNIT)
    with np.load(file) as stored:
        for kind, prefix in enumerate(("", "B")):
            for which, letters in enumerate(("T", "P", "TP")):
                ours, name = counts.counts[kind, which], f"{file.stem} {prefix}{letters}"
                yield Check(name, difference(ours[0], stored[prefix + letters]))
                yield Check(f"{name}s", difference(ours[1:], stored[f"{prefix}{letters}s"]))
        yield Check(f"{file.stem} F", difference(f_images, stored["F"]), 1e-6)


def _matching(images: list[LabelledImage], num_categories: int, expected: dict, file: Path) -> Iterator[Check]:
    """Compare the optimum's value and the pairs that every optimum has; ties are frequent, so not the mapping."""
    counts = MatchingCounts(num_categories, num_categories)
    for image in images:
        assert image.prediction is not None
        counts.update(image.prediction, image.mask)
    mapping = match_by_images(counts)
    with np.load(file) as stored:
        yield Check("match co-occurrence", difference(counts.images, stored["count"]))
    yield Check("match total", abs(matching_total(counts.images, mapping) - expected["optimal_total"]))
    forced = sum(mapping[cluster] != category for cluster, category in expected["forced_pairs"])
    yield Check("match pairs that every optimum has", float(forced))


def curve_case(case: Path) -> Iterator[Check]:
    """Yield the checks of one case of PASS's threshold sweep: scores with the stored mappings, and our own optimum."""
    expected = json.loads((case / "expected.json").read_text())
    curve = ThresholdCurve(expected["num_classes"], thresholds=PUBLISHED_THRESHOLDS)
    for image in _images(case, attention=case / "validation"):
        assert image.prediction is not None
        curve.update(image.prediction, image.attention, image.mask)
    with np.load(case / "curve.npz") as stored:
        mappings = np.pad(stored["match"].astype(np.int64) + 1, ((0, 0), (1, 0)))
        scored = curve.compute(mappings=mappings)
        yield Check("thresholds", difference(scored.thresholds, stored["thresholds"]), 1e-9)
        for column, field in FIELDS.items():
            ours = [getattr(scores, field) for scores in scored.scores]
            yield Check(f"curve {column}", difference(ours, stored[column]), PERCENT_TOLERANCE)
        yield Check("curve total of the stored matchings", difference(scored.matching_totals, stored["match_total"]))
        yield Check("curve total of our matchings", difference(curve.compute().matching_totals, stored["match_total"]))
    yield Check("best threshold", abs(scored.best - expected["best_index"]))


KINDS: dict[str, Callable[[Path], Iterator[Check]]] = {"eval": eval_case, "curve": curve_case}


METHOD = "method"


def method_checks(folder: Path) -> list[Check]:
    """Run the tests that compare with the method's arrays; return a check for each of them and for each file."""
    here, folder = Path(__file__).parent, folder.absolute()
    with tempfile.TemporaryDirectory() as name:
        seen = Path(name) / "seen.json"
        environment = {"PYTHONPATH": str(here), "GOLDEN_WATCH": str(seen), "LUSS_RAY_GOLDEN": str(folder)}
        command = [sys.executable, "-m", "pytest", "-p", "watch", "-m", "reference", "--no-summary", f"--ignore={here}"]
        subprocess.run(command, env=os.environ | environment, cwd=here.parents[1], check=False)
        if not seen.exists():
            raise UserError("the tests marked `reference` could not be run; see above")
        noted = json.loads(seen.read_text())
    tests = [Check(name, 0.0 if passed else math.inf) for name, passed in noted["outcomes"]]
    files = sorted(path for path in (folder / METHOD).rglob("*") if path.is_file())
    unread = [
        Check(f"{path.relative_to(folder)} is compared", float(str(path) not in noted["opened"])) for path in files
    ]
    return tests + unread


def find_cases(folder: Path, only: str | None = None) -> list[tuple[str, Path]]:
    """Return kind and folder of each case below `folder`; UserError if there is none."""
    if only not in (None, METHOD, *KINDS):
        raise UserError(f"--only {only}: there are {', '.join([*KINDS, METHOD])}")
    cases = [
        (kind, case.parent)
        for kind in KINDS
        if only in (None, kind)
        for case in sorted((folder / kind).glob("*/expected.json"))
    ]
    if only in (None, METHOD) and (folder / METHOD).is_dir():
        cases.append((METHOD, folder / METHOD))
    if not cases:
        raise UserError(f"no cases below {folder} (looked for {', '.join(KINDS)}/*/expected.json and {METHOD})")
    return cases


def main(folder: tyro.conf.Positional[Path], only: str | None = None) -> int:
    """Check every case below a folder against the stored numbers.

    Args:
        folder: holds `eval`, `curve` and `method`.
        only: one of them.
    """
    num_checks, off = 0, 0
    for kind, case in find_cases(folder, only):
        for check in method_checks(folder) if kind == METHOD else KINDS[kind](case):
            num_checks += 1
            off += not check.holds
            print(f"{kind}/{case.name} {check}" if kind != METHOD else check)
    print(f"{num_checks} checks, {off} off")
    return int(off > 0)


if __name__ == "__main__":
    run(lambda: parsed(lambda: tyro.cli(main)))
