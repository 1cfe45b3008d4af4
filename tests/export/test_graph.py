"""Graphs for other runtimes, run by these."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fixtures_export import exported
from fixtures_run import job_environment

import luss_ray
from luss_ray.core.errors import UserError
from luss_ray.export.graph import ONNX, TORCH_EXPORT, graph_bytes


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_onnx_gives_the_modules_logits(tmp_path: Path, kind: str) -> None:
    exported(tmp_path, kind, guided_radius=1.5)
    model = luss_ray.load(tmp_path)
    content, sizes = graph_bytes(model, ONNX)
    graph = onnx.load_from_string(content)
    expected = {"names": ["other", "car", "cat", "bus"], "std": [0.229, 0.224, 0.225], "guided_radius": 1.5}
    assert {entry.key: json.loads(entry.value) for entry in graph.metadata_props if entry.key in expected} == expected
    session = onnxruntime.InferenceSession(content)
    shapes = [(1, 256, 256)] if "x 256" in sizes else [(1, 256, 256), (3, 64, 96)]
    assert kind != "resnet" or len(shapes) == 2, "a convolutional network takes any size"
    for num, height, width in shapes:
        images = torch.randn(num, 3, height, width)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-3, atol=1e-3)


def test_torch_export_gives_the_modules_logits(tmp_path: Path) -> None:
    exported(tmp_path)
    model = luss_ray.load(tmp_path)
    content, _ = graph_bytes(model, TORCH_EXPORT)
    extra = {"about.json": ""}
    program = torch.export.load(io.BytesIO(content), extra_files=extra)
    images = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-4)
    assert json.loads(extra["about.json"])["names"][1] == "car"


def test_a_fixed_size_is_kept(tmp_path: Path) -> None:
    exported(tmp_path)
    content, sizes = graph_bytes(luss_ray.load(tmp_path), ONNX, fixed_px=64)
    assert sizes == "64 x 64 pixels"
    shape = onnxruntime.InferenceSession(content).get_inputs()[0].shape
    assert shape == [1, 3, 64, 64]


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(tmp_path)
    monkeypatch.setattr("luss_ray.export.graph._onnx_runner", lambda content: lambda images: torch.zeros(1, 4, 64, 64))
    with pytest.raises(UserError, match="other logits than the module"):
        graph_bytes(luss_ray.load(tmp_path), ONNX)


def test_the_job_writes_one_file_and_replaces_none(tmp_path: Path) -> None:
    exported(tmp_path / "run" / "model")
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "jobs" / "convert.py"), str(tmp_path / "run"), str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, env=job_environment(), check=True)
    assert "any height and width" in done.stdout and onnx.load(str(tmp_path / "model.onnx")).graph.node
    again = subprocess.run(command, capture_output=True, text=True, env=job_environment(), check=False)
    assert again.returncode == 2 and "exists already" in again.stderr
