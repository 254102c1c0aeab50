"""The command line: what it prints, its exit codes, and one sentence for every mistake."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.cli import COMMANDS, main
from saccade.config.data_names import DATA
from saccade.config.names import LOSSES, NETWORKS, RULES, SCHEDULES
from saccade.config.run import TrainConfig, read_recipe, recipe, recipes, to_yaml
from saccade.config.view_names import POLICIES, resolve

TINY = [
    "--data=digits:train[:60]",
    "--views=digits",
    "--network=conv4 maxpool tanh | conv6 maxpool tanh",
    "--loss=hinge(m2=1.5, negatives=5)",
    "--epochs=1",
    "--batch=20",
]


def test_help_and_refusals_need_no_torch():
    code = (
        "import sys; from saccade.cli import main\n"
        "for argv in ([], ['train', '--loss', 'nonsense'], ['list']): main(argv)\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    words = capsys.readouterr().out.split()
    for table in (LOSSES, SCHEDULES, RULES, NETWORKS, POLICIES, DATA, recipes()):
        assert set(table) <= set(words)


def test_list_shows_options_with_their_defaults_as_one_writes_them(capsys):
    main(["list"])
    said = capsys.readouterr().out
    for call in ("deformed-cifar(p=0.2, hue=0.1, saturation=2.0, shared=0)", "flip(p=0.5)", "window(centre=false)"):
        assert f"   {call}\n" in said
        resolve(call)
    assert "  m2=3.0: margin of negatives" in said


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"usage: saccade {command}" in capsys.readouterr().out


def test_train_help_explains_each_field_with_its_default(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "learning rate. (type: float, default: 0.0001)" in said
    assert "(type: int, default: 500)" in said


def test_fields_may_be_null_where_their_help_says_so(capsys):
    fields = re.findall(r"^ +(\w+): [^:]*; null: ", TrainConfig.__doc__, re.MULTILINE)
    assert fields == ["size", "head", "data_root"]
    assert main(["train", "digits", *(f"--{name}=null" for name in fields), "--print_config"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if ": null" in line][:1] == ["size: null"]


def test_print_config_writes_a_recipe_that_reads_back(capsys, tmp_path):
    assert main(["train", "digits", "--seed", "7", "--print_config"]) == 0
    written = tmp_path / "mine.yaml"
    written.write_text(capsys.readouterr().out)
    assert read_recipe(written) == replace(recipe("digits"), seed=7)


def test_train_probe_embed_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "--out", "run"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == ["run", "weights", "metrics", "loss", "steps", "seconds", "page"] and said["steps"] == "3"
    assert all(Path(said[name]).exists() for name in ("run", "weights", "metrics", "page"))
    labeled = ["--train", "digits:train[:100]", "--test", "digits:test[:50]", "--quiet"]
    assert main(["probe", "run", *labeled, "--layers", "all", "--json"]) == 0
    assert [row["layer"] for row in json.loads(capsys.readouterr().out)] == [1, 2]
    assert main(["probe", "run", *labeled]) == 0
    assert "6x7x7" in capsys.readouterr().out
    assert main(["embed", "run", "digits:test[:9]", "--layer", "1", "-o", "x.npz"]) == 0
    found = np.load("x.npz", allow_pickle=False)
    assert found["embeddings"].shape == (9, 4 * 14 * 14) and found["labels"].shape == (9,)
    assert main(["page", "run"]) == 0


def test_train_takes_a_file_and_overrides_it(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: digits:train[:60]\nviews: digits\nnetwork: conv4 maxpool tanh\nepochs: 1\nbatch: 20\n")
    assert main(["train", str(mine), "--batch", "30", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert read_recipe(tmp_path / "run" / "config.yaml").batch == 30


@pytest.mark.parametrize(("command", "unread"), [("audit", "epochs"), ("audit", "device"), ("margins", "rule")])
def test_fields_that_a_command_does_not_read_stand_in_recipes_and_are_no_options(command, unread, tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        to_yaml(replace(TrainConfig(), data="digits:train[:60]", views="digits", network="conv4 tanh", batch=20))
    )
    assert main([command, str(mine)]) == 0
    capsys.readouterr()
    assert main([command, str(mine), f"--{unread}", "1"]) == 2
    assert (
        capsys.readouterr().err
        == f"saccade: unrecognized arguments: --{unread} 1; saccade {command} --help lists what it takes.\n"
    )


def test_dry_run_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "--dry-run"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra", [["--count", "4"], ["--alone", "--views", "paper"]])
def test_views_draws_a_sheet(tmp_path, capsys, extra):
    out = tmp_path / "sheet.png"
    assert main(["views", "digits", "--rows", "3", "-o", str(out), *extra]) == 0
    width, height = Image.open(out).size
    assert width > 4 * 28 and height > 3 * 28


def bad_inputs(folder: Path) -> list[tuple[list[str], str]]:
    np.savez(folder / "names.npz", pictures=np.zeros((4, 8, 8), np.uint8))
    np.savez(folder / "types.npz", images=np.zeros((4, 8, 8)))
    np.savez(folder / "shapes.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros(3, np.int64))
    (folder / "torn.npz").write_bytes(b"PK\x03\x04nothing")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"no picture")
    (folder / "bad.yaml").write_text("data: [1, 2")
    (folder / "list.yaml").write_text("- data")
    (folder / "field.yaml").write_text("dada: digits")
    (folder / "type.yaml").write_text("batch: many")
    (folder / "twice.yaml").write_text("batch: 50\nrate: 1e-3\nbatch: 20")
    train = ["train", *TINY, "--out", str(folder / "run")]
    return [
        (["nonsense"], "Unknown command"),
        (["train", "nonsense"], "no recipe"),
        (["train", str(folder / "bad.yaml")], "cannot be read"),
        (["train", str(folder / "list.yaml")], "not a mapping"),
        (["train", str(folder / "field.yaml")], "unknown field 'dada'"),
        (["train", str(folder / "type.yaml")], "batch='many'"),
        ([*train, "--data", str(folder / "nothing.npz")], "nothing.npz"),
        ([*train, "--data", "nonsense"], "no data 'nonsense'"),
        ([*train, "--data", str(folder / "names.npz")], "images"),
        ([*train, "--data", str(folder / "types.npz")], "uint8"),
        ([*train, "--data", str(folder / "shapes.npz")], "labels"),
        ([*train, "--data", str(folder / "torn.npz")], "torn.npz"),
        ([*train, "--data", str(folder / "pictures")], "a.png"),
        ([*train, "--data", "mnist", "--data-root", str(folder)], "--download"),
        ([*train, "--network", "cifar", "--data", "digits[:5]"], "batch is 20"),
        ([*train, "--network", "conv4 | maxpool8 | maxpool8"], "network"),
        ([*train, "--network", "nonsense"], "emnist"),
        ([*train, "--loss", "nonsense"], "hinge"),
        ([*train, "--loss", "hinge(negatives=20)"], "a batch of 20 pictures has 19"),
        ([*train, "--loss", "hinge(m1=2, m2=2)"], "m2 above m1"),
        ([*train, "--loss", "hinge(margin=2)"], "no option 'margin'"),
        ([*train, "--loss", "hinge("], "parentheses"),
        ([*train, "--loss", "no.such.loss"], "cannot be imported"),
        ([*train, "--schedule", "nonsense"], "rll"),
        ([*train, "--rule", "nonsense"], "urf"),
        ([*train, "--rule", "kolen-pollack"], "weight decay"),
        ([*train, "--views", "nonsense"], "affine-hsv"),
        ([*train, "--optimizer", "nonsense"], "adam or sgd"),
        ([*train, "--rate", "0"], "rate is 0"),
        ([*train, "--rate", "nan"], "rate"),
        ([*train, "--epochs", "-1"], "epochs is -1"),
        ([*train, "--batch", "1"], "at least 2"),
        ([*train, "--batch", "x"], "--batch is 'x'; it takes a whole number.\n"),
        ([*train, "--rate", "x"], "--rate is 'x'; it takes a number.\n"),
        ([*train, "--size", "1.5"], "--size is '1.5'; it takes a whole number or null.\n"),
        ([*train, "--dry-run", "maybe"], "--dry_run is 'maybe'; it takes true or false.\n"),
        ([*train, "--device", "abacus"], "abacus"),
        (["train", "digits", "--config", "cifar"], "stands beside --config"),
        (["train", "digits", "--print_config", "--dry-run"], "goes without --dry_run"),
        ([*train, "--head", ""], "head is empty"),
        (["train", str(folder / "twice.yaml")], "it has batch twice"),
        ([*train, "--views", "jitter"], "jitter does nothing; it takes one or more of brightness"),
        (["margins", "digits", "--format", "csv", "--json"], "are two forms"),
        (["audit", "digits", "--format", "csv"], "Unknown format 'csv'; it takes terminal, markdown, json"),
        (["audit", "--data", str(folder / "typo.npz"), "--network", "emnist"], "typo.npz"),
        (["audit", "--data", "cifar10:trian"], "trian"),
        (["views", "digits", "--alone", "--count", "3"], "goes without --count"),
        (["views", "digits", "--seed", "-5"], "seed is -5"),
        (["views", "digits", "-o", ""], "An empty name cannot be written"),
        (["reproduce", "figure1", "--format", "csv"], "has no table to print as csv"),
        (["reproduce", "table1", "--render", "--data_root", str(folder)], "runs nothing"),
        (["reproduce", "table1", "--readings", "dtp(noise=5) dtp(noise=6)"], "readings has dtp twice"),
        (["reproduce", "table1", "--readings", "dtp(noise=0.1)"], "No number of table1 depends on the reading"),
        (["sweep", "digits", "rate=[true]"], "has a value that is no number"),
        (["sweep", "digits", "rate=[1e-3]", "--out", "/proc/here"], "cannot be made"),
        (["quickstart", "--out", "/proc/here"], "cannot be made"),
        (["--version", "extra"], "Unknown command '--version'"),
        ([*train, "--precision", "int8"], "bfloat16"),
        ([*train, "--init-from", str(folder / "nothing")], "cannot be read"),
        ([*train, "--nonsense", "1"], "nonsense"),
        (["probe", str(folder / "nothing"), "--train", "digits", "--test", "digits"], "no run's folder"),
        (["probe", "run", "--train", "digits", "--test", "digits", "--epochs", "3"], "goes with the protocol paper"),
        (["embed", str(folder / "nothing"), "digits"], "no run's folder"),
        (["compare", str(folder / "nothing")], "two different runs"),
        (["sweep", "digits", "data=[no.npz]", "--out", str(folder / "sweep")], "no.npz"),
        (["sweep", "digits", "rate=[2001-99-99]"], "list of values"),
        (["sweep", "digits", "--train", "digits", "--test", "no.npz", "--out", str(folder / "sweep")], "no.npz"),
        (["sweep", "digits", "--out", str(folder / "torn.npz")], "torn.npz is a file"),
        (["quickstart", "--out", str(folder / "torn.npz")], "torn.npz is a file"),
        (["reproduce", "figure2", "--scale", "digits", "--out", str(folder / "torn.npz")], "torn.npz is a file"),
        (["reproduce", "table1", "--results", str(folder / "torn.npz" / "r")], "torn.npz is a file"),
        (["page", str(folder / "nothing")], "no run's folder"),
        (["views", "nonsense"], "no data"),
        (["views", "digits", "-o", str(folder / "no" / "where.png")], "where.png"),
        (["quickstart", "--seeds", "0"], "at least 1"),
        (["reproduce", "table9"], "table1"),
        (["reproduce", "figure3", "--cells", "random"], "drawn without runs"),
        (["reproduce", "figure3", "--results", str(folder / "r")], "drawn without runs"),
        (["reproduce", "table1", "--render", "--download"], "runs nothing"),
        (["shards", str(folder), "--download"], "go with OUT"),
        (["reproduce", "table3", "--scale", "tiny", "--strength", "3"], "3.75"),
        (["reproduce", "table1", "--merge", str(folder / "nothing"), "--render"], "holds no results"),
        (["margins", "digits", "--within", "1"], "between 0 and 1"),
        (["reproduce", "table1", "--cells", "nonsense", "--results", str(folder / "r")], "hinge-e2e-bp-full"),
    ]


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    cases = bad_inputs(tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for argv, part in cases:
        assert main(argv) == 2, argv
        said = capsys.readouterr()
        assert said.out == "", argv
        assert said.err.startswith("saccade: ") and said.err.count("\n") == 1, (argv, said.err)
        assert part in said.err and "Traceback" not in said.err, (argv, said.err)
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before, argv
