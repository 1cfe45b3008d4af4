"""Several crops of each image: from the decoder to the network's input."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from luss_ray.config.recipe import Crops
from luss_ray.core.seeds import COLOURS, uniforms
from luss_ray.data.augment import augment
from luss_ray.data.colour import COLOUR_DRAWS, draw_colour
from luss_ray.data.crops import multi_crop, num_draws
from luss_ray.data.decode import decode_image


@dataclass(frozen=True)
class MultiCrop:
    """Decodes an image once and cuts all its crops; runs in the loaders."""

    crops: Crops

    @property
    def num_uniforms(self) -> int:
        """Uniform numbers that one sample takes."""
        return num_draws(self.crops.specs())

    def __call__(self, image: bytes, label: bytes | None, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Return uint8 crops `crops_0` (2, H, W, 3), `crops_1` (num_local, h, w, 3) and `geometry` (crops, 5)."""
        parts, geometry = multi_crop(decode_image(image), self.crops.specs(), draws)
        return {f"crops_{kind}": part for kind, part in enumerate(parts)} | {"geometry": geometry}


def coloured_crops(batch: dict[str, Tensor], crops: Crops, seed: int) -> dict[str, Tensor]:
    """Return the network's input, a float tensor `crops_<kind>` per resolution, crop-major: (V n, 3, H, W).

    Args:
        batch: `crops_<kind>` (n, V, H, W, 3) on the device, `epoch` and `row` (n,) on the host.
        crops: their settings.
        seed: the run's seed; colours depend on it, epoch and row alone.
    """
    num_crops = 2 + crops.num_local
    draws = uniforms(seed, COLOURS, batch["epoch"].tolist(), batch["row"].tolist(), num_crops * COLOUR_DRAWS)
    crop_major = draws.reshape(len(draws), num_crops, COLOUR_DRAWS).transpose(1, 0, 2)
    inputs, used = {}, 0
    for kind, spec in enumerate(crops.specs()):
        params = draw_colour(crop_major[used : used + spec.num].reshape(-1, COLOUR_DRAWS), crops.colour)
        name = f"crops_{kind}"
        inputs[name] = augment(batch[name].transpose(0, 1).flatten(0, 1), params, crops.colour)
        used += spec.num
    return inputs


def crops_of(batch: dict[str, Tensor], crops: Crops) -> list[Tensor]:
    """Return a batch's crops, a tensor per resolution."""
    return [batch[f"crops_{kind}"] for kind, _ in enumerate(crops.specs())]
