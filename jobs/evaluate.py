#!/usr/bin/env -S uv run
"""Score predicted label maps as ImageNet-S does: `python jobs/evaluate.py --predictions P --masks M …`."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.core.findings import Findings
from luss_ray.core.progress import CONSOLE
from luss_ray.imagenet_s.label_files import find_label_files
from luss_ray.metrics.curve import PUBLISHED_THRESHOLDS
from luss_ray.metrics.evaluation import Evaluation, Matching, Question, Tally, read_matching
from luss_ray.metrics.score_files import score_files
from luss_ray.storage.dataset import MANIFEST, ShardedDataset, Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location, json_bytes

_KINDS = {kind.value: kind for kind in Matching if kind is not Matching.FILE}
_MS_AN_IMAGE = {False: 5.0, True: 10.0}
"""Of ImageNet's size on one core, by whether the curve is asked for."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score predicted label maps against masks as the ImageNet-S benchmark does, in one pass over them."""

    predictions: str
    """Folder with <class>/<name>.png, or shards of labels (RUN/predictions, here or in s3://)."""
    masks: str
    """Folder with <class>/<name>.png, or the sharded dataset that was predicted."""
    num_categories: int
    """N; ids are 0 (other), 1 to N, and 1000 in masks (ignore)."""
    out: Path
    """JSON file for the scores, in percent."""
    matching: str = "auto"
    """auto (one-to-one by images: the benchmark's), none (ids are categories), a JSON file {"cluster": category}, or,
    not the benchmark's: pixels (one-to-one by pixels), many-to-one."""
    num_clusters: int | None = None
    """Ids in the predictions; as many as categories if not given."""
    attention: Path | None = None
    """Folder with <class>/<name>.npy, float16 or float32, of the masks' sizes."""
    curve: bool = False
    """Score every attention threshold from 0.00 to 0.80 and report the best."""
    names: Path | None = None
    """The benchmark's list of `image mask` pairs; without it every mask is scored."""
    split: str = "validation"
    """Which split of a sharded dataset."""
    save_matching: Path | None = None
    """JSON file for the matching that was used, as the benchmark's toolbox writes it."""
    strict: bool = False
    """Make an error of what would be a warning."""
    dry_run: bool = False
    """Say what would be done, and whether it could be; do and write nothing."""
    log: Path = Path("runs/ray.log")
    """File for what Ray has to say."""

    def question(self) -> tuple[Question, Findings]:
        """Return what is asked, and what is odd about the matching's file."""
        mapping, findings = None, Findings()
        kind = _KINDS.get(self.matching, Matching.FILE)
        if kind is Matching.FILE:
            mapping, findings = read_matching(Path(self.matching), self.num_categories)
        if self.curve and self.attention is None:
            raise UserError("--curve needs the attention maps: give --attention DIR")
        if self.attention is not None and not self.curve:
            raise UserError("--attention is for the threshold curve: give --curve too")
        if mapping is not None and self.num_clusters is not None:
            raise UserError("--num-clusters follows from the matching's file: leave it out")
        if kind is Matching.NONE and self.save_matching is not None:
            raise UserError("--save-matching: with --matching none there is no matching to save")
        num_clusters = self.num_categories if self.num_clusters is None else self.num_clusters
        question = Question(
            num_categories=self.num_categories,
            num_clusters=len(mapping) - 1 if mapping is not None else num_clusters,
            matching=kind,
            mapping=mapping,
            thresholds=PUBLISHED_THRESHOLDS if self.curve else None,
        )
        return question, findings


def main(options: Options) -> None:
    """Score, print the most important numbers and leave them all in a file."""
    question, findings = options.question()
    _say(findings, options.strict)
    if Location.parse(options.masks).exists(MANIFEST):
        if options.names is not None or options.attention is not None:
            raise UserError("--names and --attention are for folders of PNGs; shards bring their own list")
        split, labels = _shards(options)
        if options.dry_run:
            _say_what(len(split), options)
            return
        tally = _tally_shards(labels, question, options.log)
    else:
        predictions, masks = (_folder(name) for name in (options.predictions, options.masks))
        files, odd = find_label_files(predictions, masks, names=options.names, attention=options.attention)
        _say(odd, options.strict)
        if options.dry_run:
            _say_what(len(files.names), options)
            return
        tally = score_files(files, question)
    _say(tally.findings, options.strict)
    _leave(tally.evaluation(), options.out, options.save_matching)


def _folder(name: str) -> Path:
    location = Location.parse(name)
    if not location.is_local:
        raise UserError(f"{name} holds no dataset (no {MANIFEST}); folders of PNGs must be local")
    return location.local_path


def _say_what(num_images: int, options: Options) -> None:
    minutes = num_images * _MS_AN_IMAGE[options.curve] / 60_000
    CONSOLE.print(f"{num_images:,} images to score into {options.out}: about {minutes:.2g} minutes of one core")
    CONSOLE.print("nothing has been written")


def _shards(options: Options) -> tuple[Split, LabelShards]:
    split = ShardedDataset.open(Location.parse(options.masks)).split(options.split)
    if not split.has_masks:
        raise UserError(f"the split {options.split} of {options.masks} has no masks to score with")
    labels = LabelShards(Location.parse(options.predictions), split)
    missing = sorted(set(range(len(split.shards))) - set(labels.published()))
    if missing:
        name = labels.location.child(split.shards[missing[0]]).uri
        raise UserError(f"{len(missing)} of {len(split.shards)} shards of predictions are missing (e.g. {name})")
    return split, labels


def _tally_shards(labels: LabelShards, question: Question, log: Path) -> Tally:
    # Importing Ray and torch takes seconds, which folders don't need.
    from luss_ray.stages.evaluate import score_shards
    from luss_ray.train import cluster

    cluster.join(log)
    return score_shards(labels, question)


def _say(findings: Findings, strict: bool) -> None:
    lines = findings.lines()
    if lines and strict:
        raise UserError(f"{lines[0]}; --strict")
    for line in lines:
        CONSOLE.print(f"warning: {line}")


def _leave(evaluation: Evaluation, out: Path, save_matching: Path | None) -> None:
    """Write the results and print the most important of them."""
    _write(out, json_bytes(evaluation.to_json()))
    if save_matching is not None:
        _write(save_matching, (json.dumps(evaluation.matching_json()) + "\n").encode())
    table = Table(box=None, pad_edge=False)
    scores = evaluation.scores
    columns = {"mIoU": scores.miou, "acc": scores.acc, "F": scores.f, "mBIoU": scores.mbiou}
    columns |= {name.upper(): getattr(scores, name) for name in ("s", "ms", "ml", "l", "bs", "bms", "bml", "bl")}
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.2f}" for value in columns.values()))
    CONSOLE.print(table)
    if evaluation.curve is not None:
        CONSOLE.print(f"threshold {evaluation.curve.best_threshold:.2f}: the first maximum of mIoU")
    CONSOLE.print(f"{scores.num_images} images, matching {evaluation.question.matching.value}; {out}")


def _write(path: Path, data: bytes) -> None:
    location = Location.parse(str(path.absolute().parent))
    location.write(path.name, data)


if __name__ == "__main__":
    run(lambda: main(parsed(lambda: tyro.cli(Options))))
