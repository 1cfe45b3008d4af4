import json
from pathlib import Path

import numpy as np
import pytest
import torch

from luss_ray.core.errors import UserError
from luss_ray.metrics.neighbours import (
    clustering_accuracy,
    effective_rank,
    knn_accuracy,
    knn_predict,
    normalised_mutual_information,
)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_knn_equals_the_published_classifier(golden: Path, case: str) -> None:
    stored = np.load(golden / "method" / "knn.npz")
    config = json.loads((golden / "method" / "knn.json").read_text())[case]
    train, labels, test = (torch.from_numpy(stored[f"{case}_{name}"]) for name in ("train", "labels", "test"))
    predicted = knn_predict(train, labels, test, k=config["k"], temperature=config["T"])
    np.testing.assert_array_equal(predicted.numpy(), stored[f"{case}_pred"])


@pytest.mark.parametrize("case", ["single0", "single1"])
def test_clustering_scores_equal_the_published_ones(golden: Path, case: str) -> None:
    stored = np.load(golden / "method" / "cluster.npz")
    clusters, target = stored[f"{case}_cluster"], stored[f"{case}_target"]
    assert clustering_accuracy(clusters, target) == pytest.approx(100 * float(stored[f"{case}_acc"]))
    assert normalised_mutual_information(clusters, target) == pytest.approx(float(stored[f"{case}_nmi"]))


def test_knn_weighs_near_neighbours_more() -> None:
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    labels, test = torch.tensor([4, 1, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert knn_predict(train, labels, test, k=3, temperature=0.07).tolist() == [4, 1]
    assert knn_predict(train, labels, test, k=3, temperature=100.0).tolist() == [1, 1]
    assert knn_accuracy(train, labels, test, torch.tensor([4, 0]), k=50) == 50


def test_knn_without_references_is_a_user_error() -> None:
    with pytest.raises(UserError, match="reference"):
        knn_predict(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(1, 2))


def test_clustering_scores_do_not_care_about_names() -> None:
    rng = np.random.default_rng(0)
    labels, renamed = rng.integers(0, 6, 200), rng.permutation(9)[:6]
    assert clustering_accuracy(renamed[labels], labels) == 100
    assert normalised_mutual_information(renamed[labels], labels) == pytest.approx(1)
    assert normalised_mutual_information(np.zeros(9, int), np.zeros(9, int)) == 1
    assert normalised_mutual_information(np.zeros(9, int), np.arange(9)) == pytest.approx(0)
    with pytest.raises(UserError, match="no sample"):
        clustering_accuracy(np.zeros(0, int), np.zeros(0, int))


def test_effective_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(40, 10)))[0].astype(np.float32)
    for rank in (1, 3, 10):
        assert effective_rank(basis[:, :rank] @ np.eye(rank, 12, dtype=np.float32)) == pytest.approx(rank, rel=1e-4)
    assert effective_rank(np.zeros((5, 4), np.float32)) == 0
    assert 1 < effective_rank(basis * np.arange(1, 11, dtype=np.float32)) < 10
