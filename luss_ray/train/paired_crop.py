"""One crop of image and label together, cut in the loaders: the label is a pseudo-label or a true mask."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from luss_ray.config.recipe import Finetune
from luss_ray.core.errors import BadSampleError
from luss_ray.data.crops import DRAWS_PER_CROP, CropSpec, LabelAt, paired_crop
from luss_ray.data.decode import decode_image
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.soft_label import SoftLabel


@runtime_checkable
class Labels(Protocol):
    """Reads one kind of label."""

    def of(self, label: bytes, height: int, width: int) -> LabelAt:
        """Return what gives the ids at rows and columns of the image.

        Args:
            label: encoded.
            height: of the image, pixels.
            width: of the image, pixels.

        Raises:
            BadSampleError: it can't be read, or doesn't belong to an image of this size.
        """
        ...


@dataclass(frozen=True)
class PseudoLabels:
    """Clusters 1 .. k of a `SoftLabel`, 0 = other."""

    threshold: float
    """Attention below which a pixel is "other"."""

    def of(self, label: bytes, height: int, width: int) -> LabelAt:
        """Return clusters at the image's pixels."""
        soft = SoftLabel.decode(label)

        def at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            return soft.at(rows, columns, height=height, width=width).pseudo_label(self.threshold)

        return at


@dataclass(frozen=True)
class TrueMasks:
    """Categories 1 .. N of an annotation, 0 = other, 1000 = to be ignored."""

    def of(self, label: bytes, height: int, width: int) -> LabelAt:
        """Return categories at the image's pixels."""
        mask = masks.decode(label)
        if mask.shape != (height, width):
            raise BadSampleError(f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels, the image {width}x{height}")

        def at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            return mask[rows[:, None], columns]

        return at


@dataclass(frozen=True)
class PairedCrop:
    """Cuts one crop from image and label together."""

    settings: Finetune
    labels: Labels
    num_uniforms: int = DRAWS_PER_CROP

    def __call__(self, image: bytes, label: bytes | None, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Return `crop` uint8 (H, W, 3) and `label` uint16 (H, W).

        Args:
            image: encoded.
            label: encoded.
            draws: `num_uniforms` numbers in [0, 1).

        Raises:
            BadSampleError: either can't be read, or there is no label.
        """
        if label is None:
            raise BadSampleError("no label")
        spec = CropSpec(num=1, size_px=self.settings.crop_px, scale=self.settings.scale)
        pixels = decode_image(image)
        crop, labels = paired_crop(pixels, self.labels.of(label, *pixels.shape[:2]), spec, draws)
        return {"crop": crop, "label": labels}
