"""A segmenter as a graph for other runtimes: ONNX, or a program of torch.export; compared with the module before it is
written."""

import importlib.util
import io
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from luss_ray.core.errors import UserError
from luss_ray.export.segmenter import Segmenter

ONNX, TORCH_EXPORT = ".onnx", ".pt2"
_TOLERANCE = 1e-3
_DEFAULT_PX = 256
_MOST_PX = 4096


def graph_bytes(model: Segmenter, kind: str, *, fixed_px: int | None = None) -> tuple[bytes, str]:
    """Return a model as the content of a file, and which images it takes, in words.

    Its input `images` are float32 (B, 3, H, W), RGB from 0 to 1 less ImageNet's mean, divided by its deviation; its
    output are `logits`, which are to be resized to the image before the highest is taken. Height and width are free,
    in multiples of the network's stride, where its code allows for it. Names, mean and deviation are in the file, and
    `guided_radius`, of what `label_map` does after that.

    Args:
        model: what to export.
        kind: ".onnx" or ".pt2".
        fixed_px: height and width, where these are to be fixed; they are too where free ones aren't possible.

    Raises:
        UserError: a package is missing, or the graph's logits aren't the module's.
    """
    if kind == ONNX and (importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxscript") is None):
        raise UserError("ONNX needs two more packages: uv sync --inexact --extra onnx")
    stride = model.network.stride
    program = _traced(model, stride, free=True) if fixed_px is None else None
    side, free = fixed_px or -(-_DEFAULT_PX // stride) * stride, program is not None
    program = program or _traced(model, side, free=False)
    if program is None:
        raise UserError(f"{model.config.model.architecture.about} can't be traced by torch.export")
    config = model.config
    told = ("names", "mean", "std", "shorter_side_px", "guided_radius")
    about = {name: getattr(config, name) for name in told} | {"stride": stride}
    content = _to_onnx(program, about) if kind == ONNX else _to_pt2(program, about)
    run = _onnx_runner(content) if kind == ONNX else torch.export.load(io.BytesIO(content)).module()
    _compare(model, run, [(1, side, side), *([(2, 3 * stride, 5 * stride)] if free else [])])
    return content, f"any height and width in multiples of {stride}" if free else f"{side} x {side} pixels"


def _traced(model: Segmenter, step: int, *, free: bool) -> ExportedProgram | None:
    side = 8 * step if free else step
    example = torch.zeros(2 if free else 1, 3, side, side + (step if free else 0))
    shapes: Any = None
    if free:
        most = _MOST_PX // step
        shapes = (
            {
                0: Dim("batch", max=1024),
                2: step * Dim("rows", min=2, max=most),
                3: step * Dim("columns", min=2, max=most),
            },
        )
    try:
        with torch.no_grad():
            return torch.export.export(model, (example,), dynamic_shapes=shapes)
    except Exception:  # noqa: BLE001 (torch raises many kinds for what it can't trace)
        return None


def _to_onnx(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    import onnx.helper  # noqa: PLC0415 (only where it is there)

    exported = torch.onnx.export(program, input_names=["images"], output_names=["logits"], dynamo=True, verbose=False)
    assert exported is not None
    proto = exported.model_proto
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in about.items()})
    return proto.SerializeToString()


def _to_pt2(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={"about.json": json.dumps(about)})
    return stream.getvalue()


def _onnx_runner(content: bytes) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime  # noqa: PLC0415 (only where it is there)
    except ImportError:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

        evaluator = ReferenceEvaluator(content)
        return lambda images: torch.from_numpy(evaluator.run(None, {"images": images.numpy()})[0])  # pyright: ignore
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _compare(model: Segmenter, run: Callable[[Tensor], Tensor], shapes: list[tuple[int, int, int]]) -> None:
    for num, height, width in shapes:
        images = torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = model(images)
        found = run(images)
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise UserError(f"the exported graph gives other logits than the module for images of {width}x{height}")
