"""Large-scale unsupervised semantic segmentation: from a bucket of unlabelled images to pixel-level categories."""

import os

# Ray reads these when it is imported. Under `uv run` it would otherwise build a second environment for its workers, and
# workers that may not write bytecode compile torch anew each time they start.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
