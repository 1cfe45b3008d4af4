import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fixtures_shards import mask_ids

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.layout import find_images
from luss_ray.storage import pack as pack_module
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.pack import pack
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.uri import Location
from luss_ray.storage.verify import verify

_SMALL = PackSettings(images_per_shard=5)


def problems_of(place: Location) -> list[str]:
    return [str(problem) for _, problems in verify(ShardedDataset.open(place)) for problem in problems]


def test_a_packed_folder_is_whole_and_leaves_no_traces(make_layout, place):
    manifest = pack(find_images(make_layout()), place, _SMALL)
    assert problems_of(place) == []
    assert manifest.splits["train"]["images"] == 24
    assert manifest.splits["validation"] | {"bytes": 0} == {"images": 6, "masks": 6, "shards": 2, "bytes": 0}
    assert manifest.name == "source"
    assert place.list() == sorted(["index.parquet", "manifest.json", *manifest.shards])
    for shard, facts in manifest.shards.items():
        assert hashlib.sha256(place.read(shard)).hexdigest() == facts["sha256"]


def test_the_same_folder_gives_the_same_data_anywhere(make_layout, tmp_path):
    source = find_images(make_layout())
    digests = [pack(source, Location.parse(tmp_path / name), _SMALL).digest for name in ("a", "b")]
    assert digests[0] == digests[1]
    assert pack(source, Location.parse(tmp_path / "c"), PackSettings(images_per_shard=6)).digest != digests[0]


def test_progress_counts_every_image_once(make_layout, tmp_path):
    seen: list[int] = []
    pack(find_images(make_layout()), Location.parse(tmp_path / "out"), _SMALL, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 30


def test_packing_again_reads_nothing_and_other_data_are_refused(make_layout, place, monkeypatch):
    source = find_images(make_layout())
    first = pack(source, place, _SMALL)
    monkeypatch.setattr(pack_module, "prepare", None)
    assert pack(source, place, _SMALL) == first
    with pytest.raises(UserError, match="holds a dataset of other images or settings"):
        pack(source, place, PackSettings(images_per_shard=6))


class _PowerCutError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_packing_goes_on_with_the_missing_shards(make_layout, place, monkeypatch, after):
    source = find_images(make_layout())
    real, published = pack_module._publish, []

    def publish(out, shard, samples):
        if len(published) >= after:
            raise _PowerCutError
        published.append(shard.name)
        return real(out, shard, samples)

    with monkeypatch.context() as changed:
        changed.setattr(pack_module, "_publish", publish)
        with pytest.raises(_PowerCutError):
            pack(source, place, _SMALL)
    with pytest.raises(UserError, match="no dataset at"):
        ShardedDataset.open(place)
    with pytest.raises(UserError, match="unfinished packing of other images or settings"):
        pack(source, place, PackSettings(images_per_shard=6))
    again: list[str] = []

    def publish_again(out, shard, samples):
        again.append(shard.name)
        return real(out, shard, samples)

    monkeypatch.setattr(pack_module, "_publish", publish_again)
    manifest = pack(source, place, _SMALL)
    assert sorted(again + published) == sorted(manifest.shards), "published shards are not made again"
    assert problems_of(place) == []


def test_two_packers_at_once_make_one_dataset(make_layout, place):
    source = find_images(make_layout())
    with ThreadPoolExecutor(3) as threads:
        manifests = list(threads.map(lambda _: pack(source, place, _SMALL), range(3)))
    assert manifests[0] == manifests[1] == manifests[2]
    assert problems_of(place) == []


_PACKER = """
import sys
from pathlib import Path
from luss_ray.imagenet_s.layout import find_images
from luss_ray.storage.pack import pack
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.uri import Location
source = find_images(Path(sys.argv[1]))
print("go", flush=True)
pack(source, Location.parse(sys.argv[2]), PackSettings(images_per_shard=5))
"""


@pytest.mark.chaos
def test_a_packer_killed_at_any_time_can_be_followed_by_another(make_layout, place):
    root = make_layout(num_train=40)
    for delay_s in (0.01, 0.04, 0.08):
        command = [sys.executable, "-c", _PACKER, str(root), place.uri]
        packer = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert packer.stdout is not None
        assert packer.stdout.readline() == b"go\n"
        time.sleep(delay_s)
        packer.send_signal(signal.SIGKILL)
        packer.wait()
    manifest = pack(find_images(root), place, _SMALL)
    assert problems_of(place) == []
    if place.is_local:
        files = {str(path.relative_to(place.path)) for path in place.local_path.rglob("*") if path.is_file()}
        assert files == {"index.parquet", "manifest.json", *manifest.shards}, "nothing half-written stays"


def test_bad_images_are_left_out_and_named(make_layout, place):
    root = make_layout()
    good = (root / "train/cat/cat_0.JPEG").read_bytes()
    (root / "train/cat/cat_0.JPEG").write_bytes(good[: len(good) // 2])
    (root / "train/bird/bird_1.JPEG").write_bytes(b"")
    (root / "train/fish/gone.JPEG").symlink_to(root / "nowhere")
    (root / "validation-segmentation/fish/fish_0.png").write_bytes(masks.encode(mask_ids(77)))
    manifest = pack(find_images(root), place, _SMALL)
    assert problems_of(place) == []
    assert (manifest.splits["train"]["images"], manifest.splits["validation"]["images"]) == (22, 5)
    reasons = {bad["file"]: bad["reason"] for bad in manifest.quarantined}
    assert reasons.keys() == {
        "train/cat/cat_0.JPEG",
        "train/bird/bird_1.JPEG",
        "train/fish/gone.JPEG",
        "validation/fish/fish_0.JPEG",
    }
    assert reasons["train/bird/bird_1.JPEG"] == "empty file"
    assert reasons["train/fish/gone.JPEG"] == "no such file or directory"
    assert "category id 77" in reasons["validation/fish/fish_0.JPEG"]


def test_too_many_bad_images_are_refused_with_an_example(make_layout, place):
    root = make_layout()
    for i in (1, 2, 3):
        (root / f"train/cat/cat_{i}.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 are tolerated \(e.g. train/cat/cat_\d.JPEG: not an image\)"):
        pack(find_images(root), place, PackSettings(images_per_shard=5, max_bad_samples=2))
    assert not place.exists("manifest.json")
    assert pack(find_images(root), place, PackSettings(images_per_shard=5, max_bad_samples=3)).quarantined


def test_a_category_that_lost_all_its_images_is_refused(make_layout, place):
    root = make_layout()
    for path in (root / "train/cat").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of category cat's images"):
        pack(find_images(root), place, _SMALL)
    assert not place.exists("manifest.json")


def test_a_mask_of_another_size_stops_before_anything_is_written(make_layout, place):
    root = make_layout()
    (root / "validation-segmentation/cat/cat_1.png").write_bytes(masks.encode(mask_ids(2, 41, 30)))
    with pytest.raises(UserError, match=r"cat_1.png has 41 x 30 pixels, its image 40 x 30"):
        pack(find_images(root), place, _SMALL)
    assert place.list() == []


def test_a_plain_folder_gets_no_classes(make_layout, place):
    root = make_layout() / "train" / "cat"
    manifest = pack(find_images(root), place, _SMALL)
    dataset = ShardedDataset.open(place)
    assert manifest.categories == ()
    assert dataset.splits == ("train",)
    assert not dataset.split("train").class_ids.any()


def test_images_that_changed_between_two_attempts_are_noticed(make_layout, place):
    root = make_layout()
    pack(find_images(root), place, _SMALL)
    place.delete("manifest.json")
    image = root / "train/cat/cat_0.JPEG"
    data = bytearray(image.read_bytes())
    data[-40] ^= 1  # the same size, other content
    image.write_bytes(data)
    with pytest.raises(UserError, match="is there already and differs"):
        pack(find_images(root), place, _SMALL)
    assert not place.exists("manifest.json")
