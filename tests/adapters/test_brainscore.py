"""The model that Brain-Score takes, used as Brain-Score's own parts use it, with stand-ins for its data types.

What is held against: `ActivationsExtractorHelper` (call, from_paths, from_stimulus_set, hooks, the coordinates of an
assembly), `ModelCommitment` (visual degrees through `_extractor`), `LayerPCA` (hooks that are looked for, disabled and
enabled) and `LayerMappedModel` (assigning a coordinate) of github.com/brain-score/vision.
"""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.feature_extraction import create_feature_extractor

import saccade
from saccade.adapters.brainscore import BrainScoreModel
from saccade.errors import InputError
from saccade.networks import build


class Assembly:
    """xarray's constructor and the little of it that Brain-Score's model side uses, with its checks of sizes."""

    def __init__(self, values, coords, dims):
        self.values, self.dims, self.coords = np.asarray(values), tuple(dims), {}
        for name, coord in coords.items():
            self[name] = coord

    def __setitem__(self, name, coord):
        dim, values = coord
        assert len(values) == self.values.shape[self.dims.index(dim)], name
        self.coords[name] = (dim, np.asarray(values))

    def __getitem__(self, name):
        return self.coords[name][1]


class StimulusSet(dict):
    """A table with `stimulus_id` among its columns, and the path of each picture."""

    identifier = "some-stimuli"

    def __init__(self, paths, **columns):
        super().__init__(columns)
        self.paths = paths

    @property
    def columns(self):
        return list(self)

    def get_stimulus(self, stimulus_id):
        return self.paths[stimulus_id]


@pytest.fixture
def encoder():
    return build("conv4 tanh | conv8 maxpool | flatten linear5", (3, 8, 8))


@pytest.fixture
def model(encoder):
    return BrainScoreModel(encoder, (3, 8, 8), "mine", assembly=Assembly, batch=2)


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return paths


def test_activations_are_the_layers_of_the_encoder(encoder, model, pictures):
    assert model.layers == ["0", "1", "2"]
    x = torch.stack([torch.from_numpy(np.array(Image.open(p))) for p in pictures]).permute(0, 3, 1, 2)
    nodes = {"0.activation": "0", "1.pool": "1", "2.linear": "2"}
    expected = create_feature_extractor(encoder, nodes)(x.float() / 255)
    for stimuli in (pictures, [str(p) for p in pictures], x, x.numpy()):
        found = model(stimuli, layers=["2", "0"])
        assert found.dims == ("presentation", "neuroid")
        flat = torch.cat([expected["2"], expected["0"].flatten(1)], 1)
        np.testing.assert_allclose(found.values, flat.detach().numpy(), atol=1e-6)
    found = model(pictures, layers=["0"])
    assert found["stimulus_path"].tolist() == [str(p) for p in pictures]


def test_a_stimulus_is_read_by_a_decoder_of_pictures_alone(model, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "drawing.eps")  # for which Pillow would run another program
    with pytest.raises(InputError, match=r"The stimulus .*drawing.eps cannot be decoded as a picture"):
        model([tmp_path / "drawing.eps"], layers=["0"])


def test_every_neuroid_has_its_coordinates(model, pictures):
    found = model(pictures, layers=["1", "2"])
    assert set(found.coords) == {
        "stimulus_path",
        *("neuroid_id", "neuroid_num", "model", "layer"),
        *("channel", "channel_x", "channel_y"),
    }
    place = 8 * 4 * 4 - 2  # channel 7, row 3, column 2
    names = ("neuroid_id", "neuroid_num", "layer", "channel", "channel_x", "channel_y")
    assert [found[name][place] for name in names] == [f"mine.1.{place}", place, "1", 7, 3, 2]
    assert found["neuroid_id"][-1] == "mine.2.4" and found["channel"][-1] == 4 and np.isnan(found["channel_x"][-1])
    assert len(set(found["neuroid_id"])) == found.values.shape[1] == 8 * 4 * 4 + 5


def test_a_stimulus_set_lends_its_columns(model, pictures):
    paths = dict(zip("abcde", pictures, strict=True))
    stimuli = StimulusSet(paths, stimulus_id=list("caabd"), object_name=["car"] * 5)
    found = model(stimuli, layers=["2"])
    assert found["stimulus_id"].tolist() == list("caabd") and found["object_name"].tolist() == ["car"] * 5
    assert found["stimulus_path"].tolist() == [str(paths[k]) for k in "caabd"]
    np.testing.assert_array_equal(found.values[1], found.values[2])
    found["region"] = ("neuroid", ["IT" for _ in found["layer"]])  # as LayerMappedModel does


def test_hooks_as_layer_pca_uses_them(model, pictures):
    plain, seen = model(pictures, layers=["0", "2"]).values, []

    def first_three(activations):
        seen.append(list(activations))
        return {layer: values.reshape(len(values), -1)[:, :3] for layer, values in activations.items()}

    handle = model.register_batch_activations_hook(first_three)
    assert first_three in model._extractor._batch_activations_hooks.values()
    hooked = model(pictures, layers=["0", "2"])
    assert hooked.values.shape == (5, 6) and seen == [["0", "2"]] * 3
    np.testing.assert_array_equal(hooked.values[:, :3], plain[:, :3])
    handle.disable()
    assert model(pictures, layers=["0", "2"]).values.shape == plain.shape
    handle.enable()
    assert model(pictures, layers=["0", "2"]).values.shape == (5, 6)
    handle.remove()
    assert model(pictures, layers=["0", "2"]).values.shape == plain.shape
    replaced = model.register_stimulus_set_hook(lambda s: StimulusSet(s.paths, stimulus_id=s["stimulus_id"][:2]))
    stimuli = StimulusSet(dict(enumerate(pictures)), stimulus_id=[0, 1, 2])
    assert len(model(stimuli, layers=["0"], stimuli_identifier=False, number_of_trials=4).values) == 2
    replaced.remove()
    assert len(model(stimuli, layers=["0"]).values) == 3


def test_visual_degrees_come_through_the_extractor(model):
    model._extractor.set_visual_degrees(8)
    assert model.visual_degrees == 8


def test_pictures_of_other_sizes_and_colours(tmp_path):
    Image.fromarray(np.full((20, 30), 128, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((20, 30, 4), 128, np.uint8)).save(tmp_path / "clear.png")
    paths = [tmp_path / "grey.png", tmp_path / "clear.png"]
    for shape in ((3, 8, 8), (1, 12, 8)):
        seen = []
        encoder = build("conv2", shape)
        encoder[0].register_forward_pre_hook(lambda part, args, seen=seen: seen.append(args[0]))
        BrainScoreModel(encoder, shape, "mine", assembly=Assembly)(paths, ["0"])
        torch.testing.assert_close(seen[0], torch.full((2, *shape), 128 / 255), atol=1e-4, rtol=0)


def test_a_runs_encoder(run):
    model = saccade.brainscore_model(run, assembly=Assembly)
    images = saccade.load_images("digits:test[:4]")
    found = model(images.images, model.layers[-1:])
    np.testing.assert_allclose(found.values, saccade.embed(run, images).numpy(), atol=1e-6)
    assert model.identifier == "first"


def test_whole_numbers_are_pictures_like_bytes(model):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8))
    found = [model(pictures.astype(kind), ["0"]).values for kind in (np.int64, np.uint16, np.uint8)]
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], found[2])
    assert model(np.full((1, 3, 8, 8), 127, np.int8), ["0"]).values.any()


def test_refusals_are_one_sentence(model, pictures, tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no picture")
    for act, words in (
        (lambda: model(pictures, ["nine"]), "some of 0, 1, 2"),
        (lambda: model(pictures, []), "some of 0, 1, 2"),
        (lambda: model([], ["0"]), "stimuli 0"),
        (lambda: model([tmp_path / "text.png"], ["0"]), "cannot be decoded as a picture"),
        (lambda: model(pictures, ["0"], require_variance=True), "always alike"),
        (lambda: model(torch.rand(2, 3, 8, 8), ["0"]), "float32 of shape .* whole numbers"),
        (lambda: model(torch.full((2, 3, 8, 8), 256), ["0"]), "int64 of shape .* from 0 to 255"),
        (lambda: model(torch.zeros(3, 8, 8, dtype=torch.uint8), ["0"]), "uint8 of shape .* whole numbers"),
    ):
        with pytest.raises(InputError, match=words):
            act()
    for name in ("brainscore_core", "brainio", "xarray"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="neither Brain-Score nor xarray is installed"):
        BrainScoreModel(model.encoder, (3, 8, 8), "mine")(pictures, ["0"])
