"""A finished model as a folder to take away, and the module that it loads as."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8, UInt16
from PIL import Image
from torch import Tensor, nn

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.data.augment import normalise
from luss_ray.data.crops import resize_shorter
from luss_ray.data.decode import decode_image, to_rgb
from luss_ray.export.config import SegmenterConfig
from luss_ray.nn.backbone import on_device
from luss_ray.nn.models import SegmentationModel
from luss_ray.nn.outlines import follow_image
from luss_ray.nn.weights import WeightsFile
from luss_ray.storage.uri import Location, json_bytes

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_MOST_PIXELS = 1000 * 1000
_LONG_SIDE_PX = 1000
Picture: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray | Tensor"
"""An image as people have it: a file's name or content, Pillow's, or uint8 pixels (h, w, 3), or a tensor (3, h, w)."""


class Segmenter(nn.Module):
    """A network that segments images of any size: give `predict` pictures, or `forward` normalised pixels.

    Args:
        network: with its weights.
        config: what goes with it.
    """

    def __init__(self, network: SegmentationModel, config: SegmenterConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.eval()

    @property
    def names(self) -> tuple[str, ...]:
        """What the ids of a prediction are called; 0 is "other"."""
        return self.config.names

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K h w"]:
        """Return logits of images resized and normalised as `prepare` does."""
        return self.network(images)

    def prepare(self, picture: Picture) -> tuple[Float[Tensor, "1 3 h w"], tuple[int, int]]:
        """Return a picture as `forward` wants it, on the network's device, and its own height and width.

        Raises:
            UserError: it can't be read, or is no picture.
        """
        pixels = _pixels(picture)
        try:
            resized = resize_shorter(pixels, self.config.shorter_side_px)
        except BadSampleError as error:
            raise UserError(f"a picture can't be segmented: {error}") from None
        device = next(self.network.parameters()).device
        return self.normalise(torch.from_numpy(resized)[None].to(device)), pixels.shape[:2]

    def normalise(self, pixels: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B 3 h w"]:
        """Return 8-bit pixels as `forward` wants them, by the mean and deviation of its configuration."""
        return normalise(pixels, self.config.mean, self.config.std)

    @torch.inference_mode()
    def predict(self, images: "Picture | Sequence[Picture]") -> Any:
        """Return the id of each pixel, uint16 of the picture's own size; of several pictures a list.

        What an id is called is in `names`. EXIF orientation is not applied: the map belongs to the stored pixels.

        Args:
            images: a picture, or several.

        Raises:
            UserError: one can't be read, or is no picture.
        """
        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            return [self.predict(image) for image in images]
        batch, size = self.prepare(images)  # pyright: ignore[reportArgumentType]
        return label_map(self(batch)[0], batch[0], size, self.config.guided_radius)


def label_map(
    logits: Float[Tensor, "K h w"], image: Float[Tensor, "3 H W"], size: tuple[int, int], guided_radius: float = 0.0
) -> UInt16[np.ndarray, "height width"]:
    """Return the id of each pixel of an image from its logits: 0 = other.

    Logits are resized bilinearly to the image; above a million pixels the argmax is taken with the longer side at
    1000 px and its result resized to the nearest.

    Args:
        logits: of the image.
        image: normalised, as the network was given it.
        size: height and width of the label map.
        guided_radius: within how many pixels of the logits ids follow the image's outlines; 0 = they do not.

    Source: arXiv 2106.03149, published inference. Departure, where `guided_radius` is given: of each id that occurs in
    the image the map of where it is goes through a guided filter (`luss_ray.nn.outlines`), and the largest is taken.
    """
    scores, ids_of = logits[None].float(), None
    if guided_radius:
        image = F.interpolate(image[None], _within(image.shape[1:]), mode="area")[0]
        ids = _largest(scores, image.shape[1:])
        ids_of, there = ids.unique(return_inverse=True)
        shares = F.one_hot(there, len(ids_of)).movedim(-1, 1).float()  # of an image's ids, which are few
        scores = follow_image(shares, image[None], guided_radius * image.shape[1] / logits.shape[1])
    ids = _largest(scores, _within(size))
    if ids.shape[1:] != size:
        ids = F.interpolate(ids[:, None].float(), size, mode="nearest")[:, 0].long()
    if ids_of is not None:
        ids = ids_of[ids]
    return ids[0].to(torch.int32).cpu().numpy().astype(np.uint16)


def _within(size: Sequence[int]) -> tuple[int, int]:
    """Return height and width, with the longer side at 1000 px where they are above a million pixels."""
    height, width = size
    scale = 1.0 if height * width <= _MOST_PIXELS else _LONG_SIDE_PX / max(height, width)
    return max(1, int(height * scale)), max(1, int(width * scale))


def _largest(scores: Float[Tensor, "1 K h w"], size: Sequence[int]) -> Int64[Tensor, "1 H W"]:
    return F.interpolate(scores, tuple(size), mode="bilinear", align_corners=False).argmax(dim=1)


def load(path: str | Path) -> Segmenter:
    """Return the model in a folder, in evaluation mode on the CPU.

    Args:
        path: a finished run, or the model/ folder of one; here or in s3://.

    Raises:
        UserError: there is none, it is of a later version, or its weights are not its own.
    """
    folder = model_folder(Location.parse(path))
    config = SegmenterConfig.from_json(folder.read_json(CONFIG), folder.child(CONFIG).uri)
    network = config.model.build()
    if not isinstance(network, SegmentationModel):
        raise UserError(f"{folder.uri} holds a {config.model.form} model, which segments nothing: fine-tune it first")
    state = WeightsFile(folder / MODEL)()
    config.model.check(state)
    network.load_state_dict(state, strict=False)
    return Segmenter(on_device(network, "cpu"), config)


def model_folder(location: Location) -> Location:
    """Return where the model of a run or export lies; UserError where there is none."""
    for folder in (location, location / "model"):
        if folder.exists(CONFIG):
            return folder
    raise UserError(f"{location.uri} holds no model ({CONFIG}): give a run that has finished, or its model/ folder")


def fingerprint(folder: Location) -> str:
    """Return the SHA-256 of what the ids of predictions follow from: weights, network, and how images are prepared.

    Args:
        folder: of a model, as `model_folder` gives it.

    Raises:
        UserError: it holds no model.
    """
    config = SegmenterConfig.from_json(folder.read_json(CONFIG), folder.child(CONFIG).uri)
    follows_from = config.decisive() | {"weights": WeightsFile(folder / MODEL).sha256()}
    return hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()


def save(folder: Location, network_state: dict[str, Tensor], config: SegmenterConfig, card: str) -> None:
    """Write a model's folder, as the Hugging Face Hub has it too: model.safetensors, config.json, README.md.

    Args:
        folder: where to.
        network_state: of the network.
        config: what goes with it.
        card: the model card, Markdown.
    """
    folder.write(MODEL, safetensors.torch.save({name: value.contiguous() for name, value in network_state.items()}))
    folder.write(CARD, card.encode())
    folder.write(CONFIG, json_bytes(config.to_json()))


def _pixels(picture: Any) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(picture, Tensor):
        picture = picture.movedim(0, -1).cpu().numpy() if picture.ndim == 3 else picture.cpu().numpy()
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise UserError(
                f"pixels are {picture.dtype} {picture.shape}: give uint8 (height, width, 3) or a tensor (3, h, w)"
            )
        return np.ascontiguousarray(picture)
    if isinstance(picture, Image.Image):
        try:
            return np.array(to_rgb(picture))
        except BadSampleError as error:
            raise UserError(f"a picture can't be segmented: {error}") from None
    if isinstance(picture, str | Path):
        location = Location.parse(picture)
        try:
            picture = location.read()
        except FileNotFoundError:
            raise UserError(f"no image at {location.uri}") from None
        name = location.uri
    else:
        name = "a picture"
    if not isinstance(picture, bytes):
        raise UserError(f"{type(picture).__name__} is no picture: give a file's name, Pillow's image or uint8 pixels")
    try:
        return decode_image(picture)
    except BadSampleError as error:
        raise UserError(f"{name} can't be read as an image: {error}") from None
