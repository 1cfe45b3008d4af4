"""The model card: what a model is, what it was made from, how good it is, and how to use it."""

from typing import Any

from luss_ray.export.segmenter import SegmenterConfig

_SCORES = {"miou": "mIoU", "acc": "image-level accuracy", "f": "F-measure", "b_miou": "boundary mIoU"}
_MOST_NAMES = 60


def model_card(config: SegmenterConfig, title: str) -> str:
    """Return the README.md of a model's folder, with the header that the Hugging Face Hub reads.

    Args:
        config: the model's.
        title: its name.
    """
    about, names = config.about, config.names[1:]
    lines = [
        "---",
        "library_name: luss_ray",
        "pipeline_tag: image-segmentation",
        "license: other  # fill in: it follows from the images' licence and yours",
        "tags: [semantic-segmentation, unsupervised, PASS, ImageNet-S]",
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
        f"| input | RGB, shorter side {config.shorter_side_px} px, ImageNet's mean and deviation |",
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
