from dataclasses import replace

import pytest

from luss_ray.config.recipes import imagenet_s_50
from luss_ray.core.errors import UserError
from luss_ray.protocols.rules import Protocol, check_split, check_weights
from luss_ray.stages.run import Origin
from luss_ray.storage.dataset import Manifest, ShardedDataset
from luss_ray.storage.uri import Location

STRICT = [protocol for protocol in Protocol if protocol is not Protocol.FREE]


def dataset(num_categories: int, digest: str = "d") -> ShardedDataset:
    categories = tuple(f"c{number}" for number in range(num_categories))
    manifest = Manifest(name="x", categories=categories, splits={}, shards={}, index_sha256="", digest=digest)
    return ShardedDataset(Location.parse("/data/here"), manifest)


def origin(split: str = "train", digest: str = "d") -> Origin:
    recipe = imagenet_s_50()
    recipe = replace(recipe, pretrain=replace(recipe.pretrain, split=split))
    return Origin(recipe=recipe, data_digest=digest, data_uri="s3://bucket/there")


@pytest.mark.parametrize("protocol", STRICT)
def test_only_919_may_see_all_of_imagenet(protocol):
    check_split(protocol, "train-full", dataset(919))
    for num_categories in (50, 300):
        with pytest.raises(UserError, match=f"not allowed for {num_categories} categories"):
            check_split(protocol, "train-full", dataset(num_categories))
        check_split(protocol, "train", dataset(num_categories))


@pytest.mark.parametrize("protocol", STRICT)
def test_weights_of_other_data_are_refused_with_the_reason(protocol):
    check_weights(protocol, origin(), dataset(50))
    with pytest.raises(UserError, match="trained on s3://bucket/there, not on /data/here"):
        check_weights(protocol, origin(digest="other"), dataset(50))
    with pytest.raises(UserError, match="pretraining on train-full is not allowed"):
        check_weights(protocol, origin(split="train-full"), dataset(50))


def test_free_is_free():
    check_weights(Protocol.FREE, origin(split="train-full", digest="other"), dataset(50))
