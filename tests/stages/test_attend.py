"""Pseudo-labels against the published ones, and in batches against one by one."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from luss_ray.config.recipe import Labels
from luss_ray.data.augment import normalise
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.soft_label import SoftLabel
from luss_ray.nn.folding import for_inference
from luss_ray.nn.models import PixelAttentionModel, describe
from luss_ray.nn.resnet import ResNetArchitecture
from luss_ray.stages.attend import Attender
from luss_ray.stages.extract import attention_maps

HALF_A_STEP = 0.5 / 255 + 1e-6


def small_network() -> PixelAttentionModel:
    architecture = ResNetArchitecture("basic", (1, 1, 1, 1), widths=(4, 8, 16, 32))
    return PixelAttentionModel(architecture, hidden=8, num_prototypes=4, embedding_dim=4)


@pytest.fixture(scope="module")
def published(golden):
    """Return the folder, and the network with the centroids."""
    folder = golden / "method" / "infer"
    with np.load(folder / "model.npz") as arrays:
        state = {
            name.removeprefix("sd/"): torch.from_numpy(array).float()
            if array.dtype.kind == "f"
            else torch.tensor(array)
            for name, array in arrays.items()
            if name.startswith("sd/")
        }
    network = small_network()
    assert not network.load_state_dict(state, strict=False).unexpected_keys
    centroids = torch.from_numpy(np.load(folder / "centroids.npy")).float()
    return folder, Attender(
        for_inference(network, "cpu"), F.normalize(centroids, dim=1), torch.arange(1, 1 + len(centroids))
    )


@pytest.mark.parametrize("number", range(5))
def test_soft_labels_are_the_published_label_maps(published, number):
    folder, attender = published
    info = json.loads((folder / "info.json").read_text())
    expected = np.load(folder / "intermediate.npz")
    name = info["names"][number]
    image = Image.open(folder / "data" / "validation" / name).convert("RGB")
    height, width = (int(size) for size in expected[f"input_shape_{number}"][-2:])
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    with torch.inference_mode():
        (label,) = attender.soft_labels(normalise(torch.from_numpy(pixels.copy())[None]))
    label = SoftLabel.decode(label.encode())
    attention = expected[f"attention_{number}"][0, 0]
    assert label.attention.shape == attention.shape
    np.testing.assert_allclose(label.attention / 255, attention, rtol=0, atol=HALF_A_STEP)

    found = label.resized(image.height, image.width)
    stem = name.removesuffix(".png")
    clusters, thresholded = (
        masks.decode((folder / kind / "validation" / f"{stem}.png").read_bytes()) for kind in ("pred_t0", "pred_t")
    )
    np.testing.assert_array_equal(found.clusters, clusters)
    stored = np.load(folder / "pred_t0" / "validation" / f"{stem}.npy").astype(np.float32)
    np.testing.assert_allclose(found.attention, stored, rtol=0, atol=HALF_A_STEP)
    off = found.pseudo_label(info["threshold"]) != thresholded
    assert np.abs(stored[off] - info["threshold"]).max(initial=0) <= HALF_A_STEP
    assert (thresholded == 0).any() and (thresholded > 0).any()


def test_a_batch_is_labelled_as_its_images_are():
    torch.manual_seed(0)
    attender = Attender(small_network().eval(), F.normalize(torch.randn(300, 32), dim=1), torch.arange(1, 301))
    batch = torch.randn(5, 3, 96, 160)
    with torch.inference_mode():
        together = attender.soft_labels(batch)
        alone = [attender.soft_labels(image[None])[0] for image in batch]
    assert {label.labels.shape for label in together} == {(12, 20)}
    assert max(label.labels.max() for label in together) > 255
    for one, other in zip(together, alone, strict=True):
        assert (one.labels == other.labels).mean() > 0.99
        assert np.abs(one.attention.astype(int) - other.attention).max() <= 1


def test_stored_and_direct_maps_are_the_same():
    torch.manual_seed(1)
    attender = Attender(small_network().eval(), F.normalize(torch.randn(20, 32), dim=1), torch.arange(1, 21))
    batch, size = torch.randn(1, 3, 64, 96), (131, 197)
    with torch.inference_mode():
        (direct,), (label,) = attender.maps(batch, [size]), attender.soft_labels(batch)
    stored = label.resized(*size)
    np.testing.assert_array_equal(stored.clusters, direct.clusters)
    np.testing.assert_allclose(stored.attention, direct.attention, rtol=0, atol=HALF_A_STEP)


def test_parts_of_a_cluster_share_its_number() -> None:
    torch.manual_seed(0)
    network, directions = small_network().eval(), F.normalize(torch.randn(20, 32), dim=1)
    batch, merged = torch.randn(2, 3, 64, 64), torch.arange(20) // 3 + 1
    with torch.inference_mode():
        parts = Attender(network, directions, torch.arange(1, 21)).soft_labels(batch)
        whole = Attender(network, directions, merged).soft_labels(batch)
    assert len(np.unique(np.stack([label.labels for label in parts]))) > 2
    for part, label in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(label.labels, (part.labels - 1) // 3 + 1)


def test_the_whole_image_has_its_say_in_a_pixels_cluster() -> None:
    """With more and more weight the labels of an image come down to the cluster that it falls to as a whole."""
    torch.manual_seed(0)
    network, directions = small_network().eval(), F.normalize(torch.randn(20, 32), dim=1)
    batch = torch.randn(3, 3, 64, 96)
    with torch.inference_mode():
        of_images = (describe(*network.attend(batch)) @ directions.T).argmax(dim=1) + 1
        share = []
        for weight in (0.0, 0.5, 2.0, 1000.0):
            attender = Attender(network, directions, torch.arange(1, 21), Labels(image_prior=weight))
            labels = np.stack([label.labels for label in attender.soft_labels(batch)])
            share.append(float((labels == of_images.numpy()[:, None, None]).mean()))
    assert share == sorted(share) and share[0] < share[-1] == 1


def test_attention_is_stretched_image_by_image() -> None:
    attention = torch.rand(2, 3, 20, 20) * torch.tensor([0.1, 0.5]).view(2, 1, 1, 1) + 0.3
    published = attention_maps(attention, Labels())
    torch.testing.assert_close(published, attention.mean(dim=1))
    stretched = attention_maps(attention, Labels(attention_per_image=True))
    for plain, own in zip(published, stretched, strict=True):
        low, high = plain.quantile(torch.tensor([0.02, 0.98]))
        torch.testing.assert_close(own, ((plain - low) / (high - low)).clamp(0, 1))
        assert own.min() == 0 and own.max() == 1
    assert attention_maps(torch.full((1, 2, 4, 4), 0.5), Labels(attention_per_image=True)).isfinite().all()
