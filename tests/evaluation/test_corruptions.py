"""Deformed and corrupted test images: what each does to a picture, the same each time, kept once."""

from dataclasses import replace

import pytest
import torch

from saccade.data import ImageSet, load
from saccade.errors import InputError
from saccade.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupted, deformed, kept

PICTURES = replace(load("digits:test[:6]"), images=load("digits:test[:6]").images.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_more_severe_is_farther_from_the_picture(name):
    plain = PICTURES.images.float()
    far = [float((corrupted(PICTURES, name, s).images.float() - plain).abs().mean()) for s in SEVERITIES]
    assert 0 < far[0] < far[-1]
    assert far == sorted(far) or name == "pixelate"  # where the coarser grid falls decides there
    assert corrupted(PICTURES, name, 3).images.equal(corrupted(PICTURES, name, 3).images)


def test_noise_has_its_strength():
    grey = ImageSet(torch.full((20, 1, 28, 28), 128, dtype=torch.uint8))
    noisy = corrupted(grey, "gaussian noise", 5).images.double() / 255
    assert float(noisy.std()) == pytest.approx(0.10, rel=0.03)
    assert float(noisy.mean()) * 255 == pytest.approx(128, abs=0.4)  # rounded, and not down
    flipped = corrupted(grey, "impulse noise", 5).images
    assert float((flipped != 128).double().mean()) == pytest.approx(0.07, rel=0.15)


def test_unknown_ones_are_refused():
    with pytest.raises(InputError, match="gaussian noise"):
        corrupted(PICTURES, "fog", 1)
    with pytest.raises(InputError, match="1 to 5"):
        corrupted(PICTURES, "JPEG", 6)


def test_deformed_by_seed_and_kept_by_hash(tmp_path):
    digits = load("digits:test[:8]")
    views, made = "digits", []

    def make():
        made.append(1)
        return deformed(digits, views, seed=0)

    first, second = (kept(digits, f"{views}, seed 0", make, tmp_path) for _ in range(2))
    assert made == [1] and first.fingerprint() == second.fingerprint()
    assert second.labels.equal(digits.labels) and second.images.dtype == torch.uint8
    assert deformed(digits, views, seed=1).fingerprint() != first.fingerprint()
    kept(digits.take(0, 4), f"{views}, seed 0", make, tmp_path)  # other pictures are another file
    assert made == [1, 1] and len(list(tmp_path.iterdir())) == 2


def test_no_two_pictures_are_changed_alike_in_a_set_of_any_size():
    """Pictures are made some at a time; alike ones still get draws of their own, and of the seed's own."""
    alike = ImageSet(load("digits:test[:1]").images.expand(1100, -1, -1, -1))
    for make in (
        lambda seed: deformed(alike, "digits", seed),
        lambda seed: corrupted(alike, "gaussian noise", 5, seed),
    ):
        made = [picture.numpy().tobytes() for seed in (0, 1) for picture in make(seed).images]
        assert len(set(made)) == 2200


def test_a_damaged_file_of_what_was_kept_is_made_anew(tmp_path):
    digits = load("digits:test[:8]")
    first = kept(digits, "digits", lambda: deformed(digits, "digits"), tmp_path)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    assert kept(digits, "digits", lambda: deformed(digits, "digits"), tmp_path).fingerprint() == first.fingerprint()
    assert path.read_bytes() == whole
