"""Ingest beside the usual loaders: images a second on one core, from shards to training batches.

`uv run benchmarks/ingest.py [--images 4800] [--rounds 3] [--quick] [--json FILE]`

Every contender runs in a process of its own that is pinned, with all that it starts, to one core, so that what it
spends besides decoding counts too. They take turns in each round. A rate is that of the middle half of the images: at
both of its ends a contender's buffers are as full as they ever are, so that neither their filling nor their draining
counts. Peers stop after a quarter of the images, and run in a plain environment, without the settings of the memory
allocator that the product makes for its processes.
Images are generated, 500 x 375 px and about 110 KB as ImageNet's; batches have 32 images; peers do the whole of the
augmentation, (g) leaves colours to the training device, (h) does all of it on this core.

- (a) `authors`: files, Pillow, torchvision's first transforms, DataLoader; (b) `webdataset`, (c) `mosaic`, (d)
  `litdata`, (e) `ray_data`: each with torchvision's second transforms; (f) `decode_only`: the floor
- (g) `ours`, (h) `ours_cpu`: through Ray Data into this process, as a training worker reads; `ours_s3`: (g) from
  an S3 server on another core of this machine, behind a proxy that counts the bytes

`vs_…` are ratios of rates, `of_decode_floor_2x224` is (f) over (g). Peers that aren't in the product's environment are
installed into one of their own, in the user's cache folder.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import ingest_peers
import numpy as np
from rich.table import Table

from luss_ray.config.recipe import Crops
from luss_ray.core.progress import CONSOLE
from luss_ray.imagenet_s.layout import find_images
from luss_ray.storage.pack import pack
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.uri import Location

HERE = Path(__file__).parent
MULTI_CROP = {"2x224": Crops(global_scale=(0.14, 1.0)), "multicrop": Crops(global_scale=(0.14, 1.0), num_local=6)}
OURS = ("ours", "ours_cpu", "ours_s3")
ALL = ("authors", "webdataset", "mosaic", "litdata", "ray_data", "decode_only", *OURS)
NEEDS_ENVIRONMENT = ("mosaic", "litdata")
PEERS_PART = 4
"""Peers read one image of so many; we hand out many batches at a time, so that a rate without steps takes more."""
BEST_PEERS = ("webdataset", "mosaic", "litdata", "ray_data")


def make_images(folder: Path, number: int) -> None:
    """Write JPEGs like ImageNet's: smooth shapes with texture, 500 x 375 px, about 110 KB."""
    rng = np.random.default_rng(0)
    for place in range(number):
        coarse = cv2.resize(rng.integers(0, 256, (8, 10, 3), np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC)
        texture = cv2.GaussianBlur(rng.normal(0, 60, (375, 500, 3)).astype(np.float32), (0, 0), 1.0)
        pixels = np.clip(coarse + texture, 0, 255).astype(np.uint8)
        path = folder / f"class{place % 10}" / f"{place:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])


def ours(data: Location, crops: Crops, colours: bool) -> Iterator[Any]:
    """Read as a training worker does; `colours` says whether they are done here too."""
    import ray
    import torch

    from luss_ray.data.stream import StreamSpec, stream
    from luss_ray.train.views import MultiCrop, coloured_crops

    torch.set_num_threads(1)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    spec = StreamSpec(
        data=data,
        split="train",
        labels=None,
        seed=0,
        global_batch=ingest_peers.BATCH,
        epochs=1,
        transform=MultiCrop(crops),
    )
    num_steps = spec.open_plan().num_steps
    for batch in stream(spec, rank=0, world=1, start_step=0, num_steps=num_steps, num_loaders=1, num_threads=1):
        tensors = {name: torch.as_tensor(array) for name, array in batch.items()}
        yield coloured_crops(tensors, crops, 0) if colours else tensors


def contender(name: str, folder: Path, crops: Crops) -> Iterator[Any]:
    """Return the batches of one way of reading."""
    if name in OURS:
        data = os.environ.get("INGEST_S3", "") if name == "ours_s3" else str(folder / "shards")
        return ours(Location.parse(data), crops, colours=name == "ours_cpu")
    kinds = [(spec.num, spec.size_px, spec.scale) for spec in crops.specs()]
    return ingest_peers.PEERS[name](folder, kinds)


def measure(name: str, folder: Path, crops: Crops, num_images: int) -> dict[str, float]:
    """Run one contender once, on one core; return its rate, the time to its first batch, and how many images it saw."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    started = time.perf_counter()
    batches = contender(name, folder, crops)
    num_batches = num_images // (1 if name in OURS else PEERS_PART) // ingest_peers.BATCH
    arrivals = [time.perf_counter() for _ in itertools.islice(batches, num_batches)]
    first, last = len(arrivals) // 4, len(arrivals) * 3 // 4
    rate = (last - first) * ingest_peers.BATCH / (arrivals[last] - arrivals[first])
    return {
        "images_per_s": rate,
        "first_batch_s": arrivals[0] - started,
        "images": len(arrivals) * ingest_peers.BATCH,
    }


def run_apart(name: str, kind: str, folder: Path, num_images: int, environment: dict[str, str]) -> dict[str, float]:
    """Measure in a process of its own."""
    interpreter = peers_python() if name in NEEDS_ENVIRONMENT else sys.executable
    command = [interpreter, __file__, "--measure", name, "--crops", kind, "--folder", str(folder)]
    command += ["--images", str(num_images)]
    if name not in OURS:
        environment = {key: value for key, value in environment.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peers_python() -> str:
    """Return the interpreter of the peers' environment, which is made where there is none: ours, and theirs on top."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "luss_ray" / "benchmarks-ingest"
    python, ready = cache / "bin" / "python", cache / "ready"
    if not ready.exists():
        CONSOLE.print(f"installing the peers into {cache}")
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, cache], check=True)
        packages = HERE / "ingest_peers.txt"
        subprocess.run(["uv", "pip", "install", "--quiet", "--no-deps", "-p", python, "-r", packages], check=True)
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (next(cache.glob("lib/python*/site-packages")) / "product.pth").write_text(ours)
        ready.touch()
    return str(python)


def prepare(folder: Path, number: int, python: str) -> None:
    """Write the images in every contender's form."""
    make_images(folder / "files", number)
    packing = PackSettings(images_per_shard=250)
    pack(find_images(folder / "files"), Location.parse(folder / "shards"), packing)
    for peer in NEEDS_ENVIRONMENT:
        command = [python, "-c", f"import pathlib, ingest_peers as p; p.write_{peer}(pathlib.Path({str(folder)!r}))"]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(HERE)}, check=True, capture_output=True)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Start an S3 server with the shards and a proxy before it; give the proxy and the environment for it."""
    sys.path.append(str(HERE.parent / "tests"))
    from fixtures_proxy import SlowProxy
    from fixtures_s3 import S3Server

    server = S3Server(folder / "s3")
    server.start()
    try:
        server.bucket("ingest")
        for path in sorted((folder / "shards").rglob("*")):
            if path.is_file():
                server.client().upload_file(str(path), "ingest", str(path.relative_to(folder / "shards")))
        proxy = SlowProxy(server.endpoint, delay_s=0)
        yield proxy, {**server.environment(), "AWS_ENDPOINT_URL": proxy.endpoint, "INGEST_S3": "s3://ingest"}
        proxy.close()
    finally:
        server.stop()


def all_rounds(
    folder: Path, num_images: int, rounds: int, kinds: list[str]
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return what each contender measured, by kind of crops and name, a value a round."""
    measured: dict[str, dict[str, list[dict[str, float]]]] = {kind: {name: [] for name in ALL} for kind in kinds}
    with serving(folder) as (proxy, s3):
        environment = {**os.environ, **s3, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{HERE.parent}"}
        for number, kind, name in itertools.product(range(rounds), kinds, ALL):
            proxy.num_bytes = 0
            value = run_apart(name, kind, folder, num_images, environment)
            line = f"round {number + 1}, {kind}, {name}: {value['images_per_s']:.0f} images/s"
            line += f", first batch after {value['first_batch_s']:.1f} s"
            if proxy.num_bytes:
                value["bytes_per_image"] = proxy.num_bytes / value["images"]
                line += f", {value['bytes_per_image'] / 1000:.0f} kB an image"
            measured[kind][name].append(value)
            CONSOLE.print(line)
    return measured


def ratios_of(measured: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, dict[str, float]]:
    """Return the ratios with their spread over the rounds."""
    lists: dict[str, list[float]] = {}

    def rates(kind: str, name: str) -> np.ndarray:
        return np.array([value["images_per_s"] for value in measured[kind][name]])

    for kind in measured:
        lists[f"vs_authors_{kind}"] = (rates(kind, "ours") / rates(kind, "authors")).tolist()
        lists[f"cpu_vs_authors_{kind}"] = (rates(kind, "ours_cpu") / rates(kind, "authors")).tolist()
        best = np.max([rates(kind, name) for name in BEST_PEERS], axis=0)
        lists[f"vs_best_peer_{kind}"] = (rates(kind, "ours") / best).tolist()
        lists[f"cpu_vs_best_peer_{kind}"] = (rates(kind, "ours_cpu") / best).tolist()
        lists[f"of_decode_floor_{kind}"] = (rates(kind, "decode_only") / rates(kind, "ours")).tolist()
        lists[f"s3_vs_disk_{kind}"] = (rates(kind, "ours_s3") / rates(kind, "ours")).tolist()
    return {name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in lists.items()}


def jpeg_bytes(folder: Path) -> float:
    """Return the mean size of the images' files."""
    return statistics.mean(path.stat().st_size for path in (folder / "files").rglob("*.jpg"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of 2400 images, two global crops only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", choices=ALL, help=argparse.SUPPRESS)
    parser.add_argument("--crops", choices=MULTI_CROP, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder, MULTI_CROP[given.crops], given.images)))
        return
    with tempfile.TemporaryDirectory(prefix="ingest-", dir="/tmp") as name:
        folder = Path(name)
        num_images = 2400 if given.quick else given.images
        prepare(folder, num_images, peers_python())
        kinds = ["2x224"] if given.quick else list(MULTI_CROP)
        CONSOLE.print(f"images of {jpeg_bytes(folder) / 1000:.0f} kB")
        measured = all_rounds(folder, num_images, 1 if given.quick else given.rounds, kinds)
    ratios = ratios_of(measured)
    table = Table("", "median", "min", "max")
    for name, spread in ratios.items():
        table.add_row(name, *(f"{value:.2f}" for value in spread.values()))
    CONSOLE.print(table)
    if given.json:
        given.json.write_text(json.dumps({"ratios": ratios, "measured": measured}, indent=1))


if __name__ == "__main__":
    main()
