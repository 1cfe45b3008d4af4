"""The references of distance matching, on features whose answer is known."""

import numpy as np
import torch

from luss_ray.stages.match_distance import reference_vectors


def test_a_reference_is_the_direction_of_a_regions_sum():
    features = torch.zeros(3, 2, 4)
    features[0, :, :2], features[1, :, 2:], features[2, 0, 0] = 2.0, 3.0, 4.0
    mask = np.array([[7, 7, 0, 0], [7, 7, 0, 1000]], np.uint16)
    labels, vectors = reference_vectors(features, mask)
    assert labels.tolist() == [0, 7]
    np.testing.assert_allclose(vectors, [[0, 1, 0], [8 / np.hypot(8, 4), 0, 4 / np.hypot(8, 4)]], rtol=1e-6)


def test_masks_are_taken_at_the_features_resolution_and_may_be_all_ignored():
    features = torch.ones(2, 2, 2)
    mask = np.kron(np.array([[1, 1], [2, 2]]), np.ones((10, 15), int)).astype(np.uint16)
    mask[0, 1] = 9
    labels, vectors = reference_vectors(features, mask)
    assert labels.tolist() == [1, 2] and vectors.shape == (2, 2)
    labels, vectors = reference_vectors(features, np.full((20, 30), 1000, np.uint16))
    assert len(labels) == 0 and vectors.shape == (0, 2)
