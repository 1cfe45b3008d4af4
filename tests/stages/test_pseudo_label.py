from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from fixtures_shards import jpeg

from luss_ray.clustering.assign import Clusters
from luss_ray.config.recipe import Recipe
from luss_ray.config.recipes import RECIPES
from luss_ray.core.errors import UserError
from luss_ray.core.seeds import generator
from luss_ray.imagenet_s.layout import find_images
from luss_ray.imagenet_s.soft_label import SoftLabel
from luss_ray.stages.coverage import count_labels, count_shards, read_label_counts
from luss_ray.stages.pseudo_label import PseudoLabelWork
from luss_ray.stages.shards import ShardImages, read_shard, run_over_shards
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.pack import pack
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.uri import Location
from luss_ray.storage.verify import verify_labels
from luss_ray.train.pixel_attention import pixel_attention_model

CPU = torch.device("cpu")
NUM_CLUSTERS = 300
SIZES = ((50, 40), (40, 50), (64, 40), (50, 40), (90, 41), (40, 40), (64, 40), (50, 40))


@pytest.fixture
def recipe() -> Recipe:
    demo = RECIPES["demo"]()
    return replace(demo, shorter_side_px=32, backbone=replace(demo.backbone, widths=(8, 8, 16, 16)))


@pytest.fixture
def work(recipe, tmp_path) -> PseudoLabelWork:
    """Return what labels two shards of images of several sizes, one of which is broken."""
    (tmp_path / "images").mkdir()
    for number, (width, height) in enumerate(SIZES * 2):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(jpeg(number, width, height))
    pack(find_images(tmp_path / "images"), Location.parse(tmp_path / "data"), PackSettings(images_per_shard=8))
    split = ShardedDataset.open(Location.parse(tmp_path / "data")).split("train")
    with (tmp_path / "data" / split.shards[0]).open("r+b") as shard:
        shard.seek(int(split.image_offsets[5]))
        shard.write(bytes(100))
    weights = Location.parse(tmp_path / "weights.safetensors")
    network = pixel_attention_model(recipe)
    weights.write("", safetensors.torch.save(dict(network.state_dict())))
    return PseudoLabelWork(
        split=split,
        recipe=recipe,
        weights=weights,
        clusters=Clusters.of(generator(1).random((NUM_CLUSTERS, network.channels[-1]), np.float32)),
        labels=LabelShards(Location.parse(tmp_path / "labels"), split),
    )


def labelled_shards(work: PseudoLabelWork) -> LabelShards:
    network = work.load(CPU)
    with torch.inference_mode():
        bad = [name for shard in (0, 1) for name in work.process(shard, network, CPU)]
    assert bad == [work.split.sample_uri(5)]
    return work.labels


def test_labels_are_parallel_to_the_images_and_those_of_one_image_at_a_time(work):
    labels = labelled_shards(work)
    assert labels.published() == [0, 1]
    key = work.split.key(5)
    assert [problem for _, found in verify_labels(labels, NUM_CLUSTERS, unlabelled={key}) for problem in found] == []
    network = work.load(CPU)
    for shard in (0, 1):
        for image in read_shard(work.split, shard, work.recipe.shorter_side_px).images:
            with torch.inference_mode():
                ((_, batch),) = ShardImages([image], []).batches(CPU)
                (alone,) = network.soft_labels(batch)
            stored = SoftLabel.decode(labels.read([image.row])[0] or b"")
            assert stored.labels.shape == alone.labels.shape
            assert (stored.labels == alone.labels).mean() > 0.99
            assert np.abs(stored.attention.astype(int) - alone.attention).max() <= 1


def test_images_of_one_size_are_one_batch(work):
    whole = read_shard(work.split, 0, work.recipe.shorter_side_px)
    batches = [([image.row for image in images], tuple(batch.shape[2:])) for images, batch in whole.batches(CPU)]
    assert sorted(row for rows, _ in batches for row in rows) == [0, 1, 2, 3, 4, 6, 7]
    sizes = [size for _, size in batches]
    assert sizes == sorted(set(sizes)) and len(sizes) > 2 and max(len(rows) for rows, _ in batches) > 1
    assert whole.bad == [work.split.sample_uri(5)]


def test_what_shards_hold_adds_up(work):
    labels = labelled_shards(work)
    whole = count_shards(labels, [0, 1], NUM_CLUSTERS)
    parts = count_shards(labels, [0], NUM_CLUSTERS) + count_shards(labels, [1], NUM_CLUSTERS)
    decoded = [SoftLabel.decode(data) for data in labels.read(range(16)) if data]
    assert len(decoded) == 15 and whole.unlabelled == parts.unlabelled == [work.split.sample_uri(5)]
    assert whole.counts.pixels.sum() == sum(label.labels.size for label in decoded)
    np.testing.assert_array_equal(whole.counts.pixels, parts.counts.pixels)
    files = [path for path in labels.location.local_path.rglob("*") if path.is_file()]
    assert whole.num_bytes == parts.num_bytes == sum(path.stat().st_size for path in files)


def test_the_whole_stage_is_counted_in_tasks(work, ray_cluster):
    labels = labelled_shards(work)
    census = count_labels(labels, NUM_CLUSTERS)
    alone = count_shards(labels, [0, 1], NUM_CLUSTERS)
    np.testing.assert_array_equal(census.counts.pixels, alone.counts.pixels)
    assert (census.num_bytes, census.unlabelled) == (alone.num_bytes, alone.unlabelled)
    np.testing.assert_array_equal(read_label_counts(labels.location).pixels, alone.counts.pixels)


def test_a_second_worker_on_the_same_shard_changes_nothing(work):
    labels = labelled_shards(work)
    before = labels.location.read(work.split.shards[0])
    labelled_shards(replace(work, clusters=Clusters.of(work.clusters.centroids[::-1].copy())))
    assert labels.location.read(work.split.shards[0]) == before


def problems(labels: LabelShards, num_clusters: int = NUM_CLUSTERS) -> str:
    fresh = LabelShards(labels.location, labels.split)
    found = [found for _, found in verify_labels(fresh, num_clusters, unlabelled={labels.split.key(5)})]
    return "\n".join(str(problem) for part in found for problem in part)


def test_what_is_wrong_with_labels_is_named(work):
    labels = labelled_shards(work)
    place, name = labels.location, work.split.shards[0]
    index = name.removesuffix(".tar") + ".parquet"
    tar, table = place.read(name), place.read_table(index)
    key = work.split.key(0)
    assert problems(labels) == ""
    assert f"{key}: its clusters are" in problems(labels, 1) and "there are 1 to 1" in problems(labels, 1)
    offset = table["offset"][0].as_py()
    place.write(name, tar[: offset + 40] + bytes(8) + tar[offset + 48 :])
    assert "its SHA-256" in problems(labels) and f"{key}: unreadable" in problems(labels)
    place.write(name, tar[:700])
    assert "not a complete tar" in problems(labels)
    place.write(name, tar)
    place.delete(index)
    place.create_table(index, table.take(list(range(len(table)))[::-1]))
    assert "has not the image shard's keys in their order" in problems(labels)
    place.delete(index)
    assert f"{place.child(name).uri}: it is missing" in problems(labels)


def test_a_label_that_nobody_left_out_is_missed(work):
    labels = labelled_shards(work)
    found = [str(problem) for _, found in verify_labels(labels, NUM_CLUSTERS) for problem in found]
    assert found == [f"{labels.location.child(work.split.shards[0]).uri}#{work.split.key(5)}: no label"]


def test_unreadable_images_of_an_earlier_start_count_as_well(work):
    """The budget is the stage's, however often it was started again."""
    labels = labelled_shards(work)
    known = labels.unlabelled(labels.published())
    asked = {"sizes": work.split.shard_sizes, "name": "pseudo-labels", "resources": None}
    assert run_over_shards(work, [], **asked, max_bad_samples=1, known_bad=known) == [work.split.sample_uri(5)]
    with pytest.raises(UserError, match=r"more than 0 unreadable images \(e\.g\. .*#"):
        run_over_shards(work, [], **asked, max_bad_samples=0, known_bad=known)


def test_a_label_that_is_missing_without_a_reason_is_named(work, tmp_path):
    """Whatever the run says: its image can be read."""
    rows = work.split.shard_rows(0).tolist()
    given = [
        None if row in (3, 5) else label for row, label in zip(rows, labelled_shards(work).read(rows), strict=True)
    ]
    labels = LabelShards(Location.parse(tmp_path / "others"), work.split)
    labels.publish(0, given)
    said = {work.split.key(row) for row in (3, 5)}
    _, found = next(verify_labels(labels, NUM_CLUSTERS, unlabelled=said))
    (problem,) = found
    assert str(problem).endswith(f"{work.split.key(3)}: no label, though its image can be read")
