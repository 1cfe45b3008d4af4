"""Looks at a machine, a store and a cluster before a run: what is there, what works, what a recipe would take."""

import enum
import functools
import importlib.metadata
import logging
import os
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from rich.table import Table

from luss_ray.cli.trial import Training, measure, training_of
from luss_ray.config.command_line import recipe_named
from luss_ray.config.recipe import Recipe
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.data.decode import decode_image
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.train.step import half_precision

_PACKAGES = ("luss-ray", "ray", "torch", "torchvision", "timm", "faiss-cpu", "faiss-gpu", "numpy", "pyarrow", "obstore")
_BENCHMARK_IMAGES = {"imagenet-s-50": 64_431, "imagenet-s-300": 384_862, "imagenet-s-919": 1_281_167}
_PROBE_BYTES = 8 << 20
_CONNECT_S = 5.0
_SAFE_SHARE = 0.9
"""Of memory that a step may take."""


class Verdict(enum.Enum):
    """How a check ended."""

    GOOD = "✓"
    POOR = "!"
    BAD = "✗"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    name: str
    verdict: Verdict
    text: str
    """What was seen, and where something is wrong what to do."""


def examine(
    recipe_name: str, *, storage: str, data: str | None, images: int | None, workers: int, quick: bool
) -> list[Finding]:
    """Return what all checks found; what is wrong is a finding.

    Args:
        recipe_name: whose training is tried.
        storage: where runs would be kept.
        data: sharded dataset; None = there is none yet.
        images: that hours are worked out for.
        workers: training workers like this machine.
        quick: leave out the trial of training.

    Raises:
        UserError: there is no such recipe.
    """
    if workers < 1 or (images is not None and images < 1):
        raise UserError("--workers and --images must be at least 1")
    recipe = recipe_named(recipe_name)
    training = training_of(recipe)
    findings = [_versions(), _machine(), _gpus(), _decoding()]
    findings.append(_checked("Ray", _ray))
    findings.append(_checked("storage", lambda: _storage(Location.parse(storage))))
    num_images, num_categories = images or _BENCHMARK_IMAGES.get(recipe_name), 0
    if data is not None:
        findings.append(_checked("data", lambda: _data(Location.parse(data), training)))
        if findings[-1].verdict is not Verdict.BAD:
            opened = ShardedDataset.open(Location.parse(data))
            num_images, num_categories = images or len(opened.split(training.split)), len(opened.categories)
    if not quick:
        trial = functools.partial(_trial, recipe, training, num_images, num_categories, workers)
        findings.append(_checked(f"recipe {recipe_name}", trial))
    return findings


def show(findings: list[Finding]) -> int:
    """Print what was found; return 1 if something is bad, else 0."""
    table = Table(box=None, pad_edge=False, show_header=False)
    colours = {Verdict.GOOD: "green", Verdict.POOR: "yellow", Verdict.BAD: "red"}
    for finding in findings:
        mark = f"[{colours[finding.verdict]}]{finding.verdict.value}[/]"
        table.add_row(mark, f"[bold]{finding.name}[/bold]", finding.text)
    CONSOLE.print(table)
    return int(any(finding.verdict is Verdict.BAD for finding in findings))


def _checked(name: str, check: Callable[[], tuple[Verdict, str]]) -> Finding:
    try:
        verdict, text = check()
    except UserError as error:
        verdict, text = Verdict.BAD, str(error)
    return Finding(name=name, verdict=verdict, text=text)


def _versions() -> Finding:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    text = f"Python {platform.python_version()}, " + ", ".join(f"{name} {version}" for name, version in found.items())
    if not {"faiss-cpu", "faiss-gpu"} & set(found):
        return Finding(name="versions", verdict=Verdict.BAD, text=f"{text}; no faiss: uv sync --extra faiss-cpu")
    return Finding(name="versions", verdict=Verdict.GOOD, text=text)


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(".").free / 2**30
    text = f"{cores} cores, {memory:.0f} GiB of memory, {free:.0f} GiB of disk free here"
    poor = memory < 6 or free < 10
    return Finding(name="machine", verdict=Verdict.POOR if poor else Verdict.GOOD, text=text)


def _gpus() -> Finding:
    if not torch.cuda.is_available():
        text = "none: the demo trains on CPUs, ImageNet-S wants GPUs"
        return Finding(name="GPUs", verdict=Verdict.POOR, text=text)
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    text = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices)
    precision = str(half_precision(torch.device("cuda")) or "float32 alone").removeprefix("torch.")
    return Finding(name="GPUs", verdict=Verdict.GOOD, text=f"{text}; {precision}")


def _decoding() -> Finding:
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (94, 125, 3), np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC)
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
    data, started, times = encoded.tobytes(), time.perf_counter(), 0
    while time.perf_counter() - started < 0.5:
        decode_image(data)
        times += 1
    rate = times / (time.perf_counter() - started)
    text = f"{rate:.0f} images/s a core (500x375 JPEG of {len(data) / 1000:.0f} kB)"
    return Finding(name="decoding", verdict=Verdict.GOOD, text=text)


def _ray() -> tuple[Verdict, str]:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Verdict.GOOD, "no RAY_ADDRESS: a job starts Ray on this machine"
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if host and port.isdigit():  # Ray itself would try for minutes
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except OSError as error:
            return Verdict.BAD, f"nobody answers at RAY_ADDRESS={address} ({error}): start a cluster, or unset it"
    import ray  # noqa: PLC0415 (takes seconds, and only a cluster asks for it)

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 (whatever keeps one from joining is what people want to know)
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Verdict.BAD, f"no cluster at RAY_ADDRESS={address} ({line}): start one, or unset it"
    resources, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
    ray.shutdown()
    counts = ", ".join(f"{resources.get(kind, 0):.0f} {kind}s" for kind in ("CPU", "GPU"))
    return Verdict.GOOD, f"cluster at {address}: {len(nodes)} nodes, {counts}"


def _storage(storage: Location) -> tuple[Verdict, str]:
    storage.check_writable()
    probe, content = storage / f".doctor-{uuid.uuid4().hex}", os.urandom(_PROBE_BYTES)
    try:
        started = time.perf_counter()
        probe.write("large", content)
        written = time.perf_counter()
        if probe.read("large") != content:
            return Verdict.BAD, f"{storage.uri} gave back something else than was written: don't use this store"
        read = time.perf_counter()
        exclusive = probe.create("once", b"first") and not probe.create("once", b"second")
        asked = time.perf_counter()
        probe.exists("large")
        latency = time.perf_counter() - asked
    finally:
        probe.delete_prefix("")
    rates = (
        f"writes {_PROBE_BYTES / (written - started) / 1e6:.0f} MB/s, reads {_PROBE_BYTES / (read - written) / 1e6:.0f}"
    )
    text = f"{storage.uri}: {rates} MB/s in one stream, {1000 * latency:.0f} ms a request"
    if not exclusive:
        return Verdict.BAD, f"{text}; it ignores conditional writes (If-None-Match), which keep two jobs apart"
    if storage.is_local:
        text += f"; {shutil.disk_usage(storage.local_path).free / 2**30:.0f} GiB free"
        if os.environ.get("RAY_ADDRESS"):
            return Verdict.POOR, f"{text}; all nodes of a cluster must share it: give --storage s3://bucket/prefix"
    return Verdict.GOOD, text


def _data(location: Location, training: Training) -> tuple[Verdict, str]:
    data = ShardedDataset.open(location)
    split = data.split(training.split)
    if training.with_masks and not split.has_masks:
        return Verdict.BAD, f"{location.uri}: {training.split} has no masks to learn from"
    rows, started = np.arange(min(64, len(split))), time.perf_counter()
    read = split.read_images(rows)
    rate = sum(len(image) for image in read) / (time.perf_counter() - started) / 1e6
    splits = ", ".join(f"{len(data.split(name))} {name}" for name in data.splits)
    masks = "with" if "validation" in data.splits and data.split("validation").has_masks else "without"
    return Verdict.GOOD, f"{splits}; {len(data.categories)} categories, {masks} masks; read at {rate:.0f} MB/s"


def _trial(
    recipe: Recipe, training: Training, num_images: int | None, num_categories: int, workers: int
) -> tuple[Verdict, str]:
    """Take some steps of training with random crops, on as many images as a worker would have."""
    share, epochs = max(1, training.optimisation.batch_size // workers), training.optimisation.epochs
    try:
        measured = measure(recipe, share, num_categories=num_categories)
    except torch.cuda.OutOfMemoryError:
        return Verdict.BAD, f"{share} images a worker don't fit into the GPU's memory: give more --num-workers"
    rate, peak, total = measured.images_per_s * workers, measured.peak_bytes, measured.total_bytes
    text = f"{training.name} {rate:.0f} images/s on {workers} x this {'GPU' if measured.on_gpu else 'machine'}"
    text += f", {peak / 2**30:.1f} of {total / 2**30:.0f} GiB"
    if peak > total:
        return Verdict.BAD, f"{text}: {share} images a worker don't fit, give more --num-workers"
    if peak > _SAFE_SHARE * total:
        text += " (tight: give more --num-workers)"
    if num_images is None:
        return Verdict.GOOD, f"{text}; give --images N for hours"
    hours = epochs * num_images / rate / 3600
    text += f": {hours:.2g} h for {epochs} epochs of {num_images} images"
    return (Verdict.POOR if hours > 24 * 14 else Verdict.GOOD), text
