"""The models against the published ones: outputs, losses, gradients and batch norm statistics."""

import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from luss_ray.losses.deep_to_shallow import deep_to_shallow_loss
from luss_ray.losses.pixel_to_pixel import pixel_to_pixel_loss
from luss_ray.losses.segmentation import segmentation_loss
from luss_ray.losses.sinkhorn import codes
from luss_ray.losses.swav import swap_loss, weighted_mean
from luss_ray.nn.config import identify
from luss_ray.nn.models import PixelAttentionModel, PretrainModel, SegmentationModel, describe
from luss_ray.nn.resnet import ResNetArchitecture, resnet18, resnet50

WANDERING = (".0.bias", ".3.bias", ".1.running_mean", ".4.running_mean")  # rounding noise before a batch norm


def is_noise(name):
    return name.startswith(("projection_head.", "projection_head_shallow.", "fbg.atten.")) and name.endswith(WANDERING)


def tensors(arrays, prefix):
    found = {n.removeprefix(prefix): torch.from_numpy(arrays[n]) for n in arrays.files if n.startswith(prefix)}
    return {n: t.float() if t.is_floating_point() else t for n, t in found.items()}


def close(found, expected, name=""):
    expected = torch.as_tensor(expected).float()
    tolerance = 1e-4 * max(float(expected.abs().max()), 1e-30)
    difference = float((found.detach().float() - expected).abs().max())
    assert found.shape == expected.shape, name
    assert difference <= tolerance, f"{name}: {difference} > {tolerance}"


def by_resolution(arrays, prefix="in/"):
    images = [torch.from_numpy(arrays[f"{prefix}crop{i}"]) / 16 for i in range(8) if f"{prefix}crop{i}" in arrays]
    sizes = dict.fromkeys(len(image[0, 0]) for image in images)
    return [torch.cat([image for image in images if len(image[0, 0]) == size]) for size in sizes]


def grids(arrays, prefix="in/"):
    return torch.stack([torch.from_numpy(arrays[f"{prefix}grid{side}"]) for side in "qk"])


def small(golden, name):
    arrays = np.load(golden / "method" / f"{name}.npz")
    case = json.loads((golden / "method" / "resnet.json").read_text())[f"{name}.npz"]
    block = "basic" if case["block"] == "BasicBlock" else "bottleneck"
    width = case["stem_width"]
    widths = (width, 2 * width, 4 * width, 8 * width)
    return arrays, case, ResNetArchitecture(block, tuple(case["layers"]), widths=widths)


def heads(case):
    return {"hidden": case["hidden_mlp"], "num_prototypes": case["nmb_prototypes"], "embedding_dim": case["output_dim"]}


def check_gradients_and_buffers(model, arrays):
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, expected in tensors(arrays, "grad/").items():
        if not is_noise(name):
            close(gradients[name], expected, name)
    state = model.state_dict()
    for name, expected in tensors(arrays, "after/").items():
        if not is_noise(name):
            close(state[name].float(), expected, name)


@pytest.mark.parametrize("name", ["basic", "bottle", "basic_s32"])
def test_pretraining_model_equals_the_published_one(golden, name):
    arrays, case, architecture = small(golden, f"resnet_pretrain_{name}")
    model = PretrainModel(architecture, **heads(case), shallow_stages=case["shallow"])
    state = tensors(arrays, "sd/")
    assert set(model.state_dict()) == set(state)
    model.load_state_dict(state)
    out = model(by_resolution(arrays), grids(arrays))
    check_pretrain_outputs(out, arrays, "train/")

    targets = codes(out.scores[:2])
    image_loss = swap_loss(out.scores, targets)
    shallow_losses = [deep_to_shallow_loss(scores, targets) for scores in out.shallow_scores]
    pixel_loss = pixel_to_pixel_loss(out.predictions, out.projections)
    weights = [float(weight) for weight in case["weights"]]
    total = weighted_mean(image_loss, shallow_losses, weights) + pixel_loss
    close(image_loss, arrays["train/swav"], "swav")
    close(torch.stack(shallow_losses), arrays["train/d2s"], "d2s")
    close(pixel_loss, arrays["train/p2p"], "p2p")
    close(total, arrays["train/total"], "total")

    total.backward()
    check_gradients_and_buffers(model, arrays)
    norms = {name: p.grad.norm() for name, p in model.named_parameters()}
    for key, norm in zip(arrays["train/grad_norm_names"], arrays["train/grad_norms"], strict=True):
        if not is_noise(key):
            assert float(norms[key]) == pytest.approx(norm, rel=2e-4, abs=1e-7), key

    with torch.no_grad():
        check_pretrain_outputs(model.eval()(by_resolution(arrays), grids(arrays)), arrays, "eval/")


def check_pretrain_outputs(out, arrays, prefix):
    n = out.scores.shape[1]
    rows = out.scores.shape[0] * n
    close(out.embeddings.flatten(0, 1), arrays[f"{prefix}embedding"][:rows], "embedding")
    close(torch.cat([out.scores, *out.shallow_scores]).flatten(0, 1), arrays[f"{prefix}output"], "output")
    close(out.projections.flatten(0, 1), arrays[f"{prefix}embedding_pixel"], "z")
    close(out.predictions.flatten(0, 1), arrays[f"{prefix}output_pixel"], "p")


@pytest.mark.parametrize("name", ["basic", "bottle"])
def test_pixel_attention_model_equals_the_published_one(golden, name):
    arrays, case, architecture = small(golden, f"resnet_pixelattn_{name}")
    model = PixelAttentionModel(architecture, **heads(case))
    model.load_state_dict(tensors(arrays, "sd/"))
    embeddings, scores = model(by_resolution(arrays))
    close(embeddings.flatten(0, 1), arrays["train/embedding"])
    close(scores.flatten(0, 1), arrays["train/output"])
    loss = swap_loss(scores, codes(scores))
    close(loss, arrays["train/swav"])
    loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == set(tensors(arrays, "grad/"))
    check_gradients_and_buffers(model, arrays)

    with torch.no_grad():
        embeddings, scores = model.eval()(by_resolution(arrays))
        close(scores.flatten(0, 1), arrays["eval/output"])
        images = torch.from_numpy(arrays["in/crop0"]) / 16
        features, attention = model.attend(images)
        close(features, arrays["eval/features"])
        close(attention.mean(1, keepdim=True), arrays["eval/attention"])
        described = torch.nn.functional.normalize(torch.from_numpy(arrays["eval/cluster"]), dim=1)
        close(describe(*model.attend(images)), described)


def test_attention_of_whole_images_equals_the_published_one(golden):
    folder = golden / "method" / "infer"
    expected = np.load(folder / "intermediate.npz")
    model = PixelAttentionModel(
        ResNetArchitecture("basic", (1, 1, 1, 1), widths=(4, 8, 16, 32)), hidden=8, num_prototypes=4, embedding_dim=4
    )
    left_out = model.load_state_dict(tensors(np.load(folder / "model.npz"), "sd/"), strict=False)
    assert not left_out.unexpected_keys
    model.eval()
    for index, name in enumerate(expected["names"]):
        image = Image.open(folder / "data" / "validation" / name).convert("RGB")
        height, width = (int(size) for size in expected[f"input_shape_{index}"][-2:])
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
        normalised = (torch.from_numpy(pixels) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
            [0.229, 0.224, 0.225]
        )
        with torch.no_grad():
            features, attention = model.attend(normalised.permute(2, 0, 1)[None])
        close(attention.mean(1, keepdim=True), expected[f"attention_{index}"], name)
        if f"features_{index}" in expected:
            close(features, expected[f"features_{index}"], name)


@pytest.mark.parametrize("name", ["basic", "bottle"])
def test_segmentation_model_equals_the_published_one(golden, name):
    arrays, case, architecture = small(golden, f"resnet_finetune_{name}")
    model = SegmentationModel(architecture, num_categories=case["num_classes"])
    model.load_state_dict(tensors(arrays, "sd/"))
    images = torch.from_numpy(arrays["in/images"]) / 16
    logits = model(images)
    close(logits, arrays["train/logits"])
    loss = segmentation_loss(logits, torch.from_numpy(arrays["in/labels"]))
    close(loss, arrays["train/loss"])
    loss.backward()
    check_gradients_and_buffers(model, arrays)
    close(model.eval()(images), arrays["eval/logits"])


def rule(key, shape, seed):
    """Return the weights the reference numbers were made with."""
    x = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()) + seed)).standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        x = 1 + 0.1 * np.abs(x)
    elif key == "fbg.atten.4.weight":
        x = 8 * (1 + 0.1 * x)
    elif key.endswith("weight") and len(shape) == 1:
        x = 1 + 0.1 * x
    elif len(shape) == 1 or "threshold" in key:
        x = 0.1 * x
    else:
        x = x * np.sqrt(2 / np.prod(shape[1:])).astype(np.float32)
    return torch.from_numpy(x.astype(np.float16)).float()


FULL = [(backbone, form) for backbone in ("resnet18", "resnet50") for form in ("pretrain", "pixelattn", "finetune")]


@pytest.mark.parametrize(("backbone", "form"), FULL)
def test_full_size_models_equal_the_published_ones(golden, backbone, form):
    arrays = np.load(golden / "method" / f"full_{backbone}_{form}.npz")
    case = json.loads((golden / "method" / "resnet.json").read_text())[f"full_{backbone}_{form}.npz"]
    architecture = {"resnet18": resnet18, "resnet50": resnet50}[backbone]()
    if form == "finetune":
        model = SegmentationModel(architecture, num_categories=case["num_classes"])
    else:
        model = {"pretrain": PretrainModel, "pixelattn": PixelAttentionModel}[form](architecture, **heads(case))
    own = model.state_dict()
    assert set(own) == set(arrays["keys"])
    told = identify(own)
    assert type(told.build()) is type(model) and told.architecture == architecture and told.check(own) == []
    assert sum(p.numel() for p in model.parameters()) == arrays["n_params"]
    seed = int(arrays["fill_seed"])
    for key in own:
        own[key].copy_(torch.tensor(0) if key.endswith("tracked") else rule(key, tuple(own[key].shape), seed))
    sums = [float(own[key].double().sum()) for key in arrays["keys"]]
    np.testing.assert_allclose(sums, arrays["checksum"], rtol=1e-4, atol=1e-2)

    inputs = np.load(golden / "method" / "full_inputs.npz")
    crops = by_resolution(inputs, "")
    with torch.no_grad():
        model.eval()
        if form == "finetune":
            close(model(crops[0][:2]), arrays["logits"])
        elif form == "pixelattn":
            embeddings, scores = model(crops)
            close(embeddings.flatten(0, 1), arrays["embedding"])
            close(scores.flatten(0, 1), arrays["output"])
            features, attention = model.attend(crops[0][:2])
            close(features.mean(1), arrays["features_chmean"])
            close(attention.mean(1, keepdim=True), arrays["attention"])
        else:
            out = model(crops, grids(arrays))
            n = 2
            close(out.embeddings.flatten(0, 1), arrays["embedding"][: 2 * n])
            close(torch.cat([out.scores, *out.shallow_scores]).flatten(0, 1), arrays["output"])
            close(out.projections.flatten(0, 1).mean(1), arrays["embedding_pixel_chmean"])
            close(out.predictions.flatten(0, 1).mean(1), arrays["output_pixel_chmean"])
