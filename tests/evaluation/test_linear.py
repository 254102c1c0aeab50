"""The exact probe against scikit-learn at convergence in float64; the paper's against a slow Adam written out."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from saccade import draws
from saccade.errors import InputError
from saccade.evaluation import linear
from saccade.evaluation.linear import accuracy, fit_adam, fit_exact


def blobs(n=300, d=8, classes=4, seed=0, noise=2.0):
    """Overlapping, correlated classes whose features have very different means and scales."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=random)
    centres = 2 * torch.randn(classes, d, generator=random, dtype=torch.float64)
    x = centres[y] + noise * torch.randn(n, d, generator=random, dtype=torch.float64)
    x = x @ torch.randn(d, d, generator=random, dtype=torch.float64)
    return x * torch.logspace(-2, 2, d, dtype=torch.float64) + torch.linspace(-5, 5, d, dtype=torch.float64), y


@pytest.mark.parametrize("strength", [1.0, 0.01, 0.001])
@pytest.mark.parametrize(("n", "d", "classes"), [(300, 8, 4), (60, 100, 3), (700, 20, 2)])
def test_exact_equals_sklearn_at_convergence(n, d, classes, strength):
    x, y = blobs(n, d, classes)
    fit = fit_exact(x, y, classes, strengths=[strength], tolerance=1e-6)
    mean, scale = x.mean(0).numpy(), x.std(0, correction=0).numpy()
    # of two classes scikit-learn fits the difference, v = 2 w, whose penalty C / 2 |v|^2 is twice ours on w and -w
    penalty = 1 / (n * strength) if classes > 2 else 2 / (n * strength)
    reference = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    reference.fit((x.numpy() - mean) / scale, y.numpy())
    weight, bias = fit.probe.weight.numpy() * scale, fit.probe.bias.numpy() + fit.probe.weight.numpy() @ mean
    if classes == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    np.testing.assert_allclose(weight, reference.coef_, atol=1e-5)
    np.testing.assert_allclose(bias - bias.mean() * (classes > 2), reference.intercept_, atol=1e-5)


@pytest.mark.parametrize("strength", [0.1, 0.001])
def test_exact_ends_where_autograd_finds_no_gradient(strength):
    x, y = blobs()
    fit = fit_exact(x, y, 4, strengths=[strength], tolerance=1e-8)
    mean, scale = x.mean(0), x.std(0, correction=0)
    weight = (fit.probe.weight * scale).requires_grad_()
    bias = (fit.probe.bias + fit.probe.weight @ mean).requires_grad_()
    loss = nn.functional.cross_entropy((x - mean) / scale @ weight.T + bias, y) + strength / 2 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.norm() <= 2e-8 * strength * weight.norm()


def test_float32_agrees_with_float64():
    x, y = blobs(noise=4)
    x = x / x.std(0) + 1
    exact, single = (fit_exact(x.to(kind), y, 4, strengths=[0.01]).probe for kind in (torch.float64, torch.float32))
    torch.testing.assert_close(single.weight.double(), exact.weight, atol=1e-3, rtol=1e-3)


def test_strength_is_picked_on_held_out_rows_and_refitted_on_all():
    x, y = blobs(400, 60, 3, noise=8)
    held = torch.arange(0, 400, 4)
    fit = fit_exact(x, y, 3, strengths=[1e-3, 10.0, 0.1], holdout=held, tolerance=1e-6)
    rest = torch.tensor([row for row in range(400) if row % 4])
    mean, scale = x.mean(0), x.std(0, correction=0)
    z = ((x - mean) / scale).numpy()
    for strength, found in fit.held_out.items():
        reference = LogisticRegression(C=1 / (300 * strength), tol=1e-8, max_iter=10_000).fit(z[rest], y[rest].numpy())
        assert found == pytest.approx(100 * reference.score(z[held], y[held].numpy()), abs=0.01)
    assert fit.strength == max(fit.held_out, key=lambda s: (fit.held_out[s], s))
    again = fit_exact(x, y, 3, strengths=[fit.strength], tolerance=1e-6)
    torch.testing.assert_close(fit.probe.weight, again.probe.weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("noise", [0.3, 30.0])  # one that wants a weak penalty, one that wants a strong one
def test_the_search_goes_from_the_middle_down_then_up_until_two_are_no_better(noise):
    x, y = blobs(120, 100, 3, noise=noise)
    strengths = [10.0**-power for power in range(-3, 4)]  # the middle is 1
    found = fit_exact(x, y, 3, strengths=strengths).held_out
    tried, expected, best = list(found), [], 1.0
    for direction in (strengths[3:], strengths[2::-1]):
        if best != 1.0:
            break
        misses = 0
        for strength in direction:
            expected.append(strength)
            better = found[strength] > found[best] or (found[strength] == found[best] and strength >= best)
            best, misses = (strength, 0) if better else (best, misses + 1)
            if misses == 2:
                break
    assert tried == expected
    assert len(tried) < len(strengths)


def test_it_is_said_where_weaker_strengths_might_be_better():
    x, y = blobs(2000, 20, noise=1.0)
    with pytest.warns(UserWarning, match="best strength, 1, is the weakest"):
        assert fit_exact(x, y, 4, strengths=[1000, 10, 1]).strength == 1


def test_exact_is_deterministic_and_keyed_by_the_seed():
    x, y = blobs(noise=6)
    first, second, other = (fit_exact(x.float(), y, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.probe.weight, second.probe.weight)
    assert first.held_out == second.held_out
    assert first.held_out != other.held_out


def test_a_constant_feature_and_a_missing_class_do_no_harm():
    x, y = blobs()
    x[:, 2] = 3.7
    y[y == 1] = 0
    fit = fit_exact(x, y, 4, strengths=[0.01])
    assert torch.isfinite(fit.probe.weight).all()
    assert fit.probe.weight[:, 2].abs().max() < 1e-9
    assert 1 not in fit.probe(x).argmax(1)


def test_exact_stopped_by_rounding_says_so():
    x, y = blobs()
    with pytest.warns(UserWarning, match="within"):
        fit_exact(x.float(), y, 4, strengths=[0.01], tolerance=0.0)


def test_adam_equals_adam_written_out():
    x, y = blobs(50, 5, 3, noise=1)
    x = x / x.std(0)
    fitted = fit_adam(x, y, 3, epochs=4, rate=0.01, batch=20, seed=3)
    start = fit_adam(x, y, 3, epochs=0, seed=3)
    theta = torch.cat([start.weight, start.bias[:, None]], 1)
    first, second, step = torch.zeros_like(theta), torch.zeros_like(theta), 0
    ones = torch.cat([x, torch.ones(50, 1, dtype=x.dtype)], 1)
    for epoch in range(4):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(draws.key(3, "probe", epoch)))
        for rows in (order[:20], order[20:40], order[40:]):
            errors = (ones[rows] @ theta.T).softmax(1) - torch.eye(3, dtype=x.dtype)[y[rows]]
            gradient = errors.T @ ones[rows] / len(rows)
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            theta = theta - 0.01 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(fitted.weight, theta[:, :-1], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(fitted.bias, theta[:, -1], atol=1e-10, rtol=1e-10)


def test_adam_starts_like_pytorch_and_depends_on_the_seed():
    x, y = torch.zeros(4, 400), torch.tensor([0, 1, 2, 3])
    start, other = (fit_adam(x, y, 4, epochs=0, seed=seed) for seed in (0, 1))
    bound = 400**-0.5
    assert 0.95 * bound < start.weight.abs().max() <= bound
    assert start.weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not torch.equal(start.weight, other.weight)


def test_adam_in_bfloat16_learns_the_same():
    x, y = blobs(600, noise=3)
    x = (x / x.std(0)).float()
    exact, rounded = (fit_adam(x, y, 4, epochs=30, rate=0.01, precision=p) for p in ("float32", "bfloat16"))
    assert not torch.equal(exact.weight, rounded.weight)
    cosine = nn.functional.cosine_similarity(exact.weight.flatten(), rounded.weight.flatten(), dim=0)
    assert cosine > 0.999
    assert abs(accuracy(exact, x, y) - accuracy(rounded, x, y)) < 1
    assert rounded.weight.dtype == torch.float32


def test_progress_reports_reach_the_end():
    x, y = blobs()
    calls = []
    fit_adam(x, y, 4, epochs=2, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]
    calls.clear()
    fit_exact(x, y, 4, progress=lambda *call: calls.append(call))
    assert calls[0] == (1, 14)
    assert calls[-1] == (14, 14)


@pytest.mark.parametrize("fit", [fit_adam, fit_exact])
def test_refused_labels_and_shapes(fit):
    x = torch.zeros(4, 3)
    for y in (torch.tensor([0, 1, 2, 4]), torch.tensor([0, -1, 2, 3]), torch.tensor([0, 1])):
        with pytest.raises(InputError, match="labels"):
            fit(x, y, 4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"strengths": []}, "strengths"),
        ({"strengths": [0.1, 0]}, "strengths"),
        ({"holdout": 0.0}, "holdout"),
        ({"holdout": torch.arange(4)}, "holdout"),
    ],
)
def test_refused_options(options, named):
    with pytest.raises(InputError, match=named):
        fit_exact(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]), 2, **options)


def test_features_may_be_made_anew_at_each_epoch():
    x, y = blobs(n=50)
    x, asked = x.float() / x.std(0), []
    how = {"epochs": 3, "rate": 1e-2, "batch": 20}

    def at(epoch):
        asked.append(epoch)
        return x + epoch

    plain, same = fit_adam(x, y, 4, **how), fit_adam(lambda epoch: x, y, 4, **how)
    assert torch.equal(plain.weight, same.weight)
    moving = fit_adam(at, y, 4, **how)
    assert asked == [0, 1, 2] and not torch.equal(moving.weight, plain.weight)


def test_constant_features_are_fitted_by_the_bias_at_once(monkeypatch):
    """As those of a layer that has collapsed: rounding, all that is left to descend, is not descended."""
    counted, real = [], linear._objective
    monkeypatch.setattr(linear, "_objective", lambda *args: (counted.append(1), real(*args))[1])
    y = torch.arange(300) % 3
    y[:60] = 2
    with warnings.catch_warnings(action="error"):
        fit = fit_exact(torch.full((300, 50), 0.3), y, 3)
    assert fit.probe(torch.full((1, 50), 0.3)).argmax() == 2 and len(counted) < 200
