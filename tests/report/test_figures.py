"""Figures are SVG that takes its colours and type from the page."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from luss_ray.report.data import ReportData, ThresholdSweep
from luss_ray.report.figures import (
    MAX_POINTS,
    MUTED,
    THEME,
    objective_figure,
    quantities,
    share_figure,
    threshold_figure,
    training_figure,
)


def check_themed(svg: str, prefix: str) -> None:
    ET.fromstring(svg.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1).replace(
        ' xmlns:xlink="http://www.w3.org/1999/xlink"', "", 1))  # fmt: skip
    assert not any(colour in svg for colour in THEME)
    assert "var(--ink)" in svg and "<style" not in svg and "font-family" not in svg
    assert all(name.startswith(f"{prefix}-") for name in re.findall(r'\bid="([^"]*)"', svg))
    ids = set(re.findall(r'\bid="([^"]*)"', svg))
    assert set(re.findall(r"url\(#([^)]*)\)", svg)) | set(re.findall(r'href="#([^"]*)"', svg)) <= ids
    assert not re.search(r"<svg[^>]* (width|height)=", svg)


def test_training_figure_names_every_quantity(run: ReportData) -> None:
    svg = training_figure(run.curves["pretrain"], prefix="t0", label='loss "falls"')
    check_themed(svg, "t0")
    assert 'aria-label="loss &quot;falls&quot;"' in svg
    for words in (
        "loss",
        "image to image",
        "pixel to pixel",
        "deep to shallow, stage 3",
        "prototype usage",
        "learning rate",
    ):
        assert f">{words}</text>" in svg
    assert len(svg) < 7 * 30 * MAX_POINTS + 40_000


def test_the_loss_comes_first_and_speed_last() -> None:
    rows = [{"step": 0, "images_per_s": 1.0, "lr": 0.1, "new_part": 2.0, "loss": 3.0}]
    assert quantities(rows) == ["loss", "new_part", "lr", "images_per_s"]


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 0, "loss": 1.0}],
        [{"loss": 1.0}, {"loss": 0.5}],
        [{"step": 3, "loss": math.nan}, {"step": 4, "loss": math.inf}],
        [{"step": 0, "loss": 2.0}, {"step": 5, "loss": 1.0, "late": 7.0}],
        [{"step": 0, "loss": 1e6, "lr": 1e-7}, {"step": 1_000_000, "loss": 1e-6, "lr": 0.0}],
    ],
)
def test_training_figure_of_odd_rows(rows: list[dict[str, float]]) -> None:
    svg = training_figure(rows, prefix="odd", label="")
    check_themed(svg, "odd")
    assert "nan" not in svg and "inf" not in svg


def test_threshold_figure_shows_both_choices(run: ReportData) -> None:
    assert run.threshold
    svg = threshold_figure(run.threshold, width_px=600, prefix="wide", label="")
    check_themed(svg, "wide")
    assert "validation 0.41" in svg and "label-free 0.37" in svg
    assert "training pixels that keep a label, %" in svg
    without = threshold_figure(replace(run.threshold, coverage=[]), width_px=600, prefix="wide", label="")
    assert "keep a label" not in without


@pytest.mark.parametrize(
    "sweep",
    [
        ThresholdSweep(thresholds=[], mious=[], label_free=0.3, histogram=[1, 5, 2, 0]),
        ThresholdSweep(thresholds=[0.0, 0.1], mious=[1.0, None], validation=0.0),
        ThresholdSweep(thresholds=[], mious=[], label_free=0.5, coverage=[100.0, 40.0, 0.0]),
        ThresholdSweep(thresholds=[0.0, 0.4, 0.8], mious=[1.0, 2.0, 1.0], label_free=0.4, validation=0.4),
    ],
)
def test_threshold_figure_of_parts(sweep: ThresholdSweep) -> None:
    check_themed(threshold_figure(sweep, width_px=340, prefix="part", label=""), "part")


@pytest.mark.parametrize("objective", [[[3.0, 2.0], [2.0, None]], [[1.0]], [[5.0, 4.0], [None, None]]])
def test_objective_figure_of_restarts(objective: list[list[float | None]]) -> None:
    svg = objective_figure(objective, width_px=340, prefix="objective", label="")
    check_themed(svg, "objective")
    assert "nan" not in svg and "objective of each restart" in svg


@pytest.mark.parametrize("num_clusters", [2, 50, 919])
def test_share_figure_has_a_bar_for_each_cluster(num_clusters: int) -> None:
    shares = [100 / num_clusters] * num_clusters
    svg = share_figure(shares, width_px=600, prefix="shares", label="")
    check_themed(svg, "shares")
    assert svg.count(f"fill: var({THEME[MUTED]})") >= num_clusters
    assert svg == share_figure(shares, width_px=600, prefix="shares", label="")


def test_figures_are_reproducible(run: ReportData) -> None:
    first, second = (training_figure(run.curves["finetune"], prefix="x", label="") for _ in range(2))
    assert first == second
