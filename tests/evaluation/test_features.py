"""Features against a plain loop over images and layers."""

import pytest
import torch
from torch import nn

from saccade.errors import InputError
from saccade.evaluation.features import features, pooled_grid


class Set:
    def __init__(self, n=7, shape=(3, 8, 8), seed=0):
        self.images = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.images)

    def batch(self, index):
        return self.images[index]


def encoder():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Dropout(0.5)), nn.Flatten()
    )


def test_every_layer_equals_a_plain_loop():
    net, images = encoder().eval(), Set()
    found = features(net, images, [3, 0, 1, 2], batch=3)
    assert list(found) == [0, 1, 2, 3]
    for row in range(len(images)):
        x = images.images[row : row + 1].float() / 255
        for layer in range(4):
            if layer:
                x = net[layer - 1](x).detach()
            torch.testing.assert_close(found[layer][row], x.flatten(), atol=1e-6, rtol=1e-5)


def test_pooling_to_the_largest_square_grid():
    net, images = encoder().eval(), Set()
    found = features(net, images, [1, 2], pool_to=64)
    assert found[1].shape[1] == 4 * 4 * 4
    assert found[2].shape[1] == 6 * 3 * 3
    whole = net[0](images.images.float() / 255)
    by_hand = whole.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)).flatten(1)
    torch.testing.assert_close(found[1], by_hand.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((32, 32, 32), (11, 11)),
        ((64, 16, 16), (8, 8)),
        ((64, 8, 8), None),
        ((512, 4, 4), (2, 2)),
        ((5000, 4, 4), (1, 1)),
        ((1, 2, 9000), (2, 64)),
        ((8192,), None),
    ],
)
def test_grids_for_4096(shape, grid):
    assert pooled_grid(shape, 4096) == grid
    assert pooled_grid(shape, None) is None


def test_deformed_images_take_the_place_of_the_plain_ones():
    def darker_by_index(pixels, index):
        assert pixels.dtype == torch.uint8
        return pixels.float() / 255 / (1 + index)[:, None, None, None]

    images = Set()
    found = features(encoder(), images, [0], deform=darker_by_index, batch=3)[0]
    expected = images.images.flatten(1).float() / 255 / torch.arange(1, 8)[:, None]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_encoder_is_left_as_it_was(precision):
    net = encoder().train()
    net[1][0].eval()
    modes = [part.training for part in net.modules()]
    before = {name: (value.clone(), value.stride()) for name, value in net.state_dict().items()}
    first, second = (features(net, Set(), [2], precision=precision)[2] for _ in range(2))
    assert torch.equal(first, second)  # the dropout was off
    assert first.dtype == torch.float32
    assert not first.requires_grad
    assert [part.training for part in net.modules()] == modes
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]


def test_modes_come_back_after_an_error():
    net = nn.Sequential(nn.Conv2d(5, 4, 3)).train()
    with pytest.raises(RuntimeError):
        features(net, Set(), [1])
    assert net[0].training


def test_bfloat16_is_close_but_not_equal():
    exact, rounded = (features(encoder(), Set(), [2], precision=p)[2] for p in ("float32", "bfloat16"))
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.02, rtol=0.02)


def test_progress_ends_at_the_number_of_images():
    calls = []
    features(encoder(), Set(), [1], batch=3, progress=lambda *call: calls.append(call))
    assert calls == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize(("layers", "precision"), [([4], "float32"), ([-1], "float32"), ([], "float32"), ([1], "half")])
def test_refusals(layers, precision):
    with pytest.raises(InputError, match="layers" if precision == "float32" else "precision"):
        features(encoder(), Set(), layers, precision=precision)
