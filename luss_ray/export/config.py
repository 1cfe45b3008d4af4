"""What a model's config.json says: everything beside the weights that a prediction follows from."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from luss_ray.core.errors import UserError
from luss_ray.data.colour import MEAN, STD
from luss_ray.nn.config import ModelConfig

FORMAT = 2
"""The newest that is read; written is the oldest that says all there is to say. 2: `guided_radius`."""
INTERPOLATION = "bilinear, antialiased"
"""How images are resized, in words."""
_FOR_PEOPLE = ("format", "names", "matching", "about")
Channels: TypeAlias = tuple[float, float, float]
"""A number for red, green and blue, of values in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """What a folder's config.json says."""

    model: ModelConfig
    """The network."""
    shorter_side_px: int
    """To which images are resized before they go through it."""
    mean: Channels = MEAN
    """Subtracted from each channel in [0, 1] then."""
    std: Channels = STD
    """Each channel is divided by it at last."""
    guided_radius: float = 0.0
    """Radius in pixels of its outputs within which predictions follow the image's outlines; 0 = they do not."""
    names: tuple[str, ...]
    """What its outputs are called, "other" first."""
    matching: tuple[int, ...] | None = None
    """The category that each output was matched with when the run was scored, 0 = none; None = outputs are categories,
    or nothing was there to match with."""
    about: dict[str, Any]
    """Where it comes from, for people: recipe, protocol, data, scores."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, which `from_json` reads."""
        return {
            "format": 2 if self.guided_radius else 1,
            "model": self.model.to_json(),
            "shorter_side_px": self.shorter_side_px,
            "interpolation": INTERPOLATION,
            "mean": list(self.mean),
            "std": list(self.std),
            "names": list(self.names),
            "matching": None if self.matching is None else list(self.matching),
            "about": self.about,
        } | ({"guided_radius": self.guided_radius} if self.guided_radius else {})

    def decisive(self) -> dict[str, Any]:
        """Return the part of `to_json` that the ids of a prediction follow from."""
        return {name: value for name, value in self.to_json().items() if name not in _FOR_PEOPLE}

    @classmethod
    def from_json(cls, values: Any, uri: str) -> "SegmenterConfig":
        """Return what `to_json` wrote; where there is no mean or deviation they are ImageNet's.

        Args:
            values: of config.json.
            uri: names the file in errors.

        Raises:
            UserError: it is of a later version, no config.json of a segmenter, or has other names than outputs.
        """
        version = values.get("format") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise UserError(f"{uri} has format {version}, this version reads up to {FORMAT}: install a newer luss_ray")
        try:
            if "format" not in values["model"]:  # a network alone, as jobs/convert.py writes it
                raise KeyError("format")
            model, matching = ModelConfig.from_json(values["model"]), values.get("matching")
            return cls(
                model=model,
                shorter_side_px=int(values["shorter_side_px"]),
                mean=_channels(values.get("mean", MEAN)),
                std=_channels(values.get("std", STD)),
                guided_radius=_radius(values.get("guided_radius", 0.0)),
                names=_names(values["names"], model, uri),
                matching=None if matching is None else tuple(int(category) for category in matching),
                about=dict(values["about"]),
            )
        except UserError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(
                f"{uri} describes no model that segments images: give the model/ folder of a finished run"
            ) from None


def _radius(value: Any) -> float:
    if not 0 <= float(value) < math.inf:
        raise ValueError(value)
    return float(value)


def _channels(values: Any) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _names(names: Any, model: ModelConfig, uri: str) -> tuple[str, ...]:
    num = "" if model.num_categories is None else f"{model.num_categories + 1} "
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{uri}: names must be a list of {num}texts, what 0 is called ("other") first')
    if model.num_categories is not None and len(names) != model.num_categories + 1:
        raise UserError(
            f"{uri}: {len(names)} names for a model with {num}outputs: "
            f'give {num}names, what 0 is called ("other") first'
        )
    return tuple(names)
