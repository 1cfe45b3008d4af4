"""A run that looks like a real one, made of drawn shapes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from luss_ray.report.data import IGNORE, Cluster, Example, ReportData, ThresholdSweep

CATEGORIES = ["chair", "sofa", "table", "car", "person", "tree", "plant", "lamp", "cabinet", "window"]
SIDE_PX = 96


def draw_example(number: int) -> Example:
    """Return a scene with one or two shapes, its ground truth, and maps that are nearly right."""
    draws = np.random.default_rng(number)
    main = number % len(CATEGORIES) + 1
    image = np.full((SIDE_PX, SIDE_PX, 3), draws.integers(90, 210, 3), np.uint8)
    image = np.clip(image + np.linspace(-40, 40, SIDE_PX)[:, None, None], 0, 255).astype(np.uint8)
    truth = np.zeros((SIDE_PX, SIDE_PX), np.uint16)
    for category in [main] + [int(draws.integers(1, len(CATEGORIES) + 1))] * (number % 3 == 0):
        centre = tuple(int(value) for value in draws.integers(30, 66, 2))
        axes = tuple(int(value) for value in draws.integers(14, 30, 2))
        shape = cv2.ellipse(np.zeros_like(truth), centre, axes, 20 * category, 0, 360, 1, -1).astype(bool)
        image[shape] = np.clip(draws.integers(0, 255, 3) + draws.normal(0, 12, (shape.sum(), 1)), 0, 255)
        edge = cv2.dilate(shape.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        truth[edge] = IGNORE
        truth[shape] = category
    inside = ((truth > 0) & (truth < IGNORE)).astype(np.float32)
    attention = 0.25 + 0.3 * cv2.GaussianBlur(inside, (0, 0), 5) + draws.normal(0, 0.01, inside.shape)
    pseudo = np.where(attention > 0.4, main, 0).astype(np.uint16)
    wrong = int(draws.integers(1, len(CATEGORIES) + 1)) if number % 5 == 4 else main
    prediction = np.where(cv2.GaussianBlur(inside, (0, 0), 2) > 0.4, wrong, 0).astype(np.uint16)
    return Example(
        key=f"{CATEGORIES[main - 1]}/scene_{number:05d}",
        image=image,
        attention=attention.astype(np.float32),
        pseudo_label=pseudo,
        prediction=prediction,
        truth=truth,
    )


def curve(num_steps: int, parts: dict[str, tuple[float, float]]) -> list[dict[str, float]]:
    """Return rows of a loss that falls, with named parts that go from one value to another."""
    draws = np.random.default_rng(num_steps)
    rows = []
    for step in range(num_steps):
        fall = np.exp(-4 * step / num_steps)
        row = {name: b + (a - b) * fall + draws.normal(0, 0.02) for name, (a, b) in parts.items()}
        lr = 0.6 * 0.5 * (1 + np.cos(np.pi * step / num_steps))
        rows.append({"step": step, "epoch": 20 * step / num_steps, **row, "lr": lr, "images_per_s": 820.0})
    return rows


def score(miou: float, acc: float, f: float, *, seed: int, sizes: bool = True) -> dict:
    """Return one entry of result.json's metrics."""
    spread = np.random.default_rng(seed).normal(0, 9, len(CATEGORIES) + 1)
    ious = [max(0.0, float(value)) for value in miou + spread]
    buckets = {"s": 4.1, "ms": miou * 0.8, "ml": miou * 1.1, "l": None} if sizes else {}
    return {"miou": miou, "acc": acc, "f": f, "ious": [*ious[:-1], None], **buckets}


def make_result() -> dict:
    """Return what result.json holds at the end of a demo run."""
    stages = {
        "random-backbone/attention": (61.0, 48_000),
        "random-backbone/finetune": (119.0, 60_000),
        "pretrain": (231.4, 180_000),
        "attention": (64.2, 48_000),
        "features": (8.1, 3000),
        "clusters": (3.9, 3000),
        "threshold": (5.5, 400),
        "pseudo-labels": (9.7, 3000),
        "finetune": (118.0, 60_000),
        "predictions": (3.2, 400),
        "evaluation": (1.4, 400),
    }
    return {
        "recipe": "demo",
        "settings": {
            "seed": 10010,
            "num_workers": [1, 2],
            "pretrain": {
                "epochs": 60,
                "batch": 128,
                "crops": {"num": 2, "size_px": 40, "scale": [0.3, 1.0]},
                "lr": 0.1,
            },
            "finetune": {"epochs": 20, "lr": 0.1},
        },
        "versions": {"luss_ray": "0.1.0", "ray": "2.60.0", "torch": "2.15.0", "python": "3.11.9"},
        "data": {
            "uri": "/data/luss/demo-10-96px-seed0",
            "digest": "9f2b6d0c51e7a48890b13c7de4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d",
            "splits": {
                "train": {"images": 3000, "masks": 0, "shards": 6},
                "validation": {"images": 400, "masks": 400, "shards": 1},
            },
        },
        "stages": {
            name: {"seconds": seconds, "images": images, "images_per_s": images / seconds}
            for name, (seconds, images) in stages.items()
        },
        "metrics": {
            "finetuned": score(34.1, 58.2, 71.4, seed=1),
            "pseudo_labels": score(29.7, 51.0, 64.9, seed=2),
            "baselines": {
                "other": score(7.6, 0.0, 0.0, seed=3, sizes=False),
                "whole_image": score(24.2, 100.0, 38.1, seed=4),
                "random_backbone": score(15.3, 24.7, 52.2, seed=5),
            },
        },
        "threshold": {"chosen": 0.41, "used": "validation", "validation": 0.41, "label_free": 0.37},
        "clusters": {"images": 3000, "margin": 0.1375, "nmi": 0.62, "accuracy": 71.5},
    }


def make_sweep() -> ThresholdSweep:
    """Return a threshold curve with one clear top."""
    thresholds = [round(0.01 * place, 2) for place in range(81)]
    mious: list[float | None] = [8 + 22 * float(np.exp(-(((t - 0.41) / 0.11) ** 2))) for t in thresholds]
    bins = np.linspace(0, 1, 101)[:-1]
    counts = 60_000 * np.exp(-(((bins - 0.28) / 0.04) ** 2)) + 18_000 * np.exp(-(((bins - 0.5) / 0.07) ** 2))
    return ThresholdSweep(
        thresholds=thresholds, mious=mious, label_free=0.37, validation=0.41, used="validation",
        histogram=[int(count) for count in counts], coverage=[100 - place for place in range(101)],
    )  # fmt: skip


def make_run(num_examples: int = 12) -> ReportData:
    """Return a finished run with labels."""
    examples = [draw_example(number) for number in range(num_examples)]
    clusters = [
        Cluster(
            number=place + 1,
            num_images=300 + 13 * place,
            category=name if place < 9 else None,
            iou=52.0 - 5 * place if place < 9 else None,
            label_share=5.5 + place,
            margin=0.125 + 0.01 * place,
            nearest=[draw_example(place + 10 * copy).image for copy in range(8)],
        )
        for place, name in enumerate(CATEGORIES)
    ]
    parts = {
        "loss": (5.2, 1.9),
        "i2i": (4.1, 1.6),
        "d2s_3": (4.2, 1.8),
        "p2p": (-0.1, -0.8),
        "prototype_usage": (0.3, 0.9),
    }
    return ReportData(
        result=make_result(),
        name="first-look",
        curves={
            "pretrain": curve(1400, parts),
            "attention": curve(300, {"loss": (3.1, 2.2)}),
            "finetune": curve(400, {"loss": (2.3, 0.6)}),
        },
        threshold=make_sweep(),
        examples=examples,
        clusters=clusters,
        objective=[[9.0 - step, None if step > 2 else 9.0] for step in range(6)],
        categories=CATEGORIES,
    )


def make_unlabelled(run: ReportData) -> ReportData:
    """Return the run as a plain folder of images would have given it."""
    assert run.threshold
    result = {**run.result, "metrics": {}, "threshold": {"chosen": 0.37, "used": "label-free", "label_free": 0.37}}
    return replace(
        run,
        result=result,
        name="plain-folder",
        labelled=False,
        categories=[],
        examples=[replace(example, truth=None) for example in run.examples],
        clusters=[replace(cluster, category=None, iou=None) for cluster in run.clusters],
        threshold=replace(run.threshold, thresholds=[], mious=[], validation=None, used="label-free"),
    )


@pytest.fixture(scope="session")
def run() -> ReportData:
    return make_run()


@pytest.fixture(scope="session")
def unlabelled(run: ReportData) -> ReportData:
    return make_unlabelled(run)


@pytest.fixture(scope="session")
def begun() -> ReportData:
    """Return a run that has only pretrained for a while."""
    result = make_result()
    return ReportData(
        result={"recipe": "demo", "settings": result["settings"], "stages": {}, "metrics": {}},
        name="begun",
        curves={"pretrain": curve(30, {"loss": (5.0, 4.0)})},
        categories=CATEGORIES,
    )
