"""The model card: what a model is, what it was made from, how good it is, and how to use it."""

import re
from collections.abc import Mapping
from typing import Any

from luss_ray.export.config import INTERPOLATION, SegmenterConfig

_SCORES = {"miou": "mIoU", "acc": "image-level accuracy", "f": "F-measure", "mbiou": "boundary mIoU"}
"""What is shown of `luss_ray.metrics.scores.Scores`."""
_SUPERVISION = {"fully-unsupervised": "unsupervised", "semi-supervised": "semi-supervised"}
"""Tags by protocol; one that allows anything has none."""
_IMAGENET_S = re.compile(r"imagenet-s-\d+")
_MOST_NAMES = 60


def model_card(config: SegmenterConfig, title: str) -> str:
    """Return the README.md of a model's folder, with the header that the Hugging Face Hub reads.

    Args:
        config: the model's.
        title: its name.
    """
    about, names, radius = config.about, config.names[1:], config.guided_radius
    lines = [
        "---",
        "library_name: luss_ray",
        "pipeline_tag: image-segmentation",
        "license: other  # fill in: it follows from the images' licence and yours",
        f"tags: [{', '.join(tags(about))}]",
        "---",
        "",
        f"# {title}",
        "",
        f'Tells {len(names)} categories and "other" apart, pixel by pixel, in images of any size. Made with luss_ray.',
        "",
        "```python",
        "import luss_ray",
        "",
        'model = luss_ray.load("this folder")',
        'ids = model.predict("photo.jpg")  # uint16, the size of the photo; model.names says what they are',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| network | {config.model.architecture.about} |",
        f"| input | RGB, shorter side {config.shorter_side_px} px ({INTERPOLATION}), from 0 to 1 |",
        f"| less mean, divided by deviation | {_numbers(config.mean)}; {_numbers(config.std)} |",
        *([f"| predictions | follow outlines within {radius:g} pixels of the output |"] if radius else []),
        *[f"| {key} | {_text(value)} |" for key, value in about.items() if key != "metrics" and value is not None],
        "",
        *_metrics(about.get("metrics") or {}),
        "## Outputs",
        "",
        ", ".join(f"{number} {name}" for number, name in enumerate(config.names[:_MOST_NAMES]))
        + (f", … ({len(names)} in all, see config.json)" if len(names) >= _MOST_NAMES else ""),
        "",
    ]
    return "\n".join(lines)


def tags(about: Mapping[str, Any]) -> list[str]:
    """Return the tags that the Hub finds a model by.

    Args:
        about: the configuration's: protocol, method and dataset count.
    """
    found = ["semantic-segmentation", _SUPERVISION.get(about.get("protocol", ""))]
    found.append("PASS" if about.get("method") == "PASS" else None)
    found.append("ImageNet-S" if _IMAGENET_S.fullmatch(about.get("dataset") or "") else None)
    return [tag for tag in found if tag]


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _metrics(metrics: dict[str, Any]) -> list[str]:
    scores = metrics.get("finetuned")
    if not scores:
        return ["No masks were at hand to score it with.", ""]
    rows = [f"| {name} | {scores[key]:.1f} |" for key, name in _SCORES.items() if scores.get(key) is not None]
    return ["## Scores on validation, percent", "", "| | |", "|---|---|", *rows, ""]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value).replace("|", "\\|")
