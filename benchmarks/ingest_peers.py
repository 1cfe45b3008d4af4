"""The peers of `benchmarks/ingest.py`: other ways to bring the same images to the same crops. Knows nothing of us.

Each is given a folder with the images in the peer's own form, and yields batches: lists of float tensors, one a crop.
"""

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
BATCH = 32
Kinds = list[tuple[int, int, tuple[float, float]]]
"""Kinds of crops: number, side in pixels, scale."""


class Blur:
    """Pillow's Gaussian blur with probability 0.5 and a radius from 0.1 to 2."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image, perhaps blurred."""
        if random.random() < 0.5:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2)))


class PillowCrops:
    """The published code's way: everything on Pillow images with torchvision's first transforms."""

    def __init__(self, kinds: Kinds) -> None:
        colour = [v1.RandomApply([v1.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8), v1.RandomGrayscale(0.2), Blur()]
        self.views = [
            v1.Compose(
                [
                    v1.RandomResizedCrop(size, scale=scale),
                    v1.RandomHorizontalFlip(),
                    *colour,
                    v1.ToTensor(),
                    v1.Normalize(MEAN, STD),
                ]
            )
            for num, size, scale in kinds
            for _ in range(num)
        ]

    def __call__(self, data: bytes) -> list[torch.Tensor]:
        """Return the crops of an encoded image."""
        with Image.open(io.BytesIO(data)) as image:
            pixels = image.convert("RGB")
        return [view(pixels) for view in self.views]


class TensorCrops:
    """Torchvision's second transforms on uint8 tensors, as its documentation advises."""

    def __init__(self, kinds: Kinds) -> None:
        self.views = [
            v2.Compose(
                [
                    v2.RandomResizedCrop(size, scale=scale, antialias=True),
                    v2.RandomHorizontalFlip(),
                    v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                    v2.RandomGrayscale(0.2),
                    v2.RandomApply([v2.GaussianBlur(13, sigma=(0.1, 2.0))], p=0.5),
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Normalize(MEAN, STD),
                ]
            )
            for num, size, scale in kinds
            for _ in range(num)
        ]

    def __call__(self, data: bytes) -> list[torch.Tensor]:
        """Return the crops of an encoded image."""
        with Image.open(io.BytesIO(data)) as image:
            pixels = v2.functional.pil_to_tensor(image.convert("RGB"))
        return [view(pixels) for view in self.views]


class Files(Dataset):
    """Image files in class folders."""

    def __init__(self, folder: Path, crops: Callable[[bytes], list[torch.Tensor]]) -> None:
        self.files, self.crops = sorted(folder.rglob("*.jpg")), crops

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> list[torch.Tensor]:
        return self.crops(self.files[place].read_bytes())


def authors(folder: Path, kinds: Kinds) -> Iterator[Any]:
    """(a) The published way: files, Pillow, a DataLoader with a worker."""
    data = Files(folder / "files", PillowCrops(kinds))
    yield from DataLoader(data, BATCH, shuffle=True, num_workers=1, drop_last=True)


def webdataset(folder: Path, kinds: Kinds) -> Iterator[Any]:
    """(b) WebDataset with its shuffle buffer."""
    import webdataset as wds

    crops = TensorCrops(kinds)
    urls = [str(path) for path in sorted((folder / "shards").rglob("*.tar"))]
    data = wds.WebDataset(urls, shardshuffle=100).shuffle(1000).to_tuple("jpg").map(lambda sample: crops(sample[0]))
    yield from wds.WebLoader(data, batch_size=BATCH, num_workers=1, drop_last=True)


def mosaic(folder: Path, kinds: Kinds) -> Iterator[Any]:
    """(c) MosaicML Streaming."""
    import streaming

    crops = TensorCrops(kinds)

    class Crops(streaming.StreamingDataset):
        def __getitem__(self, at: int) -> list[torch.Tensor]:
            return crops(super().__getitem__(at)["image"])

    data = Crops(local=str(folder / "mosaic"), shuffle=True, batch_size=BATCH)
    yield from DataLoader(data, BATCH, num_workers=1, drop_last=True)


def litdata(folder: Path, kinds: Kinds) -> Iterator[Any]:
    """(d) LitData."""
    import litdata as lit

    crops = TensorCrops(kinds)

    class Crops(lit.StreamingDataset):
        def __getitem__(self, index: Any) -> list[torch.Tensor]:
            return crops(super().__getitem__(index)["image"])

    data = Crops(str(folder / "litdata"), shuffle=True, drop_last=True)
    yield from lit.StreamingDataLoader(data, batch_size=BATCH, num_workers=1)


def ray_data(folder: Path, kinds: Kinds) -> Iterator[Any]:
    """(e) Ray Data's own reader of WebDataset shards and a plain map."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    ray.data.DataContext.get_current().enable_progress_bars = False
    crops = TensorCrops(kinds)

    def crop(row: dict[str, Any]) -> dict[str, Any]:
        return {f"crop_{number}": view.numpy() for number, view in enumerate(crops(row["jpg"]))}

    urls = [str(path) for path in sorted((folder / "shards").rglob("*.tar"))]
    rows = ray.data.read_webdataset(urls, suffixes=["jpg"], decoder=None, shuffle="files").map(crop)
    yield from rows.iter_torch_batches(batch_size=BATCH, drop_last=True, local_shuffle_buffer_size=200)


def decode_only(folder: Path, kinds: Kinds) -> Iterator[Any]:
    """(f) The floor: nothing but libjpeg-turbo, in one thread."""
    import simplejpeg

    del kinds
    batch = []
    for path in sorted((folder / "files").rglob("*.jpg")):
        batch.append(simplejpeg.decode_jpeg(path.read_bytes()))
        if len(batch) == BATCH:
            yield batch
            batch = []


def write_mosaic(folder: Path) -> None:
    """Write the images as MosaicML's shards."""
    import streaming

    with streaming.MDSWriter(out=str(folder / "mosaic"), columns={"image": "bytes"}) as out:
        for path in sorted((folder / "files").rglob("*.jpg")):
            out.write({"image": path.read_bytes()})


def _sample(path: str) -> dict[str, bytes]:
    return {"image": Path(path).read_bytes()}


def write_litdata(folder: Path) -> None:
    """Write the images as LitData's chunks."""
    import litdata as lit

    files = [str(path) for path in sorted((folder / "files").rglob("*.jpg"))]
    lit.optimize(_sample, files, str(folder / "litdata"), chunk_bytes="64MB", num_workers=1)


PEERS: dict[str, Callable[[Path, Kinds], Iterator[Any]]] = {
    "authors": authors,
    "webdataset": webdataset,
    "mosaic": mosaic,
    "litdata": litdata,
    "ray_data": ray_data,
    "decode_only": decode_only,
}
