"""Nearest neighbours against scikit-learn, and the two rules for ties by hand."""

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from saccade.errors import InputError
from saccade.evaluation import knn
from saccade.evaluation.knn import knn_accuracy


@pytest.mark.parametrize(("metric", "theirs"), [("cosine", "cosine"), ("l1", "manhattan"), ("l2", "euclidean")])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_equals_sklearn(metric, theirs, k, monkeypatch):
    monkeypatch.setattr(knn, "_DISTANCES", 1000)  # several pieces
    x = torch.randn(350, 6, dtype=torch.float64)
    y = (x[:, 0] + torch.randn(350) > 0).long() + 2 * (x[:, 1] > 0.3)
    x = x + 0.5
    reference = KNeighborsClassifier(k, metric=theirs, algorithm="brute").fit(x[:200], y[:200])
    expected = 100 * reference.score(x[200:], y[200:])
    assert knn_accuracy(x[:200], y[:200], x[200:], y[200:], k=k, metric=metric) == pytest.approx(expected)


def test_of_equally_near_rows_the_first_counts():
    x, y = torch.ones(1000, 1), torch.zeros(1000, dtype=torch.long)
    y[:3] = 1
    assert knn_accuracy(x, y, torch.zeros(1, 1), torch.tensor([1]), k=3, metric="l1") == 100
    x[500], y[500] = 0.5, 2  # strictly nearer: it is in, and two of the first three with it
    assert knn._nearest((x - 0).abs().T, 3).sort().values.tolist() == [[0, 1, 500]]


def test_of_equal_votes_the_smallest_label_wins():
    x, y = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([3, 1, 1, 3])
    assert knn_accuracy(x, y, torch.zeros(1, 1), torch.tensor([1]), k=4, metric="l2") == 100


def test_refusals():
    x, y = torch.randn(5, 2), torch.zeros(5, dtype=torch.long)
    with pytest.raises(InputError, match="metric"):
        knn_accuracy(x, y, x, y, k=1, metric="l3")
    for k in (0, 6):
        with pytest.raises(InputError, match="k:"):
            knn_accuracy(x, y, x, y, k=k)
