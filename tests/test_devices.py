"""Images that lie on the processor, under a run and an encoder that do not: what a GPU refuses, without one (`apart`)."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

import saccade
from apart import META, apart
from saccade import api, networks
from saccade.adapters.brainscore import BrainScoreModel
from saccade.adapters.sklearn import SelfSupervisedEncoder
from saccade.evaluation.features import features
from saccade.training import build, train_step
from saccade.training.estimate import dry_run
from saccade.training.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")


@pytest.fixture(scope="module")
def images():
    return saccade.load_images("digits:train[:60]")


@pytest.fixture
def finished(tiny, images, tmp_path):
    return saccade.train(tiny, out=tmp_path / "run", images=images)


def test_devices_that_mix_are_told():
    with apart():
        there = torch.zeros(2, device=META)
        assert float((there + 1).cpu().sum()) == 0
        with pytest.raises(RuntimeError, match="on different devices"):
            there + torch.zeros(2)


@pytest.mark.parametrize(
    "changes",
    [
        {"views": "paper"},
        {"views": "affine-hsv", "rule": "rf"},
        {"rule": "dtp", "loss": "simclr"},
        {"loss": "moco"},
        {"loss": "cross-entropy", "views": "none"},
    ],
    ids=str,
)
def test_a_step(tiny, images, changes):
    with apart():
        model = build(replace(tiny, **changes), images)
        watch = []
        for step in range(2):
            train_step(model, images, step, watch)
        assert model.device == model.sums.device == META and len(watch) == 2


def test_features(finished, images):
    with apart():
        encoder = saccade.load_encoder(finished, device="auto")
        assert networks.shapes(encoder, images.shape) == [(1, 28, 28), (4, 14, 14), (6, 7, 7)]
        found = features(encoder, images, [0, 1, 2])
    assert [x.device for x in found.values()] == [META] * 3


CALLS = {
    "train": lambda config, run, images, out: saccade.train(config, out=out, images=images),
    "train by name": lambda config, run, images, out: saccade.train(config, out=out),
    "margins": lambda config, run, images, out: saccade.margins(config, images=images),
    "distances": lambda config, run, images, out: api.distances(run, images),
    "page": lambda config, run, images, out: saccade.page(run),
    "embed": lambda config, run, images, out: saccade.embed(run, images),
    "probe": lambda config, run, images, out: saccade.probe(run, images, images, test_views="digits"),
    "audit": lambda config, run, images, out: saccade.audit(config, images=images),
    "brainscore": lambda config, run, images, out: BrainScoreModel(
        saccade.load_encoder(run, device="auto"), images.shape, "mine", assembly=lambda *a, **k: a
    )(images.images[:3], ["1"]),
    "sklearn": lambda config, run, images, out: SelfSupervisedEncoder(
        network="conv4 maxpool tanh", views="digits", epochs=1, batch=20, random_state=0
    ).fit(images.images[:, 0].numpy()),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call(tiny, finished, images, tmp_path, call):
    with apart():
        assert CALLS[call](tiny, finished, images, tmp_path / "out") is not None


def test_a_supervised_runs_own_classifier(tiny, images, tmp_path):
    run = saccade.train(replace(tiny, loss="cross-entropy", views="none"), out=tmp_path, images=images)
    with apart():
        assert 0 <= saccade.evaluate(run, images) <= 100


def test_the_guides_deformation():
    page = (Path(__file__).parents[1] / "docs" / "guide" / "your-own.md").read_text()
    session = {}
    exec(re.search(r":caption: occlusion.py\n(.*?)```", page, re.DOTALL)[1], session)
    with apart():
        pictures = torch.zeros(3, 1, 28, 28, device=META)
        assert session["occlude"](pictures, torch.arange(3, device=META)).shape == pictures.shape


def test_float32_convolutions_keep_all_digits(tiny, images, tmp_path):
    """On a GPU cuDNN would round what they multiply to ten bits of mantissa, if it were not told otherwise."""
    before, during = torch.backends.cudnn.conv.fp32_precision, []

    def note(module, args, output):
        if isinstance(module, networks.Layer) and len(output) > 1:  # one is of zeros, for its shape
            during.append(torch.backends.cudnn.conv.fp32_precision)

    with register_module_forward_hook(note):
        config = replace(tiny, device="cpu")
        for work in (
            lambda: saccade.train(config, out=tmp_path / "run", images=images),
            lambda: saccade.probe(tmp_path / "run", images, images),
            lambda: saccade.margins(config, images=images),
            lambda: dry_run(replace(config, data="digits:train[:60]")),
            lambda: verify(tmp_path / "run", images=images),
        ):
            work()
            assert {*during} == {"ieee"}
            assert torch.backends.cudnn.conv.fp32_precision == before
            during.clear()
