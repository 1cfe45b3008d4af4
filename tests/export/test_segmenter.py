import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from fixtures_export import ARCHITECTURES, exported
from PIL import Image

import luss_ray
from luss_ray.core.errors import UserError
from luss_ray.export.segmenter import CONFIG, MODEL, fingerprint, label_map
from luss_ray.storage.uri import Location


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_folder_gives_the_network_again(tmp_path: Path, photo: np.ndarray, kind: str) -> None:
    network, model = exported(tmp_path, kind), luss_ray.load(tmp_path)
    assert not model.training and model.names == ("other", "car", "cat", "bus")
    batch, size = model.prepare(photo)
    assert size == (80, 120) and batch.shape == (1, 3, 48, 72)
    torch.testing.assert_close(model(batch), network(batch))
    ids = model.predict(photo)
    assert ids.dtype == np.uint16 and ids.shape == (80, 120) and ids.max() <= 3
    logits = torch.nn.functional.interpolate(network(batch), (80, 120), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(ids, logits[0].argmax(dim=0).numpy())


def test_images_are_prepared_as_the_folder_says(tmp_path: Path, photo: np.ndarray) -> None:
    exported(tmp_path)
    of_imagenet, _ = luss_ray.load(tmp_path).prepare(photo)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["mean"] == [0.485, 0.456, 0.406] and config["std"] == [0.229, 0.224, 0.225]
    (tmp_path / CONFIG).write_text(json.dumps(config | {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 1.0]}))
    found, _ = luss_ray.load(tmp_path).prepare(photo)
    pixels = of_imagenet * torch.tensor(config["std"]).view(3, 1, 1) + torch.tensor(config["mean"]).view(3, 1, 1)
    torch.testing.assert_close(found, (pixels - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1))


@pytest.mark.parametrize("size", [(64, 64), (96, 80), (1200, 900)])
def test_predictions_follow_the_image(size: tuple[int, int]) -> None:
    """Logits of 4 x 4 pixels put the edge between two things where it is in the picture; what is not there stays so."""
    image = torch.full((3, 64, 64), -1.0)
    image[:, :, 27:] = 1.0
    logits = torch.full((5, 4, 4), -9.0)
    logits[0, :, :2], logits[3, :, 2:] = 1.0, 1.0
    edge = round(27 / 64 * size[1])
    ids = label_map(logits, image, size, guided_radius=1.25)
    assert ids.shape == size and ids.dtype == np.uint16
    slack = round(3 / 64 * size[1])
    assert (ids[:, : edge - slack] == 0).all() and (ids[:, edge + slack :] == 3).all()
    assert (label_map(logits, image, size)[:, edge + slack : size[1] // 2 - slack] == 0).all()


def test_a_folder_says_whether_predictions_follow_the_image(tmp_path: Path, photo: np.ndarray) -> None:
    network = exported(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"format": 2, "guided_radius": 1.5}))
    model = luss_ray.load(tmp_path)
    batch, size = model.prepare(photo)
    with torch.inference_mode():
        logits = network(batch)[0]
    ids = model.predict(photo)
    np.testing.assert_array_equal(ids, label_map(logits, batch[0], size, 1.5))
    assert (ids != label_map(logits, batch[0], size)).any()


def test_a_fingerprint_follows_from_what_predictions_follow_from(tmp_path: Path) -> None:
    exported(tmp_path)
    folder, text = Location.parse(tmp_path), (tmp_path / CONFIG).read_text()
    first, config = fingerprint(folder), json.loads(text)
    for change, same in [
        ({"names": ["nothing", "a", "b", "c"]}, True),
        ({"about": {}}, True),
        ({"shorter_side_px": 64}, False),
        ({"std": [1.0, 1.0, 1.0]}, False),
        ({"guided_radius": 0.1}, False),
    ]:
        (tmp_path / CONFIG).write_text(json.dumps(config | change))
        assert (fingerprint(folder) == first) is same
    (tmp_path / CONFIG).write_text(text)
    state = safetensors.torch.load_file(tmp_path / MODEL)
    folder.write(MODEL, safetensors.torch.save(state | {"last_layer.bias": state["last_layer.bias"] + 1}))
    assert fingerprint(folder) != first


def test_pictures_of_all_kinds_give_the_same(tmp_path: Path, photo: np.ndarray) -> None:
    exported(tmp_path / "model")
    model, expected = luss_ray.load(str(tmp_path / "model")), None
    Image.fromarray(photo).save(tmp_path / "photo.png")
    kinds = [
        photo,
        torch.from_numpy(photo).permute(2, 0, 1),
        Image.fromarray(photo),
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        (tmp_path / "photo.png").read_bytes(),
    ]
    found = model.predict(kinds)
    assert isinstance(found, list)
    for ids in found:
        expected = ids if expected is None else expected
        np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("mode", ["16-bit grey", "transparent"])
def test_pillows_image_of_a_file_gives_what_the_file_gives(tmp_path: Path, mode: str) -> None:
    exported(tmp_path / "model")
    model, rng = luss_ray.load(tmp_path / "model"), np.random.default_rng(0)
    grey = rng.integers(0, 65536, (60, 80), np.uint16)
    pixels = grey if mode == "16-bit grey" else rng.integers(0, 256, (60, 80, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        of_image, _ = model.prepare(picture)
    of_file, _ = model.prepare(tmp_path / "picture.png")
    assert torch.equal(of_image, of_file) and of_file.std() > 0.5


def test_large_images_are_decided_at_a_thousand_pixels(tmp_path: Path) -> None:
    exported(tmp_path)
    large = np.random.default_rng(0).integers(0, 256, (700, 1500, 3), np.uint8)
    assert luss_ray.load(tmp_path).predict(large).shape == (700, 1500)


def test_what_is_no_picture_is_told_so(tmp_path: Path, photo: np.ndarray) -> None:
    exported(tmp_path)
    model = luss_ray.load(tmp_path)
    (tmp_path / "text.jpg").write_text("no image")
    for picture, message in [
        (photo.astype(np.float32), "give uint8"),
        (Image.fromarray(photo[..., 0].astype(np.float32)), "floating-point"),
        (photo[..., 0], "give uint8"),
        (tmp_path / "nowhere.jpg", "no image at"),
        (
            tmp_path / "text.jpg",
            "text.jpg can't be read as an image: UnidentifiedImageError: cannot identify image file$",
        ),
        (b"", "empty"),
        (3, "int is no picture"),
        (np.zeros((1, 100_000, 3), np.uint8), "can't be segmented"),
    ]:
        with pytest.raises(UserError, match=message):
            model.predict(picture)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        luss_ray.load(tmp_path)
    exported(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    for change, message in [
        ({"format": 3}, "install a newer luss_ray"),
        ({"names": 3}, "names must be a list of 4 texts"),
        ({"about": 3}, "describes no model"),
        ({"model": config["model"] | {"format": 99}}, "format 99"),
    ]:
        (tmp_path / CONFIG).write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            luss_ray.load(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    whole = (tmp_path / MODEL).read_bytes()
    (tmp_path / MODEL).write_bytes(whole[:-100])
    with pytest.raises(UserError, match="not the whole of it"):
        luss_ray.load(tmp_path)
    (tmp_path / MODEL).unlink()
    with pytest.raises(UserError, match="no weights"):
        luss_ray.load(tmp_path)


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    exported(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\n") and "pipeline_tag: image-segmentation" in card and "license:" in card
    for text in ("# my-run", "luss_ray.load", "| mIoU | 41.2 |", "digest 0123", "1 car, 2 cat, 3 bus"):
        assert text in card
    assert "None" not in card


def test_loading_needs_no_ray_and_works_through_torch_hub(tmp_path: Path, photo: np.ndarray) -> None:
    exported(tmp_path)
    root, buffer = Path(__file__).parents[2], io.BytesIO()
    np.save(buffer, photo)
    (tmp_path / "photo.npy").write_bytes(buffer.getvalue())
    code = (
        "import sys, torch, numpy as np\n"
        f"model = torch.hub.load({str(root)!r}, 'segmenter', {str(tmp_path)!r}, source='local')\n"
        f"print(model.predict(np.load({str(tmp_path / 'photo.npy')!r})).sum(), 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [str(luss_ray.load(tmp_path).predict(photo).sum()), "False"]
