"""How hard the demo's scenes are: frozen settings, chosen by measurement."""

from dataclasses import dataclass

FAMILIES = {
    "chair": "warm-room",
    "sofa": "warm-room",
    "table": "warm-room",
    "bed": "warm-room",
    "lamp": "warm-room",
    "cabinet": "cool-room",
    "basin": "cool-room",
    "window": "cool-room",
    "bottle": "cool-room",
    "plant": "cool-room",
    "tree": "meadow",
    "animal": "meadow",
    "car": "dry",
    "person": "mist",
}


@dataclass(frozen=True)
class DemoVariant:
    """The settings of one demo dataset.

    Args:
        name: how commands and folders call it.
        categories: the categories, in the order of their ids 1..N.
        side_px: height and width of a scene.
        num_train: train images.
        num_validation: validation images.
        num_train_semi: train images per category that also get a mask in `train-semi`.
        object_scale: range of the main object's longer side, as a fraction of the scene's side.
        rotation_deg: largest rotation of the main object, either way.
        squeeze: largest relative change of its aspect ratio, either way.
        outside: how far the main object may reach out of the scene, as a fraction of its size.
        gain: largest relative change of its brightness, either way.
        saturation: of cut-outs' colours, 1 (as they are) to 0 (grey). Muted ones leave shape to tell categories apart.
        evenness: how far every cut-out's mean brightness is drawn to one mid-tone, 0 (not at all) to 1.
        clutter: largest number of other small objects.
        photo_contrast: contrast of photographic backgrounds, 0 (their mean colour) to 1 (as they are).
        neutral: one neutral room behind every category, instead of the background family that goes with it.
        wall_tone: largest relative change of the wall's and the floor's brightness, either way.
        light_slope: change of the light's level across the scene.
    """

    name: str
    categories: tuple[str, ...]
    side_px: int
    num_train: int
    num_validation: int
    num_train_semi: int = 10
    object_scale: tuple[float, float] = (0.5, 0.8)
    rotation_deg: float = 12.0
    squeeze: float = 0.1
    outside: float = 0.0
    gain: float = 0.15
    saturation: float = 1.0
    evenness: float = 0.0
    clutter: int = 1
    photo_contrast: float = 0.4
    neutral: bool = False
    wall_tone: float = 0.08
    light_slope: float = 0.15


DEMO = DemoVariant(
    name="demo",
    categories=("car", "person", "plant", "window", "bed", "chair"),
    side_px=96,
    num_train=2000,
    num_validation=300,
    object_scale=(0.7, 0.95),
    rotation_deg=8.0,
    gain=0.1,
    saturation=0.3,
    evenness=0.85,
    clutter=0,
    neutral=True,
    wall_tone=0.02,
)
DEMO_HARD = DemoVariant(
    name="demo-hard",
    categories=tuple(FAMILIES),
    side_px=224,
    num_train=14000,
    num_validation=1400,
    object_scale=(0.3, 0.8),
    rotation_deg=20.0,
    squeeze=0.2,
    outside=0.15,
    gain=0.3,
    clutter=3,
    photo_contrast=0.8,
)
VARIANTS = {variant.name: variant for variant in (DEMO, DEMO_HARD)}
