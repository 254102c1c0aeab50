"""Policies: which draws become which parameters, and that a view is a function of its picture and key alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade import draws
from saccade.config.view_names import DEFORMATIONS, POLICIES, resolve
from saccade.errors import InputError
from saccade.views import deform, parse
from saccade.views.policy import _KINDS, crop_boxes

EVERYTHING = (
    "crop jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2) hsv affine(padding=border) "
    "similarity(rotation=30, log_scale=0.3, shift=0.2) flip grey(p=0.5)"
)


def pictures(n, channels=3, side=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)


def keys(n, seed=0):
    return draws.image_keys(draws.key(seed, "test"), torch.arange(n))


@pytest.mark.parametrize("name", [*POLICIES, EVERYTHING])
@pytest.mark.parametrize("channels", [3, 1])
def test_every_policy_gives_float_views_in_range(name, channels):
    for size in (None, 16):
        views = parse(name, size)(pictures(9, channels), keys(9))
        assert views.shape == (9, channels, size or 12, size or 12)
        assert views.dtype == torch.float32
        assert views.min() >= 0
        assert views.max() <= 1
        assert views.std() > 0.05


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([*POLICIES, EVERYTHING]), st.integers(1, 6), st.integers(0, 300))
def test_a_view_depends_on_its_picture_and_key_only(seed, name, count, start):
    images, policy, k = pictures(306, side=12, seed=seed), parse(name), keys(306, seed)
    whole = policy(images, k)
    assert whole.equal(policy(images, k))
    part = slice(start, start + count)
    torch.testing.assert_close(policy(images[part], k[part]), whole[part], rtol=0, atol=1e-6)


def test_groups_give_the_same_views_as_the_whole(monkeypatch):
    policy, images, k = parse("paper"), pictures(50), keys(50)
    whole = policy(images, k)
    monkeypatch.setattr("saccade.views.policy._GROUP", 7 * 3 * 12 * 12)
    torch.testing.assert_close(policy(images, k), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["paper", "affine-hsv", "digits", "deformed-cifar"])
def test_other_keys_give_other_views(name):
    images, policy = pictures(1).expand(40, -1, -1, -1), parse(name)
    views = policy(images, keys(40))
    # Half of the pictures keep their place under the affine policies, and with one colour draw differ by flips only.
    assert len({v.numpy().tobytes() for v in views}) > 15
    assert not policy(images, keys(40, seed=1)).equal(views)


def test_none_is_the_picture_and_resizes_only_when_asked():
    images = pictures(3)
    assert parse("none")(images, keys(3)).equal(images / 255)
    whole = torch.tensor([[0, 0, 12, 12]]).expand(3, 4)
    resized = parse("none", size=8)(images, keys(3))
    torch.testing.assert_close(resized, deform.resized_crop(images / 255, whole, 8))


def test_a_resized_oblong_picture_is_turned_as_a_square():
    images = torch.randint(0, 256, (4, 1, 20, 60), dtype=torch.uint8)
    k, text = keys(4), "similarity(rotation=180)"
    square = (parse("none", size=32)(images, k), parse(text)(parse("none", size=32)(images, k), k))
    assert parse(text, size=32)(images, k).equal(square[1]) and not square[0].equal(square[1])


def test_float_and_uint8_pictures_give_the_same_views_and_stay_unchanged():
    images = pictures(5)
    as_float = images / 255
    kept = as_float.clone()
    assert parse("paper")(as_float, keys(5)).equal(parse("paper")(images, keys(5)))
    assert as_float.equal(kept)


def test_autocast_does_not_coarsen_views():
    plain = parse("paper")(pictures(5), keys(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert parse("paper")(pictures(5), keys(5)).equal(plain)


def test_a_deformation_draws_by_its_place_in_the_list():
    k, images = keys(200), pictures(200, channels=1)
    flips = draws.uniform(draws.substream(k, 1), 1)[:, 0] < 0.5
    views = parse("grey flip")(images, k)
    assert views.equal(deform.flip(images / 255, flips))


# --------------------------------------------------------------------------------------------------- distributions


def slow_box(u, height, width, scale, ratio):
    """One picture's box: torchvision's RandomResizedCrop.make_params, its draws taken from `u`."""
    for k in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u[k])
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[10 + k])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return [int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (28, 40, (0.5, 1.0), (0.9, 1.1)),
        (10, 60, (0.9, 1.0), (3 / 4, 4 / 3)),  # never fits: the centre
        (60, 10, (0.9, 1.0), (3 / 4, 4 / 3)),
    ],
)
def test_crop_boxes_are_torchvisions(height, width, scale, ratio):
    u = torch.rand(200, 22, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = crop_boxes(u, height, width, scale, ratio)
    assert boxes.tolist() == [slow_box(row, height, width, scale, ratio) for row in u.tolist()]


def test_crop_boxes_stay_inside_at_the_ends_of_the_draws():
    u = torch.tensor([0.0, 1 - 2**-24])[:, None].expand(2, 22)
    for scale in ((0.08, 0.2), (0.5, 0.5), (1.0, 1.0)):
        top, left, height, width = crop_boxes(u, 96, 96, scale, (3 / 4, 4 / 3)).unbind(1)
        assert torch.all((top >= 0) & (left >= 0) & (top + height <= 96) & (left + width <= 96))


def changed(text, images, k):
    return (parse(text)(images, k) - images / 255).abs().amax((1, 2, 3)) > 1e-4


@pytest.mark.parametrize(
    "text", ["flip(p=0.3)", "grey(p=0.3)", "jitter(brightness=0.8, p=0.3)", "hsv(p=0.3)", "affine(p=0.3)"]
)
def test_probability_is_the_share_of_pictures_changed(text):
    share = changed(text, pictures(2000, side=4), keys(2000)).double().mean()
    assert abs(share - 0.3) < 0.05  # five standard deviations of 2,000 draws


def test_jitters_brightness_is_uniform_around_one():
    images = torch.full((4000, 3, 1, 1), 0.25)
    factor = parse("jitter(brightness=0.8)")(images, keys(4000))[:, 0, 0, 0] / 0.25
    assert 0.2 <= factor.min() < 0.22
    assert 1.78 < factor.max() <= 1.8
    assert abs(factor.mean() - 1) < 0.04


def test_affine_moves_as_far_as_asked():
    """A ramp in x shows where the centre pixel was looked up: its translation, twice |u|, of [0.1, 0.2]."""
    ramp = torch.linspace(-1, 1, 41)
    images = ((ramp + 1) / 2).expand(2000, 1, 41, 41)
    moved = parse("affine(low=0.1, high=0.2, p=1, padding=border)")(images, keys(2000))[:, 0, 20, 20] * 2 - 1
    assert moved.abs().min() >= 0.2 - 1e-5
    assert moved.abs().max() <= 0.4 + 1e-5
    assert abs((moved > 0).double().mean() - 0.5) < 0.06
    assert moved.abs().max() > 0.39


def test_deformed_cifar_changes_all_colours_alike_and_by_its_draw():
    images = pictures(1).expand(6, -1, -1, -1)
    alike = parse("hsv(shared=3)")(images, keys(6))
    assert alike.equal(alike[:1].expand_as(alike))
    assert alike.equal(parse("hsv(shared=3)")(images, keys(6, seed=1)))
    assert not alike.equal(parse("hsv(shared=4)")(images, keys(6)))
    affine = resolve("deformed-cifar(p=0.4)")[0].options
    assert affine == {"low": 0.1, "high": 0.5, "p": 0.5, "padding": "border"}


def test_window_is_a_piece_of_the_picture():
    images = pictures(30, side=10)
    views = parse("window", size=7)(images, keys(30))
    places = images.div(255).unfold(2, 7, 1).unfold(3, 7, 1)  # (30, 3, 4, 4, 7, 7)
    found = (places.permute(0, 2, 3, 1, 4, 5) - views[:, None, None]).abs().amax((3, 4, 5)) < 1e-6
    assert found.any(2).any(1).all()
    assert found.any(0).sum() > 8  # many of the 16 places
    middle = parse("window(centre=true)", size=6)(images, keys(30))
    torch.testing.assert_close(middle, images[:, :, 2:8, 2:8] / 255, rtol=0, atol=1e-6)


def parameters(text, *u):
    """What one picture's draws become, of 20x40 pixels."""
    (step,) = resolve(text)
    found = _KINDS[step.name].draw(torch.tensor([u]), step.options, (3, 20, 40), (20, 40))
    return torch.cat([one.flatten() for one in found])


SIMILARITY = "similarity(rotation=30, log_scale=0.3, shift=0.2, p=0.5)"


@pytest.mark.parametrize(
    ("text", "draws", "strengths"),
    [
        ("hsv(hue=0.1, saturation=2)", (1, 1, 0), (0.1, 4)),
        ("hsv(hue=0.1, saturation=2)", (0, 0, 0), (-0.1, 1 / 4)),
        ("jitter(brightness=0.8, contrast=0.4, saturation=0.2, hue=0.1)", (1, 0, 1, 0, 0), (1.8, 0.6, 1.2, -0.1)),
        ("jitter(brightness=0.8, contrast=0.4, saturation=0.2, hue=0.1)", (0, 1, 0, 1, 0), (0.2, 1.4, 0.8, 0.1)),
    ],
)
def test_colours_change_as_far_as_asked_at_the_ends_of_their_draws(text, draws, strengths):
    torch.testing.assert_close(parameters(text, *draws), torch.tensor(strengths, dtype=torch.float32))


@pytest.mark.parametrize(
    ("draws", "angle", "scale", "shift"),
    [
        ((1, 1, 1, 0, 0), 30, math.exp(0.3), (4, -4)),  # 0.2 of half of 40 pixels
        ((0, 0, 0.5, 1, 0), -30, math.exp(-0.3), (0, 4)),
        ((1, 1, 1, 1, 0.6), 0, 1, (0, 0)),  # spared, at p = 0.5
    ],
)
def test_similarities_move_as_far_as_asked_at_the_ends_of_their_draws(draws, angle, scale, shift):
    angle, scale, shift = (torch.tensor([x], dtype=torch.float32) for x in (angle, scale, shift))
    expected = deform.similarity_matrix(angle, scale, shift, 20, 40)
    torch.testing.assert_close(parameters(SIMILARITY, *draws), expected.flatten())


@pytest.mark.parametrize("name", ["affine(p=1, padding=border)", "similarity(rotation=40, shift=0.5, padding=border)"])
def test_padding_fills_what_lies_outside(name):
    white = torch.ones(20, 1, 12, 12)
    torch.testing.assert_close(parse(name)(white, keys(20)), white)
    assert parse(name.replace("border", "zeros"))(white, keys(20)).min() == 0


@pytest.mark.parametrize(
    ("text", "place", "option", "value"),
    [
        ("paper(scale=[0.5, 1])", 0, "scale", [0.5, 1]),
        *(("paper(strength=0.5)", 2, name, 0.4) for name in ("brightness", "contrast", "saturation")),
        ("paper(strength=0.5)", 2, "hue", 0.1),
        ("affine-hsv(u=0.1)", 0, "high", 0.1),
        ("affine-hsv(hue=0.3)", 1, "hue", 0.3),
        ("affine-hsv(saturation=1)", 1, "saturation", 1),
        *((f"digits({name}=0.1)", 0, name, 0.1) for name in ("rotation", "log_scale", "shift")),
        *((f"deformed-cifar({name}=0.3)", 1, name, 0.3) for name in ("hue", "saturation")),
        ("deformed-cifar(shared=5)", 1, "shared", 5),
    ],
)
def test_a_named_policys_options_reach_its_deformations(text, place, option, value):
    assert resolve(text)[place].options[option] == value


# -------------------------------------------------------------------------------------------------------- bad input


def written(name):
    """A deformation of that name that does something."""
    return f"{name}({DEFORMATIONS[name].strengths[0]}=0.5)" if DEFORMATIONS[name].strengths else name


@pytest.mark.parametrize("name", DEFORMATIONS)
def test_every_deformation_is_made_alone_and_is_certain_there(name):
    (alone,) = parse(written(name), size=12).alone()
    assert alone.steps[0].name == name
    assert alone.steps[0].options.get("p", 1.0) == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flop", "paper, affine-hsv, digits, deformed-cifar, none"),
        ("flop", "crop, window, flip"),
        ("jitter", "jitter does nothing; it takes one or more of brightness, contrast, saturation, hue"),
        ("similarity(p=1)", "does nothing; it takes one or more of rotation, log_scale, shift"),
        ("flip(q=0.5)", "its options: p"),
        ("flip(0.5)", "without its option's name"),
        ("flip(p=2)", "a number from 0 to 1"),
        ("flip(p=true)", "a number from 0 to 1"),
        ("crop(scale=[1, 0.5])", "two numbers in order"),
        ("crop(scale=0.5)", "two numbers in order"),
        ("crop(scale=[0, 1])", "two numbers in order from 0.001 to 1"),
        ("jitter(hue=0.6)", "from 0 to 0.5"),
        ("jitter(brightness=-1)", "at least 0"),
        ("affine(padding=mirror)", "zeros or border"),
        ("affine(low=0.5)", "low <= high"),
        ("hsv(shared=0.5)", "whole number"),
        ("window", "needs the views' size"),
        ("digits(turn=3)", "rotation, log_scale, shift"),
        ("digits(rotation=wide)", "a number"),
        ("none(p=1)", "options: none"),
        ("flip(", "unbalanced"),
        ("", "empty"),
    ],
)
def test_refusals_say_what_is_accepted(text, says):
    with pytest.raises(InputError, match=None) as refusal:
        parse(text)
    assert says in str(refusal.value)


def test_refuses_pictures_that_do_not_fit():
    with pytest.raises(InputError, match="window of 16x16"):
        parse("window", size=16)(pictures(2), keys(2))
    with pytest.raises(InputError, match="one key each"):
        parse("flip")(pictures(2), keys(3))
    with pytest.raises(InputError, match="at least 1"):
        parse("flip", size=0)


def darker(images, keys, by=0.5):
    return images * (1 - by * draws.uniform(keys, 1)[:, :, None, None])


def wrong_shape(images, keys):
    return images[:, :, ::2]


def test_a_deformation_of_ones_own():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    keys = draws.image_keys(7, torch.arange(4))
    policy = parse(f"flip(p=0) {__name__}.darker(by=0.2)")
    expected = images / 255 * (1 - 0.2 * draws.uniform(draws.substream(keys, 1), 1)[:, :, None, None])
    assert torch.allclose(policy(images, keys), expected)
    assert torch.equal(policy(images[2:], keys[2:]), policy(images, keys)[2:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no.such", "The deformation 'no.such' cannot be imported"),
        (f"{__name__}.darker(2)", "nor the dotted path"),
        ("math.pi", "is a float; it takes a function"),
        (f"{__name__}.darker(much=2)", "cannot be called"),
        (f"{__name__}.wrong_shape", r"gave \(2, 1, 4, 8\); it takes pictures of shape \(2, 1, 8, 8\)"),
    ],
)
def test_a_deformation_that_is_none_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        parse(text)(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("name", [name for name in DEFORMATIONS if name != "standardize"])
def test_what_clips_is_refused_after_standardized_values(name):
    if name in ("flip", "grey"):
        views = parse(f"standardize {name}")(pictures(4), keys(4))
        assert views.min() < 0 and views.max() > 1
    else:
        with pytest.raises(
            InputError, match=f"The views' {name} takes values in .* after standardize come flip, grey, s"
        ):
            parse(f"crop standardize flip {written(name)}", size=12)


def test_standardized_values():
    views = parse("standardize(mean=0.412, std=0.257)")(pictures(4), keys(4))
    torch.testing.assert_close(views, (pictures(4) / 255 - 0.412) / 0.257)
    assert views.min() < 0 and views.max() > 1
