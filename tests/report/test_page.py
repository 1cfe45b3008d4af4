"""The page is valid, self-contained HTML, and says what is missing."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from luss_ray.report.colours import luminance
from luss_ray.report.data import ReportData
from luss_ray.report.page import duration, number, percent, render

VOID = {"meta", "link", "img", "br", "hr", "input"}
MAX_BYTES = 6_000_000


class Checker(HTMLParser):
    """Collects the tree's faults: unbalanced tags, ids used twice, missing alternative texts, outer addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.headings: list[int] = []
        self.faults: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if "id" in values:
            self.ids.append(values["id"] or "")
        if tag == "img" and not values.get("alt"):
            self.faults.append("image without alternative text")
        if tag == "th" and values.get("scope") not in ("row", "col"):
            self.faults.append("table header without scope")
        if tag == "svg" and not (values.get("role") == "img" and values.get("aria-label")):
            self.faults.append("figure without label")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name in ("src", "href", "xlink:href"):
            address = values.get(name) or "#"
            if not address.startswith(("#", "data:")):
                self.faults.append(f"{tag} refers to {address}")
            self.targets += [address[1:]] if len(address) > 1 and address[0] == "#" else []
        self.targets += [values["aria-labelledby"] or ""] if "aria-labelledby" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        self.text += data if self.open and self.open[-1] not in ("style", "title") else ""


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.faults and not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    assert set(checker.targets) <= set(checker.ids)
    assert page.lstrip().startswith("<!DOCTYPE html>") and len(page.encode()) < MAX_BYTES
    levels = checker.headings
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= set(checker.tags)
    assert not re.search(r"\b(None|nan|Undefined)\b", checker.text)
    return checker


def test_a_finished_run(run: ReportData) -> None:
    text = check(render(run)).text
    for words in ("34.1", "Random backbone", "True label on the whole image", "Everything “other”", "Ground truth"):
        assert words in text
    for words in (
        "ML: 25–50 %",
        "prototype usage",
        "Pixel attention",
        "2.60.0",
        "9f2b6d0c51",
        "3 min 51 s",
        "crops.size_px",
    ):
        assert words in text
    assert "Not there yet" not in text
    assert "5.5 % of the labels" in text and "labelled pixels by cluster" in text
    assert "margin 0.125" in text and "objective of each restart" in text
    assert "0.62 of their information (NMI); 71.5 % are" in text
    assert "choose the attention threshold" in text and "Pixels labelled, %" in text and "63.0" in text
    order = [text.index(words) for words in ("3 min 51 s", "Clustering", "Inference", "Random backbone, all stages")]
    assert order == sorted(order) and "3 min 0 s" in text


def test_without_labels_clusters_take_the_place_of_scores(unlabelled: ReportData) -> None:
    text = check(render(unlabelled)).text
    assert "10 clusters, found without labels" in text and "Cluster 10" in text
    assert "Scores" not in text and "Ground truth" not in text and "Not there yet" not in text


def test_a_network_that_learnt_masks_has_no_clusters_and_no_threshold(run: ReportData) -> None:
    metrics = {"finetuned": run.result["metrics"]["finetuned"]}
    examples = [replace(example, attention=None, pseudo_label=None) for example in run.examples]
    result = {**run.result, "metrics": metrics, "weights": {"uri": "s3://somewhere/mae.pth"}}
    page = check(render(replace(run, result=result, supervised=True, examples=examples, threshold=None)))
    text = page.text
    assert "starts from the weights of mae.pth" in text and "learnt from" in text and "34.1" in text
    assert not {"clusters", "threshold"} & set(page.ids) and "scores" in page.ids
    assert "Not there yet" not in text and "was not run" not in text


def test_how_the_number_of_clusters_was_found_is_shown(unlabelled: ReportData) -> None:
    text = check(render(replace(unlabelled, silhouettes={4: 0.31, 10: 0.52, 16: 0.4}))).text
    assert "10 taken" in text and "silhouette by number of clusters" in text and "was not given" in text


def test_a_page_of_a_run_that_goes_on_loads_itself_again(begun: ReportData) -> None:
    page = render(replace(begun, under_way=True))
    assert 'http-equiv="refresh"' in page and "loads itself again" in check(page).text
    assert 'http-equiv="refresh"' not in render(begun)


def test_a_threshold_without_labels_is_named_where_there_are_masks(run: ReportData) -> None:
    result = {**run.result, "threshold": {**run.result["threshold"], "used": "label-free"}}
    text = check(render(replace(run, result=result))).text
    assert "chosen without labels" in text and "choose the attention threshold" not in text


def test_a_run_that_has_just_begun_says_what_is_missing(begun: ReportData) -> None:
    text = check(render(begun)).text
    assert text.count("Not there yet") >= 6 and "Pretraining" in text


@pytest.mark.parametrize("labelled", [True, False])
def test_an_empty_run(labelled: bool) -> None:
    assert check(render(ReportData(result={}, labelled=labelled))).text.count("Not there yet") >= 5


@pytest.fixture(scope="module")
def small(run: ReportData) -> ReportData:
    return replace(
        run, examples=run.examples[:1], clusters=run.clusters[:1], curves={"new": run.curves["attention"][:9]}
    )


@pytest.mark.parametrize("lacking", ["curves", "threshold", "examples", "clusters", "categories"])
def test_any_part_may_be_missing(small: ReportData, lacking: str) -> None:
    empty = {"curves": {}, "threshold": None, "examples": [], "clusters": [], "categories": []}
    check(render(replace(small, **{lacking: empty[lacking]})))


@pytest.mark.parametrize("lacking", ["recipe", "settings", "versions", "data", "stages", "metrics", "threshold"])
def test_any_key_of_the_result_may_be_missing(small: ReportData, lacking: str) -> None:
    check(render(replace(small, result={key: value for key, value in small.result.items() if key != lacking})))


def test_names_are_escaped(small: ReportData) -> None:
    names = ['<script>alert("1")</script>', *small.categories[1:]]
    page = render(replace(small, categories=names, name="a & b <i>"))
    assert "<script" not in page and "a &amp; b &lt;i&gt;" in page


def test_24_large_examples_stay_small(run: ReportData) -> None:
    draws = np.random.default_rng(0)
    big = [
        replace(
            example,
            image=draws.integers(0, 256, (375, 500, 3), np.uint8),
            **{
                name: np.resize(getattr(example, name), (375, 500))
                for name in ("attention", "pseudo_label", "prediction", "truth")
            },
        )
        for example in (run.examples * 3)[:30]
    ]
    assert render(replace(run, examples=big)).count('class="example"') == 24


def test_text_has_contrast_in_both_themes(begun: ReportData) -> None:
    for theme in re.findall(r":root \{(.*?)\}", render(begun), re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for text in ("ink", "muted", "accent", "second", "bad") if "page" in colours else ():
            bright, dark = sorted((luminance(colours[text]), luminance(colours["page"])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) > 4.5, text


def test_words_for_numbers() -> None:
    assert [percent(value) for value in (None, 0.0, 12.345)] == ["–", "0.0", "12.3"]
    assert [number(value) for value in (None, 3, 72.727, 1234567)] == ["–", "3", "72.7", "1\u2009234\u2009567"]
    assert [duration(s) for s in (None, 3.21, 59.7, 61, 3700, 400000)] == [
        "–", "3.2 s", "1 min 0 s", "1 min 1 s", "1 h 1 min", "4 d 15 h",
    ]  # fmt: skip


def test_an_alarm_is_told_beside_its_stage(run: ReportData) -> None:
    name, rows = next(iter(run.curves.items()))
    rows = [row | ({"alarm/uniform codes": 1.0} if 10 <= place < 20 else {}) for place, row in enumerate(rows)]
    text = check(render(replace(run, curves=run.curves | {name: rows}))).text
    first, last = int(rows[10]["step"]), int(rows[19]["step"])
    assert f"uniform codes: images are no longer told apart (steps {first} to {last})" in text
    assert "alarm/" not in text
    assert "no longer told apart" not in check(render(run)).text


def test_weights_from_elsewhere_are_named(unlabelled: ReportData) -> None:
    assert "images alone" in render(unlabelled)
    given = {"uri": "s3://bucket/dino.pth", "trained_by": "a file", "sha256": "0"}
    page = render(replace(unlabelled, result=unlabelled.result | {"weights": given}))
    assert "images and the weights of dino.pth" in page and "images alone" not in page
