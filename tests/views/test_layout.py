import pytest
import torch

from saccade import draws
from saccade.errors import InputError
from saccade.views import make_views, parse
from saccade.views.layout import cut


@pytest.fixture
def images():
    return torch.rand(6, 3, 24, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def keys():
    return draws.image_keys(draws.key(0, "test"), torch.arange(6))


def test_a_pair_is_list_a_then_list_b_drawn_apart(images, keys):
    views = make_views(parse("paper"), images, keys, "pair")
    assert views.x.shape == (12, 3, 24, 32) and views.grid is None
    assert not torch.any((views.x[:6] == views.x[6:]).flatten(1).all(1))
    # Each picture's two views are its own: the second picture's do not change with the batch.
    alone = make_views(parse("paper"), images[1:2], keys[1:2], "pair")
    torch.testing.assert_close(alone.x, views.x[[1, 7]], rtol=0, atol=1e-6)


def test_single_is_one_view_each(images, keys):
    views = make_views(parse("affine-hsv"), images, keys, "single")
    assert views.x.equal(parse("affine-hsv")(images, keys))
    assert views.grid is None


def test_patches_lie_picture_by_picture_row_by_row(images, keys):
    views = make_views(parse("none"), images, keys, "patches", patch=8, stride=4)
    rows, columns = views.grid
    assert (rows, columns) == (5, 7)
    assert views.x.shape == (6 * 5 * 7, 3, 8, 8)
    for n, row, column in [(0, 0, 0), (0, 1, 2), (3, 4, 6), (5, 2, 0)]:
        expected = images[n, :, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
        assert views.x[(n * rows + row) * columns + column].equal(expected)


def test_refusals(images, keys):
    with pytest.raises(InputError, match="pair, single, patches"):
        make_views(parse("none"), images, keys, "stream")
    with pytest.raises(InputError, match="1 to 24 pixels"):
        cut(images, patch=25, stride=8)
    with pytest.raises(InputError, match="strides at least 1"):
        cut(images, patch=8, stride=0)
