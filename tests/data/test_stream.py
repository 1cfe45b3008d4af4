"""What reaches the training step: the planned samples, the same bits at any world size, whatever is wrong with some."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixtures_proxy import SlowProxy
from fixtures_s3 import S3Server

from luss_ray.config.recipe import Crops
from luss_ray.core.errors import UserError
from luss_ray.data.stream import Loader, StreamSpec, chunk_steps, stream
from luss_ray.imagenet_s.layout import find_images
from luss_ray.storage.dataset import ShardedDataset, Split
from luss_ray.storage.pack import pack
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.tar import scan_tar
from luss_ray.storage.uri import Location
from luss_ray.train.views import MultiCrop

CROPS = Crops(global_px=16, local_px=8, num_local=2)


def spec_of(packed: ShardedDataset, global_batch: int = 7) -> StreamSpec:
    return StreamSpec(
        data=packed.location,
        split="train",
        labels=None,
        seed=5,
        global_batch=global_batch,
        epochs=3,
        transform=MultiCrop(CROPS),
    )


def loader_of(spec: StreamSpec, rank: int = 0, world: int = 1) -> Loader:
    return Loader(spec=spec, rank=rank, world=world, start_step=0, num_threads=2)


def whole_run(spec: StreamSpec, world: int, steps: range) -> list[dict[str, np.ndarray]]:
    """The global batches of these steps, joined from all ranks."""
    parts = [list(loader_of(spec, rank, world).load(np.array(steps))) for rank in range(world)]
    return [
        {name: np.concatenate([part[name] for part in slices]) for name in slices[0]}
        for slices in zip(*parts, strict=True)
    ]


def assert_same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_global_batches_are_the_same_bits_at_any_world_size_and_from_any_step(packed: ShardedDataset) -> None:
    spec = spec_of(packed)
    num_steps = spec.open_plan().num_steps
    alone = whole_run(spec, 1, range(num_steps))
    for world in (2, 3):
        assert_same(alone, whole_run(spec, world, range(num_steps)))
    assert_same(alone[4:6], whole_run(spec, 3, range(4, 6)))
    assert alone[0]["crops_0"].dtype == np.uint8 and alone[0]["crops_0"].shape == (7, 2, 16, 16, 3)
    assert not np.array_equal(alone[0]["crops_0"], alone[1]["crops_0"])


def test_crops_differ_from_epoch_to_epoch_and_not_otherwise(packed: ShardedDataset) -> None:
    of_row: dict[tuple[int, int], np.ndarray] = {}
    spec = spec_of(packed)
    for batch in whole_run(spec, 1, range(spec.open_plan().num_steps)):
        for epoch, row, geometry in zip(batch["epoch"], batch["row"], batch["geometry"], strict=True):
            of_row[int(epoch), int(row)] = geometry
    assert any(not np.array_equal(of_row[0, row], of_row[1, row]) for row in range(24) if (1, row) in of_row)
    again = whole_run(spec_of(packed, global_batch=5), 2, range(5))
    for batch in again:
        for epoch, row, geometry in zip(batch["epoch"], batch["row"], batch["geometry"], strict=True):
            np.testing.assert_array_equal(geometry, of_row[int(epoch), int(row)])


def member_at(split: Split, row: int) -> tuple[Path, int, int]:
    """Return the tar, first byte and size of a sample's image."""
    return Path(split.shard_uri(row)), int(split.image_offsets[row]), int(split.image_bytes[row])


def rewrite(path: Path, change: Callable[[bytearray], bytearray]) -> None:
    path.write_bytes(bytes(change(bytearray(path.read_bytes()))))


def no_image(split: Split, row: int) -> set[int]:
    path, offset, size = member_at(split, row)
    rewrite(path, lambda data: data[:offset] + bytearray(b"#!" * (size // 2 + 1))[:size] + data[offset + size :])
    return {row}


def flipped_byte(split: Split, row: int) -> set[int]:
    path, offset, _ = member_at(split, row)

    def flip(data: bytearray) -> bytearray:
        data[offset + 1] ^= 0xFF  # the marker with which a JPEG starts
        return data

    rewrite(path, flip)
    return {row}


def another_size_than_the_header_says(split: Split, row: int) -> set[int]:
    path, offset, size = member_at(split, row)

    def lie(data: bytearray) -> bytearray:
        frame = data.index(b"\xff\xc0", offset, offset + size)
        data[frame + 5 : frame + 7] = (60_000).to_bytes(2, "big")
        return data

    rewrite(path, lie)
    return {row}


def tar_that_ends_early(split: Split, row: int) -> set[int]:
    path, offset, _ = member_at(split, row)
    rewrite(path, lambda data: data[: offset + 10])
    rows = split.shard_rows(int(split.shard_ids[row]))
    return {int(other) for other in rows if split.image_offsets[other] >= offset}


def vanished_shard(split: Split, row: int) -> set[int]:
    Path(split.shard_uri(row)).unlink()
    return set(split.shard_rows(int(split.shard_ids[row])).tolist())


DAMAGE = [no_image, flipped_byte, another_size_than_the_header_says, tar_that_ends_early, vanished_shard]


@pytest.mark.parametrize("damage", DAMAGE)
def test_samples_that_cannot_be_used_are_replaced_by_the_same_others_everywhere(
    packed: ShardedDataset, damage: Callable[[Split, int], set[int]]
) -> None:
    split = packed.split("train")
    bad = damage(split, 4)
    spec = spec_of(packed)
    steps = range(spec.open_plan().num_steps)
    batches = whole_run(spec, 1, steps)
    rows, used = (np.concatenate([batch[name] for batch in batches]) for name in ("row", "used_row"))
    assert set(rows[rows != used].tolist()) == bad and bad.isdisjoint(used.tolist())
    assert_same(batches, whole_run(spec, 3, steps))


def test_a_shard_that_is_replaced_while_it_is_read_stops_the_run(packed: ShardedDataset) -> None:
    loader, path = loader_of(spec_of(packed)), Path(packed.split("train").shard_uri(0))
    list(loader.load(np.arange(3)))
    members = scan_tar(io.BytesIO(path.read_bytes()))
    rewrite(path, lambda data: data + bytearray(10240))
    assert scan_tar(io.BytesIO(path.read_bytes())) == members
    with pytest.raises(UserError, match="was changed while in use"):
        list(loader.load(np.arange(3)))


def test_a_dataset_without_one_readable_image_stops_the_run(packed: ShardedDataset) -> None:
    split = packed.split("train")
    for row in range(len(split)):
        no_image(split, row)
    with pytest.raises(UserError, match="unreadable images in a row"):
        list(loader_of(spec_of(packed)).load(np.arange(1)))


def test_a_loader_is_given_some_megabytes_at_a_time(packed: ShardedDataset) -> None:
    split = packed.split("train")
    assert chunk_steps(split, 7) == 16
    split.image_bytes = np.full(len(split), 110_000)
    assert [chunk_steps(split, size) for size in (16, 32, 64, 100_000)] == [16, 9, 4, 1]


def test_a_slow_store_is_asked_seldom_and_for_much_at_once(
    slow_store: SlowProxy, s3_server: S3Server, make_layout: Callable[..., Path]
) -> None:
    location = Location.parse(s3_server.bucket("slow") + "/data")
    pack(find_images(make_layout(num_train=32)), location, PackSettings(images_per_shard=12))
    spec = spec_of(ShardedDataset.open(location), global_batch=12)
    loader, before = loader_of(spec), slow_store.num_requests
    batches = list(loader.load(np.arange(8)))
    assert sorted(np.concatenate([batch["row"] for batch in batches]).tolist()) == list(range(96))
    assert slow_store.num_requests - before <= 8, "an epoch of 96 images in 8 shards: a request a shard"
    assert slow_store.most_waiting >= 4, "and they are under way together"


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("start_step", [0, 3])
def test_ray_delivers_every_step_in_order(packed: ShardedDataset, start_step: int) -> None:
    spec = spec_of(packed, global_batch=3)
    num_steps = spec.open_plan().num_steps
    delivered = [
        list(stream(spec, rank=rank, world=2, start_step=start_step, num_steps=num_steps, num_loaders=2, num_threads=1))
        for rank in range(2)
    ]
    assert [len(part) for part in delivered] == [num_steps - start_step] * 2
    for rank, part in enumerate(delivered):
        assert_same(part, list(loader_of(spec, rank, 2).load(np.arange(start_step, num_steps))))
