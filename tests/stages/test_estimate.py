import numpy as np
import pytest
from sklearn.cluster import KMeans

from luss_ray.clustering.kmeans import normalise_rows
from luss_ray.core.seeds import generator
from luss_ray.stages.estimate import silhouette, usable_candidates


@pytest.mark.parametrize("num_groups", [3, 5, 9])
def test_the_silhouette_is_best_at_the_number_of_groups(num_groups):
    """Groups on the sphere of unlike sizes, that overlap a little."""
    rng = generator(0, num_groups)
    centres = np.linalg.qr(rng.normal(size=(24, num_groups)))[0].T
    groups = rng.choice(num_groups, 800, p=rng.dirichlet(np.full(num_groups, 8)))
    rows = normalise_rows((centres[groups] + rng.normal(scale=0.13, size=(800, 24))).astype(np.float32))
    scores = {k: silhouette(rows, KMeans(k, n_init=5, random_state=0).fit(rows).cluster_centers_) for k in range(2, 13)}
    assert max(scores, key=scores.__getitem__) == num_groups
    assert 0.2 < scores[num_groups] < 0.9


def test_rows_of_one_cluster_have_the_worst_silhouette():
    rows = normalise_rows(generator(1).random((20, 4), np.float32))
    assert silhouette(rows, np.stack([rows.mean(axis=0), -rows.mean(axis=0)])) == -1


def test_candidates_leave_images_to_each_cluster():
    assert usable_candidates((8, 4, 16, 4), 40) == [4, 8]
    assert usable_candidates((30, 20), 50) == [20]
