"""Each deformation against torchvision's functional one, picture by picture, each with its own parameters."""

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import _color

from saccade.views import deform

N = 24
# float32: rounding of a few operations on numbers up to 1; torchvision's hue divides by the chroma, which amplifies it.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def images(request):
    """Noise, and the pictures at which colour formulas break: black, white, grey, and few levels (equal channels)."""
    x = torch.rand(N, 3, 20, 26, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0], x[1], x[2] = 0, 1, x[2, :1]
    x[3:8] = (x[3:8] * 2).round() / 2
    return x.to(request.param)


def drawn(low, high, *shape, seed=1, dtype=torch.float64):
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def one_by_one(function, images, *parameters):
    return torch.stack([function(x, *(p.item() for p in ps)) for x, *ps in zip(images, *parameters, strict=True)])


def assert_close(ours, theirs):
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE[ours.dtype])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (deform.brightness, tv.adjust_brightness),
        (deform.contrast, tv.adjust_contrast),
        (deform.saturation, tv.adjust_saturation),
    ],
)
@pytest.mark.parametrize("channels", [3, 1])
def test_blends_agree_with_torchvision(images, ours, theirs, channels):
    images = images[:, :channels]
    factor = drawn(0, 2.5, N)
    assert_close(ours(images, factor), one_by_one(theirs, images, factor))


def _hue_in_its_own_type(image, shift):
    """torchvision's adjust_hue, without its detour through float32."""
    h, s, v = _color._rgb_to_hsv(image.clone()).unbind(-3)
    return _color._hsv_to_rgb(torch.stack(((h + shift) % 1, s, v), -3))


def test_hue_agrees_with_torchvision(images):
    shift = drawn(-0.5, 0.5, N)
    shift[8:12] = torch.tensor([0, 0.5, -0.5, 1 / 3])
    theirs = _hue_in_its_own_type if images.dtype == torch.float64 else tv.adjust_hue
    assert_close(deform.hue(images, shift), one_by_one(theirs, images, shift))


def test_hue_saturation_is_a_change_of_hsv(images):
    def slow(image, shift, factor):
        h, s, v = _color._rgb_to_hsv(image.clone()).unbind(-3)
        return _color._hsv_to_rgb(torch.stack(((h + shift) % 1, (s * factor).clamp(max=1), v), -3))

    shift, factor = drawn(-0.5, 0.5, N), drawn(0, 4, N, seed=2)
    assert_close(deform.hue_saturation(images, shift, factor), one_by_one(slow, images, shift, factor))


def test_colours_leave_one_channel_alone(images):
    grey, some = images[:, :1], torch.ones(N)
    assert deform.hue(grey, some / 3).equal(grey)
    assert deform.saturation(grey, some / 3).equal(grey)
    assert deform.greyscale(grey, some > 0).equal(grey)


def test_flip_and_greyscale_where_asked(images):
    which = drawn(0, 1, N) < 0.5
    flipped, grey = deform.flip(images, which), deform.greyscale(images, which)
    for i, chosen in enumerate(which.tolist()):
        assert flipped[i].equal(tv.horizontal_flip(images[i]) if chosen else images[i])
        assert_close(grey[i], tv.rgb_to_grayscale(images[i], num_output_channels=3) if chosen else images[i])


@pytest.mark.parametrize("size", [(32, 32), (7, 5), (20, 26), (1, 40)])
@pytest.mark.parametrize("channels", [3, 1])
def test_resized_crop_agrees_with_torchvision_antialiased(images, size, channels):
    images = images[:, :channels]
    height, width = drawn(1, 21, N).floor(), drawn(1, 27, N, seed=2).floor()
    top, left = (drawn(0, 1, N, seed=3) * (21 - height)).floor(), (drawn(0, 1, N, seed=4) * (27 - width)).floor()
    boxes = torch.stack([top, left, height, width], 1).long()
    boxes[0] = torch.tensor([0, 0, 20, 26])
    ours = deform.resized_crop(images, boxes, size)
    theirs = [
        tv.resized_crop(x, *box, list(size), antialias=True) for x, box in zip(images, boxes.tolist(), strict=True)
    ]
    assert_close(ours, torch.stack(theirs))


def test_similarity_agrees_with_torchvisions_affine(images):
    angle, scale, shift = drawn(-180, 180, N), drawn(0.5, 2, N, seed=2), drawn(-5, 5, N, 2, seed=3)
    ours = deform.affine(images, deform.similarity_matrix(angle, scale, shift, 20, 26))
    theirs = [
        tv.affine(x, a, t, s, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
        for x, a, t, s in zip(images, angle.tolist(), shift.tolist(), scale.tolist(), strict=True)
    ]
    # torchvision rounds its matrix and places to float32 in float64 too; a pixel's place is then off by some 1e-6.
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=0, atol=2e-5)


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_affine_looks_up_where_the_matrix_says(images, padding):
    """Against bilinear interpolation written out, -1 and 1 at the centres of the outermost pixels."""
    matrix = torch.eye(2, 3, dtype=torch.float64) + drawn(-0.4, 0.4, N, 2, 3)
    ours = deform.affine(images, matrix, padding)

    def pixel(image, row, column):
        inside = 0 <= row < 20 and 0 <= column < 26
        if padding == "zeros" and not inside:
            return torch.zeros(3, dtype=image.dtype)
        return image[:, min(max(row, 0), 19), min(max(column, 0), 25)]

    for i, row, column in [(8, 0, 0), (9, 19, 25), (10, 10, 13), (11, 3, 22), (12, 17, 2), (13, 19, 0)]:
        place = torch.tensor([2 * column / 25 - 1, 2 * row / 19 - 1, 1], dtype=torch.float64)
        x, y = ((matrix[i] @ place + 1) / 2 * torch.tensor([25.0, 19.0])).tolist()
        left, top = int(x // 1), int(y // 1)
        expected = sum(
            (1 - abs(x - c)) * (1 - abs(y - r)) * pixel(images[i], r, c)
            for r in (top, top + 1)
            for c in (left, left + 1)
        )
        torch.testing.assert_close(ours[i, :, row, column], expected, rtol=0, atol=10 * TOLERANCE[images.dtype])


def test_the_identity_leaves_pictures_as_they_are(images):
    identity = torch.eye(2, 3).expand(N, 2, 3)
    torch.testing.assert_close(deform.affine(images, identity), images, rtol=0, atol=5e-6)
