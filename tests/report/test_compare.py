"""Two runs side by side: what differs is shown, what agrees is counted, and results stand beside each other."""

import json
from dataclasses import fields, replace

import pytest

import saccade
from saccade.errors import InputError
from saccade.report.compare import _losses, _results, compare
from saccade.report.tables import Spread


@pytest.fixture
def runs(tiny, tmp_path):
    found = [
        saccade.train(config, out=tmp_path / name)
        for name, config in (("bp", tiny), ("rf", replace(tiny, rule="rf", schedule="gll")))
    ]
    for seed in (0, 1):
        saccade.probe(found[0], "digits:train[:60]", "digits:test[:40]", layers=[1, 2], seed=seed)
    saccade.probe(found[1], "digits:train[:60]", "digits:test[:40]", layers=[2])
    return found


def test_differences_and_results(runs, tiny):
    found = compare(runs)
    assert found.names == ["bp", "rf"]
    assert found.configuration == {"schedule": ["e2e", "gll"], "rule": ["bp", "rf"]}
    assert found.surroundings == {} and found.same == len(fields(tiny)) - 2
    assert found.results["finished"] == [True, True]
    rows = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    last = {row["site"]: row["loss"] for row in rows if "loss" in row}
    assert found.results["last loss, site 2"] == [None, last[1]] and found.results["last loss"][1] is None
    accuracies = {name: values for name, values in found.results.items() if "layer 2" in name}
    [[ours, theirs]] = accuracies.values()
    assert isinstance(ours, Spread) and ours.n == 2 and theirs.n == 1
    [missing] = [values[1] for name, values in found.results.items() if "layer 1" in name]
    assert missing is None
    said = found.as_dict()
    assert json.loads(json.dumps(said)) == said
    table = next(table for table in found.tables() if "Configuration" in table.caption)
    assert (
        table.rows == [["schedule", "e2e", "gll"], ["rule", "bp", "rf"]]
        and f"other {found.same} fields" in table.notes[0]
    )


def test_a_page_holds_tables_and_curves(runs, tmp_path):
    saccade.compare(runs, page=tmp_path / "compared.html")
    page = (tmp_path / "compared.html").read_text()
    assert "Configuration, where it differs" in page and page.count("data:image/svg") == 2 and "<script" not in page


def test_what_differs_around_a_run_is_shown(runs, tmp_path):
    path = runs[1] / "run.json"
    facts = json.loads(path.read_text())
    facts["versions"]["torch"] = "2.9.0"
    facts["finished"] = False
    path.write_text(json.dumps(facts))
    found = compare(runs)
    assert list(found.surroundings) == ["versions: torch"] and found.surroundings["versions: torch"][1] == "2.9.0"
    assert found.results["finished"] == [True, False]


def test_runs_of_one_name_go_by_their_paths(runs, tmp_path):
    (tmp_path / "other").mkdir()
    (runs[1]).rename(tmp_path / "other" / "bp")
    assert compare([runs[0], tmp_path / "other" / "bp"]).names == [str(runs[0]), str(tmp_path / "other" / "bp")]


def test_what_cannot_be_compared(runs, tmp_path):
    for given, words in (
        (runs[:1], "two different runs"),
        ([runs[0], runs[0]], "two different runs"),
        ([runs[0], tmp_path / "nothing"], "no run's folder"),
    ):
        with pytest.raises(InputError, match=words):
            compare(given)


def test_the_last_loss_is_the_last(tmp_path):
    rows = [{"step": k, "epoch": k / 2, "site": 0, "loss": 9.0 - k} for k in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _losses(tmp_path) == {"": [(0.5, 8.0), (1.0, 7.0), (1.5, 6.0)]}
    assert _results(tmp_path, {})["last loss"] == 6.0
