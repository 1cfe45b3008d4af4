"""Scenes of one main object with an exact mask, a pure function of (seed, split, index)."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from luss_ray.core.seeds import generator
from luss_ray.demo import assets
from luss_ray.demo.variants import FAMILIES, DemoVariant
from luss_ray.imagenet_s.masks import IGNORE, OTHER

SPLITS = ("train", "validation", "test")  # order matters: the position seeds the scene
ROOMS = {
    # mid-tones, so that light and dark objects stand out alike
    "neutral": ((118, 122, 126), (100, 92, 84)),
    "warm-room": ((132, 124, 114), (106, 92, 78)),
    "cool-room": ((114, 122, 130), (90, 94, 98)),
}
STANDING = (0.8, 0.98)  # where objects touch the ground, as a fraction of the height from the top
MID_TONE = 118.0  # grey level of a wall
LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)
BLENDED = (0.05, 0.9)  # opacities between these are neither the object nor what is behind it

Canvas = Float32[np.ndarray, "s s 3"]
Patch = Float32[np.ndarray, "h w 4"]


def category_of(index: int, variant: DemoVariant) -> int:
    """Return the id (1..N) of the category that scene `index` shows: categories take turns."""
    return index % len(variant.categories) + 1


def scene(
    seed: int, split: str, index: int, variant: DemoVariant
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt16[np.ndarray, "s s"]]:
    """Return a scene's RGB image and its mask.

    Args:
        seed: the dataset's seed.
        split: train, validation or test; train scenes are made of train assets, the others of validation assets.
        index: number of the scene within its split; the category is `category_of(index, variant)`.
        variant: how hard scenes are.

    Returns:
        The image (S, S, 3) and the mask (S, S): 0 other, 1..N the main object, 1000 where its edge is blended.
    """
    rng = generator(seed, SPLITS.index(split), index)
    source = "train" if split == "train" else "validation"
    category = category_of(index, variant)
    name = variant.categories[category - 1]
    canvas = _background(rng, "neutral" if variant.neutral else FAMILIES[name], source, variant)
    for _ in range(rng.integers(variant.clutter + 1)):
        _paste(canvas, _placed(rng, assets.CLUTTER, source, variant, scale=(0.12, 0.22)), *_corner(rng, variant))
    patch = _placed(rng, name, source, variant, scale=variant.object_scale)
    place = _place(rng, patch, variant)
    _shade(canvas, patch, *place)
    opacity = _paste(canvas, patch, *place)
    canvas *= _light(rng, variant)
    canvas += rng.normal(0, 2, canvas.shape)
    mask = np.where(opacity > BLENDED[1], category, np.where(opacity < BLENDED[0], OTHER, IGNORE))
    return canvas.clip(0, 255).round().astype(np.uint8), mask.astype(np.uint16)


def _background(rng: np.random.Generator, family: str, source: str, variant: DemoVariant) -> Canvas:
    if family in ROOMS:
        return _room(rng, family, variant)
    choices = assets.select(assets.BACKGROUND, source, family)
    photo = assets.pixels(choices[rng.integers(len(choices))])
    side = int(rng.uniform(0.6, 1) * photo.shape[0])
    top, left = (int(rng.uniform() * (length - side)) for length in photo.shape[:2])
    crop = cv2.resize(photo[top : top + side, left : left + side], (variant.side_px,) * 2, interpolation=cv2.INTER_AREA)
    crop = crop[:, :: rng.choice((1, -1))].astype(np.float32)
    mean = crop.mean((0, 1))
    return mean + (crop - mean) * np.float32(variant.photo_contrast)


def _room(rng: np.random.Generator, family: str, variant: DemoVariant) -> Canvas:
    """A wall above a floor, both in the family's colours, with a soft gradient."""
    side = variant.side_px
    wall, floor = (np.array(tone, np.float32) * (1 + variant.wall_tone * rng.uniform(-1, 1)) for tone in ROOMS[family])
    rows = np.arange(side, dtype=np.float32)[:, None, None]
    edge = rng.uniform(0.55, 0.8) * side
    blend = np.clip(rows - edge, 0, 1)
    canvas = wall * (1 - blend) + floor * blend
    return (
        canvas * (1 + variant.wall_tone * rng.uniform(-1, 1) * (rows / side - 0.5)) * np.ones((1, side, 1), np.float32)
    )


def _placed(
    rng: np.random.Generator, category: str, source: str, variant: DemoVariant, *, scale: tuple[float, float]
) -> Patch:
    """One cut-out of a category, scaled, squeezed, flipped, rotated and lit: premultiplied RGB 0..255, opacity 0..1."""
    choices = assets.select(category, source)
    rgba = assets.pixels(choices[rng.integers(len(choices))])[:, :: rng.choice((1, -1))].astype(np.float32)
    rgba[..., 3] /= 255
    _mute(rgba, variant)
    gain = 1 + rng.uniform(-1, 1) * variant.gain
    rgba[..., :3] = (rgba[..., :3] * gain).clip(0, 255) * rgba[..., 3:]
    longer = rng.uniform(*scale) * variant.side_px
    squeeze = np.exp(rng.uniform(-1, 1) * variant.squeeze)
    height, width = np.array(rgba.shape[:2]) * longer / max(rgba.shape[:2]) * (squeeze**0.5, squeeze**-0.5)
    size = max(2, round(width)), max(2, round(height))
    return _rotated(cv2.resize(rgba, size, interpolation=cv2.INTER_AREA), rng.uniform(-1, 1) * variant.rotation_deg)


def _mute(rgba: Patch, variant: DemoVariant) -> None:
    """Bring a cut-out's colours nearer to grey and its mean brightness nearer to the mid-tone, in place."""
    rgb, opacity = rgba[..., :3], rgba[..., 3:]
    grey = rgb @ LUMINANCE[:, None]
    mean = float((grey * opacity).sum() / opacity.sum())
    brighter = (MID_TONE / max(mean, 1.0)) ** variant.evenness
    rgba[..., :3] = ((grey + variant.saturation * (rgb - grey)) * brighter).clip(0, 255)


def _rotated(patch: Patch, degrees: float) -> Patch:
    """The patch turned about its centre, on a canvas just large enough."""
    height, width = patch.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1)
    cos, sin = abs(turn[0, :2])
    new_width, new_height = int(np.ceil(height * sin + width * cos)), int(np.ceil(height * cos + width * sin))
    turn[:, 2] += (new_width - width) / 2, (new_height - height) / 2
    return cv2.warpAffine(patch, turn, (new_width, new_height), flags=cv2.INTER_LINEAR)


def _place(rng: np.random.Generator, patch: Patch, variant: DemoVariant) -> tuple[int, int]:
    """Top and left of the main object: standing in the lower part, reaching out by at most the fraction `outside`."""
    (height, width), side = patch.shape[:2], variant.side_px
    bottom = rng.uniform(*STANDING) * side + rng.uniform(0, variant.outside) * height
    reach = variant.outside * width
    left = rng.uniform(-reach, max(-reach, side - width + reach))
    return round(max(bottom, min(height, side)) - height), round(left)


def _corner(rng: np.random.Generator, variant: DemoVariant) -> tuple[int, int]:
    """Top and left of a piece of clutter: near the left or the right border, in the lower two thirds."""
    side = variant.side_px
    left = rng.uniform(-0.03, 0.12) if rng.random() < 0.5 else rng.uniform(0.72, 0.9)
    return int(rng.uniform(0.3, 0.85) * side), int(left * side)


def _paste(canvas: Canvas, patch: Patch, top: int, left: int) -> Float32[np.ndarray, "s s"]:
    """Draw a patch over the canvas, in place, and return its opacity at every pixel of the canvas."""
    side = len(canvas)
    opacity = np.zeros((side, side), np.float32)
    inside = patch[max(0, -top) : max(0, side - top), max(0, -left) : max(0, side - left)]
    rows = slice(max(0, top), max(0, top) + inside.shape[0])
    columns = slice(max(0, left), max(0, left) + inside.shape[1])
    opacity[rows, columns] = inside[..., 3]
    canvas[rows, columns] = canvas[rows, columns] * (1 - inside[..., 3:]) + inside[..., :3]
    return opacity


def _shade(canvas: Canvas, patch: Patch, top: int, left: int) -> None:
    """Darken the ground where the object stands, in place."""
    side, (height, width) = len(canvas), patch.shape[:2]
    shadow = np.zeros((side, side), np.float32)
    centre, axes = (left + width // 2, top + height - round(0.04 * side)), (round(0.42 * width), round(0.05 * side))
    cv2.ellipse(shadow, centre, axes, 0, 0, 360, 0.3, -1)
    canvas *= 1 - cv2.GaussianBlur(shadow, (0, 0), 0.025 * side)[..., None]


def _light(rng: np.random.Generator, variant: DemoVariant) -> Float32[np.ndarray, "s s 1"]:
    """The scene's light: a level and a gradient in a random direction."""
    angle, level = rng.uniform(0, 2 * np.pi), 1 + rng.uniform(-0.5, 0.5) * variant.gain
    ramp = np.linspace(-0.5, 0.5, variant.side_px, dtype=np.float32)
    slope = variant.light_slope * (np.cos(angle) * ramp[:, None] + np.sin(angle) * ramp[None])
    return (level + slope)[..., None].astype(np.float32)
