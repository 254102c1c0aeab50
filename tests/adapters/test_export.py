"""Exported encoders against the encoder itself: ONNX Runtime's output, torch.export's, and the Hugging Face layout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import saccade
from saccade.adapters.export import write_onnx, write_pt2
from saccade.errors import InputError, RunError
from saccade.networks import build

SPECS = [
    ("cifar", (3, 32, 32)),
    ("local4 tanh | conv6(kernel=2, stride=2, padding=0, bias=true) relu avgpool | flatten linear5", (3, 9, 8)),
]


def encoders():
    for spec, shape in SPECS:
        yield pytest.param(build(spec, shape).eval(), shape, id=spec)
    users = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    yield pytest.param(users.eval(), (3, 9, 9), id="a user's own")


@pytest.mark.parametrize(("encoder", "shape"), list(encoders()))
def test_onnx_runtime_gives_the_encoders_features(encoder, shape, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert write_onnx(encoder, shape, tmp_path / "encoder.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(5, *shape)
    [found] = session.run(["features"], {"images": x.numpy()})
    expected = encoder(x).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("encoder", "shape"), list(encoders()))
def test_torch_export_gives_the_encoders_features(encoder, shape, tmp_path):
    assert write_pt2(encoder, shape, tmp_path / "encoder.pt2") < 1e-6
    x = torch.rand(5, *shape)
    found = torch.export.load(tmp_path / "encoder.pt2").module()(x)
    torch.testing.assert_close(found, encoder(x))


class Wrong(nn.Module):
    """Answers the exporter, which sees the branch of two images, otherwise than a user."""

    def forward(self, x):
        return x * 2 if torch.compiler.is_exporting() else x


def test_an_export_that_differs_is_not_written(tmp_path):
    with pytest.raises(RunError, match="differs by 1 of its largest feature"):
        write_pt2(nn.Sequential(Wrong()), (3, 4, 4), tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum().item() > 0 else -x


@pytest.mark.parametrize("write", [write_pt2, write_onnx])
def test_what_cannot_be_traced_is_one_sentence(write, tmp_path):
    with pytest.raises(InputError, match="cannot export this network") as caught:
        write(nn.Sequential(Branching()), (3, 4, 4), tmp_path / "x")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_layers_of_a_run(run, tmp_path):
    x = torch.rand(3, 1, 28, 28)
    encoder = saccade.load_encoder(run)
    for layer in (1, 2, None):
        path = saccade.export(run, tmp_path / f"{layer}.pt2", to="pt2", layer=layer)
        torch.testing.assert_close(torch.export.load(path).module()(x), encoder[:layer](x))


def test_an_encoder_that_learned_from_patches_is_exported_for_whole_pictures(tmp_path):
    options = {"loss": "hinge-patches", "views": "crop", "network": "conv4 tanh | conv6 maxpool", "rate": 1e-3}
    run = saccade.train(data="digits:train[:40]", out=tmp_path / "run", epochs=1, batch=20, size=32, **options)
    path = saccade.export(run, tmp_path / "encoder.pt2", to="pt2")
    x = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(torch.export.load(path).module()(x), saccade.load_encoder(run)(x))
    assert "images of 1x32x32" in (saccade.export(run, tmp_path / "out", to="huggingface") / "README.md").read_text()
    assert saccade.brainscore_model(run, assembly=None).shape == (1, 32, 32)


def test_an_encoder_that_takes_patches_alone_is_exported_for_patches(tmp_path):
    options = {"loss": "hinge-patches", "views": "crop", "network": "conv4 maxpool | flatten linear6", "rate": 1e-3}
    run = saccade.train(data="digits:train[:40]", out=tmp_path / "run", epochs=1, batch=20, size=32, **options)
    path = saccade.export(run, tmp_path / "encoder.pt2", to="pt2")
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(torch.export.load(path).module()(x), saccade.load_encoder(run)(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "tflite"}, "huggingface, onnx, pt2"),
        ({"to": "pt2", "layer": 3}, "layer is 3 .* 1 to 2"),
        ({"to": "huggingface", "layer": 1}, "whole encoder"),
    ],
)
def test_refusals_write_nothing(run, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        saccade.export(run, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript is not installed; it takes pip install .saccade.onnx."):
        saccade.export(run, tmp_path / "x.onnx", to="onnx")


@pytest.fixture(scope="module")
def once(run, tmp_path_factory):
    return saccade.export(run, tmp_path_factory.mktemp("exported") / "model", to="huggingface")


@pytest.fixture
def exported(once, tmp_path):
    """A copy of the one export, to be changed."""
    return Path(shutil.copytree(once, tmp_path / "model"))


def test_the_hugging_face_layout_loads_back(run, exported):
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    x, encoder = torch.rand(3, 1, 28, 28), saccade.from_pretrained(exported)
    assert torch.equal(encoder(x), saccade.load_encoder(run)(x)) and not encoder.training
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "saccade" and config["image_shape"] == [1, 28, 28]
    assert set(load_file(exported / "model.safetensors")) == {"0.linear.weight", "1.linear.weight"}
    assert not {"device", "data_root", "init_from"} & set(config["training"])


def test_it_loads_in_a_fresh_process_without_network(exported):
    """Sockets are taken away before the import; and no module that unpickles models is asked."""
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "import torch; torch.load = refuse\n"
        "import saccade; print(len(saccade.from_pretrained(sys.argv[1])), 'huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, exported], capture_output=True, text=True)
    assert done.stdout == "2 False\n", done.stderr


def test_the_model_card_says_what_the_run_was(run, exported):
    text = (exported / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["tags"][-3:] == ["hinge", "gll", "bp"]
    sections = dict(part.split("\n", 1) for part in body.split("\n## ")[1:])
    titles = ["Use", "Data", "Training protocol", "Seeds", "Audit", "Results", "Where it ran", "Citation"]
    assert list(sections) == titles
    assert all(section.strip() for section in sections.values())
    facts = json.loads((run / "run.json").read_text())
    assert facts["data"]["sha256"] in sections["Data"] and "digits:train" in sections["Data"]
    assert "hinge(m2=1.5, negatives=5, block=true)" in text and "| steps | 6 |" in sections["Training protocol"]
    assert "violated | rule" in sections["Audit"]  # backpropagation transports weights
    assert sum("±" in line for line in sections["Results"].splitlines() if line.startswith("|")) == 2
    assert "Training loss of site 2" in sections["Results"]
    assert str(run.parent) not in text
    code = sections["Use"].split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_a_card_has_no_section_of_which_the_run_has_nothing(run, tmp_path):
    from saccade.adapters.huggingface import card
    from saccade.api import configuration

    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run.json").write_text('{"shape": [1, 28, 28], "data": {"name": "digits"}}')
    text = card(saccade.load_encoder(run), configuration(run), bare, "bare")
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["Use", "Data", "Training protocol", "Seeds", "Citation"]


def test_a_run_that_cannot_be_audited_is_exported_all_the_same(run, tmp_path, monkeypatch):
    def refused(*args):
        raise InputError("It cannot be audited.")

    monkeypatch.setattr("saccade.api.run_audit", refused)
    folder = saccade.export(run, tmp_path / "model")
    text = (folder / "README.md").read_text()
    assert "## Seeds" in text and "## Audit" not in text
    assert len(saccade.from_pretrained(folder)) == 2


def test_an_earlier_export_is_replaced_and_other_folders_left_alone(run, exported, tmp_path):
    (exported / "README.md").write_text("old")
    saccade.export(run, exported)
    assert (exported / "README.md").read_text() != "old"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "README.md").write_text("mine")
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        saccade.export(run, other)
    assert (other / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, "not what saccade writes"),
        ({"network": ["conv4"]}, "not what saccade writes"),
        ({"image_shape": [1, 28]}, "not what saccade writes"),
        ({"network": "conv4 | conv7"}, "do not fit"),
        ({"network": "conv4 maxpool tanh"}, "do not fit"),
        ({"network": "os.getcwd"}, "takes trust=True"),
        ({"network": "nonsense"}, "unknown part"),
    ],
)
def test_folders_that_are_none(exported, changes, words):
    path = exported / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=words):
        saccade.from_pretrained(exported)


def test_torn_or_missing_files(exported, tmp_path):
    with pytest.raises(InputError, match=r"config.json cannot be read"):
        saccade.from_pretrained(tmp_path)
    whole = (exported / "model.safetensors").read_bytes()
    (exported / "model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"model.safetensors cannot be read"):
        saccade.from_pretrained(exported)
    (exported / "model.safetensors").unlink()
    os.mkfifo(exported / "model.safetensors")  # which would never end
    with pytest.raises(InputError, match=r"model.safetensors cannot be read \(there is no such file"):
        saccade.from_pretrained(exported)
    (exported / "model.safetensors").unlink()
    save_file({"other": torch.zeros(2)}, exported / "model.safetensors")
    with pytest.raises(InputError, match="do not fit"):
        saccade.from_pretrained(exported)
