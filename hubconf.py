"""Models for `torch.hub.load("OWNER/luss_ray", "segmenter", PATH)`."""

dependencies = [
    "jaxtyping",
    "kornia",
    "numpy",
    "obstore",
    "cv2",
    "PIL",
    "pyarrow",
    "pydantic",
    "safetensors",
    "simplejpeg",
    "torch",
]


def segmenter(path):
    """Return the model of a finished run, or of its model/ folder, here or in s3://; see `luss_ray.load`."""
    from luss_ray import load  # noqa: PLC0415

    return load(path)
