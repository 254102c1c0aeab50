"""Separation of embeddings by hand and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from saccade.errors import InputError
from saccade.evaluation.separation import nearest_agreement, silhouette, tsne


def test_silhouette_by_hand():
    # 0 and 2 against 10: of the two, a = 2, b = 10 and 8; of the one alone, 0 by definition
    x, y = torch.tensor([[0.0], [2.0], [10.0]]), torch.tensor([0, 0, 1])
    assert silhouette(x, y) == pytest.approx((0.8 + 0.75 + 0) / 3)


def test_nearest_agreement_is_the_slow_one():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    x[:, 0] += 2 * y
    _, nearest = NearestNeighbors(n_neighbors=8).fit(x.numpy()).kneighbors(x.numpy())
    right = [np.bincount(y[[j for j in row if j != i][:7]].numpy()).argmax() == y[i] for i, row in enumerate(nearest)]
    assert nearest_agreement(x, y, k=7) == pytest.approx(100 * np.mean(right))


def test_map_keeps_two_heaps_apart():
    x = torch.cat([torch.zeros(15, 4), 9 + torch.zeros(15, 4)]) + torch.rand(
        30, 4, generator=torch.Generator().manual_seed(1)
    )
    places = tsne(x, seed=0)
    assert places.shape == (30, 2) and np.array_equal(places, tsne(x, seed=0))
    assert silhouette(torch.from_numpy(places), torch.tensor([0] * 15 + [1] * 15)) > 0.5


def test_one_class_has_no_separation():
    with pytest.raises(InputError, match="two classes"):
        silhouette(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="not of as many as embeddings"):
        silhouette(torch.zeros(3, 2), torch.arange(3))
    with pytest.raises(InputError, match="it takes 1 to 3"):
        nearest_agreement(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), k=4)
