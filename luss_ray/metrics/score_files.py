"""Scores predictions in a folder against masks in another, a process for each core."""

import contextlib
import functools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from luss_ray.core.progress import StageProgress
from luss_ray.imagenet_s.label_files import LabelFiles
from luss_ray.metrics.evaluation import Question, Tally

_FILES_A_PART = 32


def score_files(files: LabelFiles, question: Question) -> Tally:
    """Return the counts of predictions in a folder, by a process for each core."""
    total = question.tally()
    parts = [files.names[start : start + _FILES_A_PART] for start in range(0, len(files.names), _FILES_A_PART)]
    count = functools.partial(_count_files, files, question)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(StageProgress("evaluation", len(files.names), "images", images_per_unit=1))
        counted = map(count, parts)
        if len(parts) > 1:
            pool = stack.enter_context(ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("forkserver")))
            counted = pool.map(count, parts)
        done = 0
        for part, tally in zip(parts, counted, strict=True):
            total += tally
            done += len(part)
            progress.update(done)
    return total


def _count_files(files: LabelFiles, question: Question, names: list[str]) -> Tally:
    tally = question.tally()
    for name in names:
        tally.add(files.read(name, tally.findings))
    return tally
