"""Sweeps: every combination once, whoever asks."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from saccade import engines, sweep
from saccade.cli import main
from saccade.config.run import to_yaml
from saccade.errors import Held, InputError, RunError
from saccade.training.folder import claimed

VARIED = {"rate": [1e-3, 2e-3], "rule": ["bp", "rf"]}


def test_every_combination_at_every_seed_runs_once(tiny, tmp_path, monkeypatch):
    ran: list[str] = []
    real = sweep._trained
    monkeypatch.setattr(sweep, "_trained", lambda task, report: (ran.append(task[1]), real(task, report)))
    found = sweep.run(tiny, VARIED, tmp_path, seeds=2, engine="own.in_turn")
    assert len(ran) == 8 and [row[:2] for row in found.rows] == [
        [str(a), b] for a in (0.001, 0.002) for b in ("bp", "rf")
    ]
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert len(told["runs"]) == 8 and all((tmp_path / name / "weights.safetensors").exists() for name in told["runs"])
    more = sweep.run(tiny, {**VARIED, "rate": [1e-3, 3e-3]}, tmp_path, seeds=2, engine="own.in_turn")
    assert len(ran) == 12 and more.rows[0] == found.rows[0]


def save(path, seed):
    pictures = np.random.default_rng(seed).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(path, images=pictures, labels=np.arange(60) % 2)


def test_results_of_other_images_are_not_handed_back(tiny, tmp_path):
    mine, others = tmp_path / "mine.npz", tmp_path / "others.npz"
    save(mine, 0), save(others, 1)
    base, probe = replace(tiny, data=str(mine)), sweep.Probe(str(mine), str(others))
    first = sweep.run(base, {"rule": ["bp"]}, tmp_path / "out", probe=probe, engine="own.in_turn")
    assert sweep.run(base, {"rule": ["bp"]}, tmp_path / "out", probe=probe, engine="own.in_turn").rows == first.rows
    for changed in (others, mine):
        save(changed, 2)
        with pytest.raises(InputError, match=f"The images {changed} are not those"):
            sweep.run(base, {"rule": ["bp"]}, tmp_path / "out", probe=probe, engine="own.in_turn")
        save(changed, 1)


def test_a_probes_test_images_can_be_deformed(tiny, tmp_path):
    plain, deformed = (sweep.Probe("digits:train[:300]", "digits:test[:200]", views) for views in (None, "digits"))
    found = [
        sweep.run(tiny, {"rule": ["bp"]}, tmp_path, probe=probe, engine="own.in_turn") for probe in (plain, deformed)
    ]
    assert found[0].rows[0][1].mean > found[1].rows[0][1].mean + 10  # each with a result of its own
    assert found[1].caption.endswith("scored on digits:test[:200], deformed by the views digits.")


def test_fields_that_vary_together_are_not_combined(tiny, tmp_path):
    varied = sweep.parse(["schedule,epochs=[[e2e, 2], [gll, 1]]", "rule=[bp, rf]"])
    made = sweep.runs(tiny, varied, 2).values()
    assert [(c.schedule, c.epochs, c.rule, c.seed) for c in made] == [
        (schedule, epochs, rule, seed)
        for schedule, epochs in (("e2e", 2.0), ("gll", 1.0))
        for rule in ("bp", "rf")
        for seed in (0, 1)
    ]
    found = sweep.run(tiny, {"schedule,epochs": [["e2e", 2], ["gll", 1]]}, tmp_path, engine="own.in_turn")
    assert found.header[:2] == ["schedule", "epochs"] and [row[:2] for row in found.rows] == [
        ["e2e", "2"],
        ["gll", "1"],
    ]
    assert list(sweep.runs(tiny, {"rule,seed": [["bp", 3]]})) == list(
        sweep.runs(replace(tiny, seed=3), {"rule": ["bp"]})
    )
    for wrong in ({"schedule,epochs": ["e2e"]}, {"schedule,epochs": [["e2e"]]}):
        with pytest.raises(InputError, match="takes a list of one value for each"):
            sweep.runs(tiny, wrong)


def test_names_hang_on_choices_alone(tiny):
    [name] = sweep.runs(tiny, {})
    assert [name] == list(sweep.runs(tiny, {"epochs": [1.0]})) == list(sweep.runs(tiny, {"epochs": [1]}))
    assert [name] == list(sweep.runs(replace(tiny, checkpoint_seconds=5, device="cpu"), {}))
    assert [name] != list(sweep.runs(replace(tiny, rate=0.5), {}))
    assert list(sweep.runs(tiny, {"seed": [3]})) == list(sweep.runs(replace(tiny, seed=3), {}))


def test_a_sweep_probes_where_it_is_told_to(tiny, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(to_yaml(tiny))
    command = [
        "sweep",
        str(recipe),
        "rule=[bp, rf]",
        "--engine",
        "own.in_turn",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert main([*command, "--train", "digits:train[:200]", "--test", "digits:test[:100]", "--format", "csv"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert shown.err == ""  # --quiet
    assert lines[0].startswith("rule,test accuracy (%) mean") and [line.split(",")[0] for line in lines[1:3]] == [
        "bp",
        "rf",
    ]
    assert all(10 < float(line.split(",")[1]) <= 100 for line in lines[1:3])

    command.remove("--quiet")
    assert main([*command, "--format", "csv"]) == 0
    shown = capsys.readouterr()
    assert "results  " not in shown.out and shown.err.splitlines()[-1] == f"results  {tmp_path / 'out' / 'sweep.json'}"
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row[0] for row in told["table"]["rows"]] == ["bp", "rf"] and told["table"]["header"][
        1
    ] == "loss, last tenth"
    [kept] = [
        one for one in json.loads(Path(told["results"]).read_text())["runs"].values() if one["config"]["rule"] == "bp"
    ]
    assert told["table"]["rows"][0][1] == {"mean": kept["loss"], "std": None, "n": 1}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["rate=1e-4"], "'rate=1e-4' cannot be used"),
        (["speed=[1]"], "'speed=\\[1\\]' cannot be used"),
        (["rate=[1]", "rate=[2]"], "'rate=\\[2\\]' cannot be used"),
        (["rate=[fast]"], "has a value that is no number"),
        (["rule=[bp"], "cannot be used"),
        (["rule=[bp]", "rate,rule=[[1, rf]]"], "'rate,rule=.*' cannot be used"),
        (["rule,rule=[[bp, rf]]"], "cannot be used"),
        (["rule,rate=[bp, rf]"], "cannot be used"),
        (["rule,rate=[[bp, 1], [rf]]"], "cannot be used"),
        (["rule,rate=[[bp, fast]]"], "has a value that is no number"),
    ],
)
def test_variations_that_cannot_be_used_are_refused(texts, said):
    with pytest.raises(InputError, match=said):
        sweep.parse(texts)


@pytest.mark.parametrize(
    ("varied", "seeds", "said"),
    [
        (
            {"checkpoint_seconds": [30, 60]},
            1,
            "The sweep varies checkpoint_seconds, .* it takes fields other than device",
        ),
        ({"rule": ["bp", "rf"], "device": ["cpu"]}, 1, "The sweep varies device"),
        ({}, 0, "seeds"),
        ({"seed": [1, 2]}, 5, "The sweep varies seed and has seeds=5; it takes one or the other"),
    ],
)
def test_variations_that_no_table_could_tell_apart_are_refused(tiny, varied, seeds, said):
    with pytest.raises(InputError, match=said):
        sweep.runs(tiny, varied, seeds)


def test_a_combination_that_cannot_run_is_refused_before_any_runs(tmp_path, capsys):
    assert main(["sweep", "digits", "rule=[bp, none]", "--out", str(tmp_path / "out")]) == 2
    assert "Unknown rule 'none'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["sweep", "digits", "rule=[bp]", "--engine", "cloud", "--out", str(tmp_path / "out")]) == 2
    assert "Unknown engine 'cloud'; it takes local, ray, slurm" in capsys.readouterr().err


def test_two_results_of_one_run_must_agree(tmp_path):
    path = tmp_path / "result.json"
    sweep.keep(path, {"loss": 1.0, "of": (1, 2)})
    sweep.keep(path, {"loss": 1.0, "of": (1, 2)})
    with pytest.raises(RunError, match="was written with another result"):
        sweep.keep(path, {"loss": 1.5, "of": (1, 2)})


def test_a_task_waits_for_a_folder_that_a_dying_process_holds(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(engines.time, "sleep", lambda seconds: held.pop().__exit__(None, None, None))
    held = [claimed(tmp_path / "run", tiny)]
    held[0].__enter__()

    def task(folder: Path, report):
        with claimed(folder, tiny):
            return "mine"

    assert engines._patiently(task, tmp_path / "run", print) == "mine" and not held


def test_patience_ends(monkeypatch):
    def held(task, report):
        raise Held("It is held.")

    monkeypatch.setattr(engines, "_PATIENCE", 0)
    with pytest.raises(Held):
        engines._patiently(held, None, print)


def test_an_engine_that_is_not_installed_is_named():
    with pytest.raises(InputError, match="needs no_such_library; it takes pip install 'saccade\\[ray\\]'"):
        engines._library("no_such_library", "ray")


def test_a_result_is_the_mean_over_the_last_tenth_and_of_a_probe_by_the_runs_seed(tiny, tmp_path, monkeypatch):
    rows = [{"step": step, "site": site, "loss": step + site / 2} for step in range(1, 41) for site in (0, 1)]
    asked = []
    monkeypatch.setattr(sweep.api, "train", lambda config, **how: None)
    monkeypatch.setattr(sweep, "read_metrics", lambda folder: rows)
    monkeypatch.setattr(
        sweep.api,
        "probe",
        lambda *given, **how: asked.append((given, how)) or [SimpleNamespace(accuracy=5.0 if how["initial"] else 7.0)],
    )
    config = replace(tiny, seed=3, device="cuda:1")
    sweep._trained((config, str(tmp_path), sweep.Probe("digits:train", "digits:test", "digits"), {}), print)
    assert asked == [
        (
            (tmp_path, "digits:train", "digits:test"),
            {"test_views": "digits", "seed": 3, "initial": initial, "device": "cuda:1"},
        )
        for initial in (False, True)
    ]
    [result] = (json.loads(path.read_text()) for path in tmp_path.glob("result-*.json"))
    assert result["loss"] == 38.5 + 0.25  # of steps 37 to 40, and both sites
    assert (result["accuracy"], result["untrained"]) == (7.0, 5.0)


def test_rows_are_compared_with_untrained_encoders_and_the_first_row_by_seed():
    after = {"bp": {0: 60.0, 1: 62.0, 2: 61.0}, "rf": {2: 54.0, 0: 55.0, 1: 54.0}, "urf": {0: 60.0, 1: 63.0, 2: 61.0}}
    untrained = {0: 50.0, 1: 53.0, 2: 51.0}
    runs = [
        {"config": {"rule": rule, "seed": seed}, "accuracy": accuracy, "untrained": untrained[seed]}
        for rule, of_seeds in after.items()
        for seed, accuracy in of_seeds.items()
    ]
    found = sweep.table({"rule": list(after)}, runs, sweep.Probe("a", "b"))
    assert found.header == [
        "rule",
        "test accuracy (%)",
        "gain over untrained (points)",
        "minus the first row (points)",
        "p, Holm",
    ]
    bp, rf, urf = found.rows
    assert (bp[1].mean, bp[1].n, bp[2].mean) == (61.0, 3, pytest.approx(29 / 3)) and bp[3:] == ["", ""]
    # differences -5, -8, -7: mean -20/3, standard error sqrt(7/9); t of 2 degrees of freedom
    t = (20 / 3) / (7 / 9) ** 0.5
    p = 1 - t / (2 + t**2) ** 0.5
    assert rf[3].mean == pytest.approx(-20 / 3) and rf[3].p == pytest.approx(p) and rf[4] == pytest.approx(2 * p)
    assert urf[3].mean == pytest.approx(1 / 3) and urf[4] == urf[3].p > rf[4]


def test_one_row_or_one_seed_is_compared_with_what_there_is():
    runs = [{"config": {"rule": rule, "seed": 4}, "accuracy": 60.0, "untrained": 50.0} for rule in ("bp", "rf")]
    alone = sweep.table({"rule": ["bp"]}, runs[:1], sweep.Probe("a", "b"))
    assert alone.header[-1] == "gain over untrained (points)" and len(alone.notes) == 1
    [_, rf] = sweep.table({"rule": ["bp", "rf"]}, runs, sweep.Probe("a", "b")).rows
    assert (rf[2].mean, rf[3].mean, rf[3].interval, rf[4]) == (10.0, 0.0, None, "")


def test_seeds_that_vary_together_with_a_field_are_paired_where_both_have_them(tiny, tmp_path):
    varied = {"rate,seed": [[1e-3, 0], [1e-3, 1], [2e-3, 1], [3e-3, 2]]}
    probe = sweep.Probe("digits:train[:60]", "digits:test[:40]")
    found = sweep.run(tiny, varied, tmp_path, engine="own.in_turn", probe=probe)
    [first, second, third] = [row[found.header.index("minus the first row (points)")] for row in found.rows]
    assert (first, second.n, third) == ("", 1, "")
