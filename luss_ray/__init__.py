"""Large-scale unsupervised semantic segmentation: from a bucket of unlabelled images to pixel-level categories."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luss_ray.export.segmenter import Segmenter

# Ray reads these when it is imported. Under `uv run` it would otherwise build a second environment for its workers, and
# workers that may not write bytecode compile torch anew each time they start.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Ray's workers inherit these. glibc returns large blocks to the system when they are freed, so a training step on a CPU
# spends a good part of its time on having the same memory cleared again; so it keeps them.
for _name, _value in {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}.items():
    os.environ.setdefault(_name, _value)


def load(path: str | Path) -> "Segmenter":
    """Return the model of a finished run, or of its model/ folder, ready to segment pictures: `load(P).predict(image)`.

    Args:
        path: here or in s3://.

    Raises:
        luss_ray.core.errors.UserError: there is none, or it is of a later version.
    """
    from luss_ray.export.segmenter import load as load_model  # noqa: PLC0415 (takes seconds)

    return load_model(path)
