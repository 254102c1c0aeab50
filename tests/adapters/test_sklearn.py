"""The estimator against scikit-learn's own checks, against `saccade.train`, and in scikit-learn's machinery."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import saccade
from saccade.errors import InputError, RunError

SMALL = {"network": "conv4 maxpool tanh", "head": "flatten linear4", "views": "digits", "epochs": 1, "batch": 20}
SMALL |= {"random_state": 0, "precision": "float32"}
# A network for pictures of any size, which the checks make; none of them is expected to fail.
ANY_SIZE = {"network": "flatten linear4 tanh", "head": "linear3", "views": "crop(scale=[0.5, 1]) flip"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([saccade.SelfSupervisedEncoder(**(SMALL | ANY_SIZE))])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:60], y[:60]


def test_it_is_the_encoder_that_train_makes(tiny, tmp_path):
    images = saccade.load_images("digits:train[:60]")
    encoder = saccade.load_encoder(saccade.train(tiny, out=tmp_path / "run"))
    options = {
        name: value for name, value in vars(tiny).items() if name in saccade.SelfSupervisedEncoder().get_params()
    }
    X = images.images.numpy()[:, 0]
    for rule in ("bp", "rf"):
        made = saccade.SelfSupervisedEncoder(**(options | {"rule": rule, "random_state": tiny.seed})).fit(X)
        assert all(type(part).__module__ != "saccade.rules.feedback" for part in made.encoder_.modules())
        if rule == "bp":
            assert all((a == b).all() for a, b in zip(made.encoder_.parameters(), encoder.parameters(), strict=True))
            expected = saccade.embed(tmp_path / "run", images).numpy()
            np.testing.assert_allclose(made.transform(X), expected, atol=1e-6)  # another layout in memory
    assert replace(made.config_, data=tiny.data, rule=tiny.rule) == tiny


def test_in_a_pipeline_and_cross_validated(digits):
    model = make_pipeline(saccade.SelfSupervisedEncoder(**SMALL), LogisticRegression(max_iter=1000))
    assert cross_val_score(clone(model), *digits, cv=2, n_jobs=1).mean() > 0.5
    fitted = model.fit(*digits)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(digits[0]), fitted.predict(digits[0]))
    names = fitted[0].get_feature_names_out()
    assert len(names) == fitted[0].transform(digits[0]).shape[1] == 4 * 4 * 4 and names[0] == "selfsupervisedencoder0"


def test_the_forms_of_x(digits):
    X = np.random.default_rng(0).integers(0, 256, (20, 8, 6, 3), dtype=np.uint8)
    options = SMALL | {"views": "paper"}
    expected = saccade.SelfSupervisedEncoder(**options).fit_transform(X)
    rows = saccade.SelfSupervisedEncoder(image_shape=(8, 6, 3), **options).fit_transform(X.reshape(20, -1))
    np.testing.assert_array_equal(rows, expected)
    grey = saccade.SelfSupervisedEncoder(**SMALL).fit(digits[0].reshape(-1, 8, 8))
    flat = saccade.SelfSupervisedEncoder(**SMALL).fit(digits[0])
    np.testing.assert_array_equal(grey.transform(digits[0].reshape(-1, 8, 8)), flat.transform(digits[0]))
    assert flat.image_shape_ == (1, 8, 8)
    assert len(grey.get_feature_names_out()) == 4 * 4 * 4
    larger = saccade.SelfSupervisedEncoder(**SMALL, size=16).fit(digits[0])
    assert len(larger.get_feature_names_out()) == larger.transform(digits[0]).shape[1] == 4 * 8 * 8
    stretched = saccade.SelfSupervisedEncoder(**SMALL).fit(digits[0] * 3 - 7)  # the range is the training images'
    np.testing.assert_array_equal(stretched.transform(digits[0] * 3 - 7), flat.transform(digits[0]))


def test_labels_reach_only_a_loss_that_asks(digits):
    X, y = digits
    a, b = (saccade.SelfSupervisedEncoder(**SMALL).fit(X, labels).transform(X) for labels in (y, y[::-1]))
    np.testing.assert_array_equal(a, b)
    supervised = saccade.SelfSupervisedEncoder(**(SMALL | {"loss": "cross-entropy"}))
    a, b = (clone(supervised).fit(X, np.array(list("abcdefghij"))[labels]).transform(X) for labels in (y, y[::-1]))
    assert not np.array_equal(a, b)
    with pytest.raises(InputError, match="learns from labels, and y is None"):
        supervised.fit(X)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_shape": (9, 9)}, "image_shape is .9, 9. and X is .60, 64."),
        ({"image_shape": (64,)}, "image_shape"),
        ({"image_shape": 64}, "image_shape is 64"),
        ({"image_shape": ("8", "8")}, "image_shape is"),
        ({"layer": 2}, "layer is 2; the network"),
        ({"layer": "last"}, "layer is last; the network"),
        ({"rate": 0.0}, "rate is 0"),
        ({"batch": None}, "SelfSupervisedEncoder has batch=None"),
        ({"loss": "nonsense"}, "Unknown loss"),
        ({"network": "conv4 maxpool16"}, "network"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(digits, options, words):
    with pytest.raises(InputError, match=words):
        saccade.SelfSupervisedEncoder(**(SMALL | options)).fit(digits[0])


@pytest.mark.parametrize(("X", "options"), [((-1, 1, 8, 8), {}), ((-1, 64), {"image_shape": (1, 8, 8)})])
def test_images_with_their_channels_first_are_refused(digits, X, options):
    with pytest.raises(InputError, match="X has images of shape .1, 8, 8., channels first as it seems"):
        saccade.SelfSupervisedEncoder(**SMALL, **options).fit(digits[0].reshape(X))


def test_signals_of_many_channels_are_images_one_pixel_high(digits):
    signals = digits[0][:, :60]
    encoder = saccade.SelfSupervisedEncoder(**SMALL | {"network": "conv4 tanh"}, image_shape=(1, 10, 6)).fit(signals)
    assert encoder.transform(signals).shape == (len(signals), 4 * 10)


def test_bytes_and_other_numbers_are_not_mixed_up(digits):
    levels = (digits[0] * 15.9).astype(np.uint8)
    units = levels / np.float32(255)
    scores = (units - units.mean()) / units.std()
    bytes_, of_units, of_scores = (saccade.SelfSupervisedEncoder(**SMALL).fit(X) for X in (levels, units, scores))
    for encoder, X, said in (
        (bytes_, units, "X has numbers from 0 to 0.996078, and fit saw bytes; it takes numbers from 0 to 255"),
        (bytes_, scores, "X has numbers from -0.8.* to 1.8.*, and fit saw bytes"),
        (of_units, levels, "X is uint8 up to 254, and fit saw numbers from 0 to 0.996078; it takes such, too"),
        (of_scores, levels, "X is uint8 up to 254, and fit saw numbers from -0.8"),
    ):
        with pytest.raises(InputError, match=said):
            encoder.transform(X)
    for X in (levels.astype(int), levels.astype(float), levels.tolist()):
        assert np.array_equal(bytes_.transform(X), bytes_.transform(levels))


def test_a_search_over_numpys_numbers(digits):
    grid = {"batch": np.array([10, 20]), "rate": np.array([1e-3])}
    search = GridSearchCV(
        make_pipeline(saccade.SelfSupervisedEncoder(**SMALL), LogisticRegression()),
        {f"selfsupervisedencoder__{name}": values for name, values in grid.items()},
        cv=2,
        error_score="raise",
    ).fit(*digits)
    assert set(search.best_params_) == {"selfsupervisedencoder__batch", "selfsupervisedencoder__rate"}


def test_divergence_is_said(digits):
    with pytest.raises(RunError, match="no longer finite"):
        saccade.SelfSupervisedEncoder(
            **(SMALL | {"network": "conv4", "optimizer": "sgd", "rate": 1e6, "epochs": 20})
        ).fit(digits[0])


def test_the_layer_that_is_asked_for_sees_what_the_training_saw(digits):
    options = SMALL | {"network": "conv4 maxpool tanh | conv6 tanh", "views": "digits standardize(mean=0.3, std=0.2)"}
    for layer in (1, 2, None):
        made = saccade.SelfSupervisedEncoder(layer=layer, **options).fit(digits[0])
        x = (torch.from_numpy(np.rint(digits[0] * 255 / 16)).float().view(-1, 1, 8, 8) / 255 - 0.3) / 0.2
        np.testing.assert_allclose(made.transform(digits[0]), made.encoder_[:layer](x).flatten(1), atol=1e-5)
