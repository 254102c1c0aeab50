"""CLAPP on patches in both readings against loops over images, rows, columns and k (1e-10)."""

import pytest
import torch

from saccade.errors import InputError
from saccade.losses.clapp_patches import CLAPPPatches, clapp_patches, places, scores, terms

N, ROWS, COLUMNS, CHANNELS = 3, 7, 2, 3


def given(rows=ROWS, size=(2, 2), steps=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    grid = torch.randn(2, N, rows, COLUMNS, CHANNELS, *size, generator=g, dtype=torch.float64)
    weight = torch.randn(steps, CHANNELS, CHANNELS, generator=g, dtype=torch.float64) * 0.7
    return grid[0].clone().requires_grad_(), grid[1].clone().requires_grad_(), weight.requires_grad_()


def u(weight, c, z):
    """<W c, z> over channels and positions."""
    c, z = c.reshape(CHANNELS, -1), z.reshape(CHANNELS, -1)
    return ((weight @ c) * z).sum()


def average(losses):
    return torch.stack(losses).mean() if losses else torch.tensor(0.0, dtype=torch.float64)


def original(contexts, targets, weight, negatives, positive):
    """(1/K) sum_k ( mean [1 - u+]+ + mean [1 + u-]+ ), features averaged to 1x1, one row skipped."""
    if contexts.ndim == 6:
        contexts, targets = contexts.mean((4, 5), keepdim=True), targets.mean((4, 5), keepdim=True)
    rows, total, count = contexts.shape[1], 0, 0
    for k in range(1, len(weight) + 1):
        if rows - (k + 1) < 1:
            continue
        count += 1
        below = targets[:, k + 1 :].flatten(0, 2)  # the patches that negatives of this k come from
        near, far = [], []
        for b in range(N):
            for y in range(rows - k - 1):
                for x in range(COLUMNS):
                    c = contexts[b, y, x]
                    if positive is None or positive[b]:
                        near.append((1 - u(weight[k - 1], c, targets[b, y + k + 1, x])).clamp(min=0))
                    if positive is None or not positive[b]:
                        far += [(1 + u(weight[k - 1], c, below[j])).clamp(min=0) for j in negatives[k - 1][b, y, x]]
        total = total + average(near) + average(far)
    return total / count


def authors(contexts, targets, weight, negatives, positive):
    """Sum over context rows k of mean [1 - u+]+ + mean [1 + u-]+, flattened features, targets rows k+2 and below."""
    total, patches = 0, targets.flatten(0, 2)
    for k in range(min(len(weight), contexts.shape[1] - 2)):
        near, far = [], []
        for b in range(N):
            for x in range(COLUMNS):
                c = contexts[b, k, x]
                if positive is None or positive[b]:
                    near += [
                        (1 - u(weight[k], c, targets[b, y, x])).clamp(min=0) for y in range(k + 2, contexts.shape[1])
                    ]
                if positive is None or not positive[b]:
                    far += [(1 + u(weight[k], c, patches[j])).clamp(min=0) for j in negatives[k][b, 0, x]]
        total = total + average(near) + average(far)
    return total


READINGS = {"original": original, "authors": authors}
COINS = [None, [True, False, True], [False, False, False]]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("coin", COINS)
@pytest.mark.parametrize(
    ("rows", "size", "negatives"), [(7, (2, 2), 2), (7, (2, 2), 16), (7, (), 3), (3, (1, 2), 1), (5, (), 2)]
)
def test_is_the_definition(reading, coin, rows, size, negatives):
    contexts, targets, weight = given(rows, size)
    drawn, _ = CLAPPPatches(reading=reading, negatives=negatives).drawn(N, (rows, COLUMNS))
    positive = None if coin is None else torch.tensor(coin)
    expected = READINGS[reading](contexts, targets, weight, drawn, positive)
    found = clapp_patches(contexts, targets, weight, drawn, reading=reading, positive=positive)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    inputs = (contexts, targets, weight)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("reading", READINGS)
def test_negatives_come_from_any_patch_of_the_readings_rows(reading):
    loss = CLAPPPatches(reading=reading, negatives=64)
    loss.draw(0, 0)
    negatives, positive = loss.drawn(N, (ROWS, COLUMNS))
    assert positive is None
    for k, index in enumerate(negatives):
        pool = N * COLUMNS * (ROWS - k - 2 if reading == "original" else ROWS)
        contexts = (ROWS - k - 2, 1) if reading == "original" else (1, ROWS - 2 - k)
        assert index.shape == (N, contexts[0], COLUMNS, contexts[1] * 64)
        assert set(index.flatten().tolist()) == set(range(pool))


@pytest.mark.parametrize("reading", READINGS)
def test_same_place_is_the_positives_place_in_another_image(reading):
    loss = CLAPPPatches(reading=reading, negatives=2, place="same")
    negatives, _ = loss.drawn(N, (ROWS, COLUMNS))
    for term, index in zip(terms(ROWS, 5, reading), negatives, strict=True):
        own = places(term, (ROWS, COLUMNS), torch.arange(N)[:, None])
        step = (ROWS - term.first) * COLUMNS
        assert torch.equal(index % step, own.repeat_interleave(2, 3) % step)
        assert (index // step != torch.arange(N)[:, None, None, None]).all()


def test_coin_is_thrown_for_each_image_and_step():
    loss = CLAPPPatches(coin=True)
    thrown = []
    for step in range(20):
        loss.draw(0, step)
        thrown.append(loss.drawn(8, (ROWS, COLUMNS))[1])
    share = torch.stack(thrown).double().mean()
    assert 0.35 < share < 0.65  # 160 fair coins; deterministic, for the draws are keyed
    assert len({tuple(t.tolist()) for t in thrown}) > 15


def module(**options):
    torch.manual_seed(0)
    loss = CLAPPPatches(**options).double()
    loss.sized((CHANNELS, 2, 2))
    loss.double()
    return loss


@pytest.mark.parametrize("options", [{}, {"reading": "authors"}, {"negatives": 1, "place": "same", "coin": True}])
def test_draws_belong_to_seed_and_step(options):
    contexts, targets, _ = given()
    values = []
    for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0)):
        loss = module(**options)
        loss.draw(seed, step)
        values.append(loss(contexts, targets).item())
    assert values[0] == values[1]
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("way", "carries"),
    [
        ("both", (True, True, True)),
        ("context_detached", (False, True, True)),
        ("targets_detached", (True, False, True)),
        ("fixed_weight", (True, True, False)),
    ],
)
@pytest.mark.parametrize("reading", READINGS)
def test_gradients_four_ways(way, carries, reading):
    contexts, targets, _ = given()
    free, loss = module(reading=reading), module(reading=reading, gradient=way)
    for one in (free, loss):
        one.draw(0, 0)
    expected = torch.autograd.grad(free(contexts, targets), (contexts, targets, free.weight))
    loss(contexts, targets).backward()
    for found, wanted, carried in zip((contexts.grad, targets.grad, loss.weight.grad), expected, carries, strict=True):
        if carried:
            torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
        else:
            assert found is None


def test_split_gradient_has_one_w_for_each_detached_side():
    contexts, targets, _ = given()
    loss = module(negatives=1, place="same", gradient="split")
    loss.draw(0, 0)
    negatives, _ = loss.drawn(N, (ROWS, COLUMNS))
    first, second = loss.weight.detach().unbind()
    assert not torch.equal(first, second)
    loss(contexts, targets).backward()
    to_targets = torch.autograd.grad(clapp_patches(contexts.detach(), targets, first, negatives), targets)
    to_contexts = torch.autograd.grad(clapp_patches(contexts, targets.detach(), second, negatives), contexts)
    torch.testing.assert_close((targets.grad,), to_targets, atol=1e-12, rtol=0)
    torch.testing.assert_close((contexts.grad,), to_contexts, atol=1e-12, rtol=0)
    assert loss.weight.grad.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("patches", [5, 500])
def test_scores_are_the_same_by_table_and_by_copies(patches):
    predicted, pool = torch.randn(4, 3, dtype=torch.float64), torch.randn(patches, 3, dtype=torch.float64)
    index = torch.randint(patches, (4, 6))
    expected = torch.stack([torch.stack([predicted[i] @ pool[j] for j in index[i]]) for i in range(4)])
    torch.testing.assert_close(scores(predicted, pool, index), expected, atol=1e-12, rtol=0)


def test_refusals():
    contexts, targets, weight = given(rows=2)
    with pytest.raises(InputError, match="2x2 patches"):
        clapp_patches(contexts, targets, weight, [])
    with pytest.raises(InputError, match="2x2 patches"):
        module()(contexts, targets)
    with pytest.raises(InputError, match="sized"):
        CLAPPPatches()(*given()[:2])


@pytest.mark.parametrize("reading", READINGS)
def test_bfloat16_features_are_read_in_float32(reading):
    contexts, targets, weight = (x.detach().bfloat16() for x in given())
    negatives, _ = CLAPPPatches(reading=reading).drawn(N, (ROWS, COLUMNS))
    found = clapp_patches(contexts, targets, weight, negatives, reading=reading)
    expected = clapp_patches(contexts.double(), targets.double(), weight.double(), negatives, reading=reading)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
