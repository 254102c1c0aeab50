"""Parts of the user's own: a run goes on with the code that it began with, and says where that code fails."""

import importlib
import re
import sys
from dataclasses import replace

import pytest

import saccade
from saccade.cli import main
from saccade.config.run import to_yaml
from saccade.errors import InputError
from saccade.rules.gradient import Backpropagation
from saccade.training.own_code import own_code

CODE = """
from torch import nn

def pulled(z_a, z_b, by=1.0):
    return {factor} * by * (z_a - z_b).square().mean()

class Ways:
    def groups(self, layers): return {groups}
    def length(self, sites, steps): return {length}
    def sites(self, seed, step, sites, steps): return {sites}

chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh())
"""
GOOD = {"factor": 1, "groups": "[range(layers)]", "length": "steps", "sites": "(0,)"}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes the user's file anew, with changes."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # written twice in a second, it would be taken for unchanged

    def write(**changes):
        (tmp_path / "my_parts.py").write_text(CODE.format(**GOOD | changes))
        sys.modules.pop("my_parts", None)
        importlib.invalidate_caches()

    write()
    yield write
    sys.modules.pop("my_parts", None)


def test_a_finished_run_is_handed_back_by_the_code_that_made_it(tiny, mine, tmp_path):
    config = replace(tiny, loss="my_parts.pulled(by=2)")
    run = saccade.train(config, out=tmp_path / "run")
    mine(length="steps + 1")  # of another part of the file
    assert saccade.train(config, out=run) == run and saccade.verify(run).exact
    mine(factor=100)
    for again in (lambda: saccade.train(config, out=run), lambda: saccade.verify(run)):
        with pytest.raises(InputError, match="The code of my_parts.pulled is not what the run in .* began with"):
            again()
    assert saccade.load_encoder(run)  # on which the loss has no hold


def test_an_interrupted_run_is_continued_by_its_own_code_and_one_that_failed_at_once_by_any(tiny, mine, tmp_path):
    config = replace(tiny, loss="my_parts.pulled", schedule="my_parts.Ways", checkpoint_seconds=1e-9)
    run = tmp_path / "run"

    def stop(step, steps, loss):
        raise KeyboardInterrupt

    mine(sites="(0,) if step else None")
    with pytest.raises(InputError, match="has None learn at step 0"):
        saccade.train(config, out=run)
    mine()
    with pytest.raises(KeyboardInterrupt):
        saccade.train(replace(config, epochs=2), out=run, progress=stop)
    assert list(run.glob("checkpoint-*"))
    mine(factor=100)
    with pytest.raises(InputError, match="The code of my_parts.pulled is not"):
        saccade.train(replace(config, epochs=2), out=run)


def test_the_code_of_an_object_is_its_file_and_a_package_has_none(tiny, mine):
    views = "digits my_parts.chain(of='a file.pt', by=0.5)"  # a dot among options is none of a part
    config = replace(tiny, network="my_parts.chain", loss="lightly.loss.NTXentLoss", views=views)
    before = own_code(config)
    mine(factor=2)
    assert list(before) == list(own_code(config)) == ["my_parts.chain"] and before != own_code(config)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sites": "(9,)"}, r"has \(9,\) learn at step 0; it takes one site or more, each once, from 0 to 0"),
        ({"sites": "0"}, "has 0 learn at step 0"),
        ({"sites": "(0, 0)"}, r"has \(0, 0\) learn at step 0"),
        ({"sites": "()"}, r"has \(\) learn at step 0"),
        ({"groups": "[range(1)]"}, "of 2 layers; it takes ranges that hold each of them once"),
        ({"groups": "[range(2), range(1, 2)]"}, "ranges that hold each of them once"),
        ({"groups": "7"}, "has the groups 7"),
        ({"length": "0"}, "length of the schedule my_parts.Ways is 0; it takes a whole number"),
        ({"length": "steps + 0.5"}, r"length of the schedule my_parts.Ways is 3\.5"),
        ({"length": "10**30"}, "length of the schedule my_parts.Ways is 1000"),
    ],
)
def test_a_schedule_of_ones_own_that_cannot_be_is_refused_before_anything_is_written(
    tiny, mine, tmp_path, changes, says
):
    mine(**changes)
    with pytest.raises(InputError, match=says):
        saccade.train(replace(tiny, schedule="my_parts.Ways"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


FAILING = """
import sys
import torch
from torch import nn
from saccade.rules.gradient import Backpropagation

def at_once(z_a, z_b): return {{}}["x"]

class Later(nn.Module):
    called = 0
    def forward(self, z_a, z_b):
        Later.called += 1
        if Later.called > 3:
            raise {error}
        return (z_a - z_b).square().mean()

def net(): return {{}}["x"]
def views(x, keys): return {{}}["x"]

class Prepares(Backpropagation):
    def prepare(self, site, shape, seed): return 1 / 0

class Phases(Backpropagation):
    def phases(self, site, batch):
        torch.linear(batch)
        yield "weights"

class Sites:
    def groups(self, layers): return [range(layers)]
    def length(self, sites, steps): return steps
    def sites(self, seed, step, sites, steps): return {{0: (0,)}}[step]
"""


@pytest.fixture
def failing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "failing.py").write_text(FAILING.format(error="LookupError('nothing there')"))
    yield tmp_path / "failing.py"
    sys.modules.pop("failing", None)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"loss": "failing.at_once"}, 2, "KeyError: 'x'"),
        ({"loss": "failing.Later"}, 1, r"line 14 of .*failing\.py, in forward \(LookupError: nothing there\)"),
        ({"network": "failing.net"}, 2, "The network 'failing.net' cannot be made: KeyError: 'x'"),
        ({"views": "failing.views"}, 2, r"The deformation failing\.views cannot be called \(KeyError: 'x'\)"),
        (
            {"rule": "failing.Prepares"},
            2,
            r"line 21 of .*failing\.py, in prepare \(ZeroDivisionError: division by zero\)",
        ),
        ({"rule": "failing.Phases"}, 1, r"line 25 of .*failing\.py, in phases \(AttributeError: .*linear"),
        ({"schedule": "failing.Sites"}, 1, r"line 31 of .*failing\.py, in sites \(KeyError: 1\)"),
    ],
)
def test_code_of_ones_own_that_fails_is_one_sentence_with_its_file_and_line(
    tiny, failing, tmp_path, capsys, changes, code, says
):
    (tmp_path / "mine.yaml").write_text(to_yaml(replace(tiny, **changes)))
    assert main(["train", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run"), "--quiet"]) == code
    [said] = capsys.readouterr().err.splitlines()
    assert re.search(says, said)
    assert (tmp_path / "run").exists() == (code == 1)


def test_margins_and_audits_tell_of_code_that_fails(tiny, failing):
    with pytest.raises(InputError, match=r"line 21 of .*in prepare"):
        saccade.margins(replace(tiny, rule="failing.Prepares"))
    with pytest.raises(InputError, match=r"line 25 of .*in phases"):
        saccade.audit(replace(tiny, rule="failing.Phases"))


def test_what_fails_without_code_of_ones_own_is_ours_and_keeps_its_traceback(tiny, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(Backpropagation, "phases", fails)
    with pytest.raises(ZeroDivisionError):
        saccade.audit(tiny)


@pytest.mark.parametrize("body", ["1 / 0", "def f(:", "import sys; sys.exit(0)", "x = '\\0'"])
def test_a_module_that_cannot_be_imported_is_refused(tiny, tmp_path, monkeypatch, body):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_bytes(body.encode())
    with pytest.raises(InputError, match=r"The loss 'broken\.f' cannot be imported \("):
        saccade.train(replace(tiny, loss="broken.f"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
