"""How good features are, read from their neighbours, clusters and spectrum."""

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from luss_ray.core.errors import UserError
from luss_ray.metrics.matching import hungarian, matching_total

QUERIES_AT_ONCE = 1024


def knn_predict(
    train: Float[Tensor, "N C"],
    train_labels: Int64[Tensor, " N"],
    test: Float[Tensor, "M C"],
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> Int64[Tensor, " M"]:
    """Return each test row's label by a weighted vote of its nearest training rows, the lowest label on a tie.

    A neighbour's vote weighs exp(similarity / temperature), similarity being the inner product: L2-normalise for
    cosine.

    Args:
        train: reference features, on the device to compute on.
        train_labels: 0 or above.
        test: features to classify.
        k: neighbours that vote; all of them when there are fewer.
        temperature: above 0.

    Raises:
        UserError: no reference row.

    Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018.
    """
    if not len(train):
        raise UserError("no reference features to compare with: check that the reference split has masks")
    num_labels = int(train_labels.max()) + 1
    answers = []
    for rows in test.split(QUERIES_AT_ONCE):
        similarity, nearest = (rows @ train.T).topk(min(k, len(train)), dim=1)
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = torch.zeros(len(rows), num_labels, dtype=weights.dtype, device=weights.device)
        answers.append(votes.scatter_add_(1, train_labels[nearest], weights).argmax(dim=1))
    return torch.cat(answers) if answers else train_labels[:0]


def knn_accuracy(
    train: Float[Tensor, "N C"],
    train_labels: Int64[Tensor, " N"],
    test: Float[Tensor, "M C"],
    test_labels: Int64[Tensor, " M"],
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Return the share of test rows (percent) that `knn_predict` labels rightly.

    Args:
        train: reference features, on the device to compute on.
        train_labels: 0 or above.
        test: features to classify, at least one.
        test_labels: their labels.
        k: neighbours that vote.
        temperature: above 0.
    """
    predicted = knn_predict(train, train_labels, test, k=k, temperature=temperature)
    return 100 * float((predicted == test_labels).double().mean())


def clustering_accuracy(clusters: Integer[np.ndarray, " n"], labels: Integer[np.ndarray, " n"]) -> float:
    """Return the share of samples (percent) that are right under the best one-to-one map of clusters to labels.

    Args:
        clusters: cluster of each sample, 0 or above.
        labels: true label of each, 0 or above; there may be more or fewer of them than clusters.

    Raises:
        UserError: no sample.
    """
    counts = _contingency(clusters, labels)
    return 100 * matching_total(counts, hungarian(counts)) / len(labels)


def normalised_mutual_information(clusters: Integer[np.ndarray, " n"], labels: Integer[np.ndarray, " n"]) -> float:
    """Return the mutual information of clusters and labels over the mean of their entropies, 0..1; 1 for one of each.

    Args:
        clusters: cluster of each sample, 0 or above.
        labels: true label of each, 0 or above.

    Raises:
        UserError: no sample.
    """
    counts = _contingency(clusters, labels)
    joint = _entropy(counts)
    of_clusters, of_labels = _entropy(counts.sum(axis=1)), _entropy(counts.sum(axis=0))
    if of_clusters + of_labels == 0:
        return 1.0
    return max(0.0, 2 * (of_clusters + of_labels - joint) / (of_clusters + of_labels))


def _contingency(clusters: Integer[np.ndarray, " n"], labels: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, "C N"]:
    if not len(labels):
        raise UserError("no sample to compare clusters with labels on: check that the split has labels")
    shape = int(clusters.max()) + 1, int(labels.max()) + 1
    code = clusters.astype(np.int64) * shape[1] + labels
    return np.bincount(code, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)


def _entropy(weights: np.ndarray) -> float:
    shares = weights[weights > 0] / weights.sum()
    return float(-(shares * np.log(shares)).sum())


def effective_rank(features: Float[np.ndarray, "n C"]) -> float:
    """Return exp(entropy of the singular values' shares): how many directions features fill; 0 if all are zero.

    Between 1 (collapsed onto one direction) and min(n, C). Features aren't centred.

    Args:
        features: one row a sample.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007; as a quality measure: RankMe (arXiv 2210.02885).
    """
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    noise = values.max(initial=0.0) * max(features.shape) * np.finfo(features.dtype).eps
    values = values[values > noise]
    return float(np.exp(_entropy(values))) if len(values) else 0.0
