"""The probe of a small encoder: what it reports, what it refuses, and that test rows never reach the fit."""

import importlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from saccade.errors import InputError, RunError
from saccade.evaluation.features import features
from saccade.evaluation.linear import accuracy, fit_adam, fit_exact
from saccade.evaluation.probe import probe

module = importlib.import_module("saccade.evaluation.probe")


class Set:
    """Images whose brightness in one corner says their class."""

    def __init__(self, n, name, seed, classes=3, channels=3):
        random = torch.Generator().manual_seed(seed)
        self.name, self.labels, self.classes = name, torch.arange(n) % classes, list("abcd"[:classes])
        self.shape = (channels, 8, 8)
        self.images = torch.randint(80, (n, channels, 8, 8), dtype=torch.uint8, generator=random)
        self.images[:, :, :4, :4] += (
            60 * self.labels[:, None, None, None] * (torch.rand(n, 1, 1, 1, generator=random) > 0.2)
        ).byte()

    def __len__(self):
        return len(self.images)

    def batch(self, index):
        return self.images[index]


@pytest.fixture
def sets():
    return Set(150, "train", 0), Set(60, "test", 1)


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 80, 3, padding=1), nn.Sequential(nn.Conv2d(80, 4, 3), nn.Flatten()))


def test_rows_say_what_was_done(sets):
    layers = [2, 0, 1]
    results = probe(encoder(), *sets, layers=np.array(layers), seed=5)
    assert [row.layer for row in results] == layers
    assert [row.features for row in results] == ["144", "3x8x8 = 192", "80x8x8, average-pooled to 80x7x7 = 3920"]
    for row in results:
        assert (row.protocol, row.train_size, row.test_size, row.seed) == ("exact", 150, 60, 5)
        assert row.details["strength"] in row.details["held_out"]
        assert json.loads(json.dumps(row.as_dict()))["accuracy"] == row.accuracy
        assert row.accuracy > 50  # chance is 33


def test_each_protocol_is_its_parts_put_together(sets):
    train, test = sets
    net = encoder()
    pooled = [features(net, images, [1], pool_to=4096)[1] for images in sets]
    whole = [features(net, images, [1])[1] for images in sets]
    exact = fit_exact(pooled[0], train.labels, 3, seed=2).probe
    adam = fit_adam(whole[0], train.labels, 3, epochs=3, rate=0.01, batch=40, seed=2)
    by_parts = {"exact": accuracy(exact, pooled[1], test.labels), "paper": accuracy(adam, whole[1], test.labels)}
    for protocol, expected in by_parts.items():
        (row,) = probe(net, train, test, layers=[1], protocol=protocol, epochs=3, rate=0.01, batch=40, seed=2)
        assert row.accuracy == expected
    (row,) = probe(net, train, test, layers=[1], protocol="knn", k=5)
    assert row.features == "80x8x8 = 5120"
    assert row.accuracy > 50


@pytest.mark.parametrize(("protocol", "fitter"), [("exact", "fit_exact"), ("paper", "fit_adam")])
def test_nothing_of_the_test_set_reaches_the_fit(sets, monkeypatch, protocol, fitter):
    train, test = sets
    fitted, plain = [], getattr(module, fitter)

    def recording(*args, **kwargs):
        fitted.append(plain(*args, **kwargs))
        return fitted[-1]

    monkeypatch.setattr(module, fitter, recording)
    (before,) = probe(encoder(), train, test, layers=[2], protocol=protocol, epochs=2)
    test.labels = test.labels.flip(0) * 0
    test.images = 255 - test.images
    (after,) = probe(encoder(), train, test, layers=[2], protocol=protocol, epochs=2)
    assert before.accuracy != after.accuracy
    assert before.details == after.details
    first, second = (fit if isinstance(fit, nn.Linear) else fit.probe for fit in fitted)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_only_the_test_images_are_deformed(sets):
    def blank(pixels, index):
        assert len(index) == len(pixels)
        return torch.zeros(pixels.shape)

    (row,) = probe(encoder(), *sets, layers=[2], deform_test=blank)
    assert row.accuracy == pytest.approx(100 / 3)  # every blank image gets the same answer
    assert max(row.details["held_out"].values()) > 50


def test_progress_names_the_stage(sets):
    stages = []
    probe(encoder(), *sets, layers=[1], progress=lambda what, done, total: stages.append(what))
    assert list(dict.fromkeys(stages)) == ["features of train", "features of test", "probe of layer 1"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0}, "epochs is 0; it takes a whole number of at least 1"),
        ({"epochs": -3}, "epochs is -3"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch": 0}, "batch is 0; it takes a whole number of at least 1"),
        ({"batch": -5}, "batch is -5"),
        ({"rate": -1}, "rate is -1; it takes a number above 0"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rate": float("inf")}, "rate is inf"),
        ({"layers": 1}, r"layers: got 1, expected a list of whole numbers from 0 \(the pixels\) to 2"),
        ({"layers": []}, r"layers: got \[\]"),
        ({"layers": ["2"]}, r"layers: got \['2'\]"),
        ({"layers": [1, 3]}, r"layers: got \[1, 3\]"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_any_features_are_made(sets, options, says, monkeypatch):
    monkeypatch.setattr(module, "features", None)
    with pytest.raises(InputError, match=says):
        probe(encoder(), *sets, **{"layers": [1], "protocol": "paper", **options})


def test_refusals(sets):
    train, test = sets
    net = encoder()
    with pytest.raises(InputError, match="protocol"):
        probe(net, train, test, layers=[1], protocol="best")
    with pytest.raises(InputError, match="grey"):
        probe(net, train, Set(9, "grey", 0, channels=1), layers=[1])
    with pytest.raises(InputError, match="many"):
        probe(net, train, Set(9, "many", 0, classes=4), layers=[1])
    test.classes = ["b", "a", "c"]  # as of a folder whose subfolders sort otherwise
    with pytest.raises(InputError, match="test has other classes than train or in another order"):
        probe(net, train, test, layers=[1])
    train.labels = None
    with pytest.raises(InputError, match="train"):
        probe(net, train, test, layers=[1])


def test_the_encoder_works_in_the_precision_that_is_asked_for(sets, monkeypatch):
    asked, plain = [], module.features

    def recording(*args, **how):
        asked.append(how.get("precision"))
        return plain(*args, **how)

    monkeypatch.setattr(module, "features", recording)
    probe(encoder(), *sets, layers=[2], protocol="paper", epochs=1, precision="bfloat16")
    assert asked == ["bfloat16"] * 2


@pytest.mark.parametrize("rate", [1e30, True, "1", float("nan")])
def test_rates_out_of_range_are_refused(sets, rate):
    with pytest.raises(InputError, match="rate is"):
        probe(encoder(), *sets, layers=[2], protocol="paper", epochs=1, rate=rate)


def test_batches_out_of_range_are_refused(sets):
    with pytest.raises(InputError, match="batch is 1000"):
        probe(encoder(), *sets, layers=[2], protocol="paper", epochs=1, batch=10**20)


def test_weights_that_are_no_longer_finite_are_no_result():
    x = torch.full((20, 3), 3e38)
    with pytest.raises(RunError, match="are not finite after 2 epochs at rate 1e.06. A lower rate may help"):
        fit_adam(x, torch.arange(20) % 2, 2, epochs=2, rate=1e6)
