from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.layout import FolderFiles, Source, SourceSplit
from luss_ray.storage import pack_plan
from luss_ray.storage.pack_plan import PackSettings, plan_digest, plan_shards

FILES = FolderFiles(Path("nowhere"))


def source_of(sizes: list[int]) -> Source:
    names = [f"train/{i}.jpg" for i in range(len(sizes))]
    split = SourceSplit(
        name="train",
        images=names,
        masks=[""] * len(sizes),
        keys=names,
        class_ids=np.zeros(len(sizes), np.int32),
        sizes=np.array(sizes, np.int64),
    )
    return Source(name="x", files=FILES, mask_files=FILES, categories=(), splits=(split,))


@given(st.lists(st.integers(0, 2 * pack_plan.MAX_SHARD_BYTES), min_size=1, max_size=60), st.integers(1, 20))
def test_every_sample_is_in_one_shard_and_no_shard_is_too_large(sizes, images_per_shard):
    shards = plan_shards(source_of(sizes), PackSettings(images_per_shard=images_per_shard))
    assert sorted(np.concatenate([shard.samples for shard in shards]).tolist()) == list(range(len(sizes)))
    assert [shard.name for shard in shards] == [f"train/{i:06d}.tar" for i in range(len(shards))]
    for shard in shards:
        assert 1 <= len(shard.samples) <= images_per_shard
        assert len(shard.samples) == 1 or sum(sizes[i] for i in shard.samples) <= pack_plan.MAX_SHARD_BYTES


def test_the_order_is_shuffled_by_the_seed_alone():
    source = source_of([1] * 100)
    orders = [plan_shards(source, PackSettings(seed=seed))[0].samples.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_the_digest_follows_all_that_changes_the_shards():
    def digest(sizes=(1, 2, 3), **settings) -> str:
        source, how = source_of(list(sizes)), PackSettings(**settings)
        return plan_digest(source, how, plan_shards(source, how))

    assert digest() == digest() == digest(max_bad_samples=7)
    different = [digest(), digest((1, 2, 4)), digest(seed=1), digest(images_per_shard=2), digest(max_side_px=9)]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize("wrong", [{"images_per_shard": 0}, {"max_side_px": 0}, {"max_bad_samples": -1}, {"seed": -1}])
def test_impossible_settings_are_refused_by_the_option_s_name(wrong):
    with pytest.raises(UserError, match="--" + next(iter(wrong)).removesuffix("_px").replace("_", "-")):
        PackSettings(**wrong)
