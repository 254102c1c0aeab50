"""Audits as tables, figures and pages, and the paper's tables of them."""

import json
from dataclasses import asdict

import pytest

from saccade.api import audit
from saccade.data import load
from saccade.paper.audits import audited, config_of
from saccade.paper.tables import TABLES, Cell
from saccade.plausibility.verdict import Report
from saccade.report.audit import (
    Audited,
    as_data,
    circuit_section,
    facts,
    matrix,
    plausibility_against_performance,
    section,
    sections,
    verdicts,
    violated,
)
from saccade.report.page import render
from saccade.report.tables import Spread

NETWORK = {"network": "conv32 tanh maxpool | conv40 tanh maxpool", "views": "digits"}


@pytest.fixture(scope="module")
def several():
    images = load("digits:train[:64]")
    plausible = {"loss": "hinge(negatives=1, block=true)", "schedule": "rll", "optimizer": "sgd"}
    simclr, urf = (
        audit(images=images, **(options | NETWORK)) for options in ({"loss": "simclr"}, plausible | {"rule": "urf"})
    )
    return [
        Audited("table1/a", ("SimCLR", "E2E", "BP", "all"), simclr, {"tiny": Spread(50.0, 1.0, 3)}, 72.44),
        Audited("table1/b", ("hinge", "RLL", "URF", "one"), urf),
        Audited("table1/random", ("random encoder", "", "", ""), None, {"tiny": Spread(45.0, 2.0, 3)}, 61.23),
    ]


def test_matrix(several):
    table = matrix(several, "A caption")
    first, second, random = table.rows
    assert table.header[-2:] == ["published (%)", "ours, tiny (%)"]
    assert first[:2] == ["1", "SimCLR, E2E, BP; all"]
    assert first[2:] == [*["no: loss"] * 3, "no: rule", "met", "no: division", 72.44, Spread(50.0, 1.0, 3)]
    assert second[2:] == ["met", "met", "met", "met, offset", "met", "met", None, None]
    assert random[1:4] == ["random encoder", "nothing learns", "nothing learns"]
    assert random[-2:] == [61.23, Spread(45.0, 2.0, 3)]
    assert [violated(one.report) for one in several[:2]] == [3, 0]


def test_verdicts_come_with_evidence_and_violations_first(several):
    table = verdicts(several[0].report)
    kinds = [row[2] for row in table.rows]
    assert kinds == sorted(kinds, key=["violated", "met"].index)
    assert all(row[3] for row in table.rows)
    assert "feedback over time" in facts(several[1].report)


def test_data_is_json_and_comes_back(several):
    data = json.loads(json.dumps(as_data(several)))
    assert data["table1/a"]["ours"]["tiny"]["mean"] == 50.0
    assert data["table1/b"]["audit"]["verdicts"]["simple"] == "met"
    assert data["table1/random"]["audit"] is None
    assert Report.from_dict(data["table1/b"]["audit"]) == several[1].report


def test_page_and_figures(several):
    page = render("Audit", "", sections(several, "A caption"))
    assert "no: division" in page
    assert page.count("data:image/svg+xml") == 3
    assert [len(section(one.report, "One").blocks) for one in several[:2]] == [
        2,
        3,
    ]  # angles, where there are feedback weights
    assert plausibility_against_performance(several).startswith("<svg")
    assert all(block.svg.startswith("<svg") for block in circuit_section().blocks)


def test_tables_are_audited_once_a_configuration(tmp_path, several, monkeypatch):
    asked = {}

    def made(function, tasks, **options):
        asked.update(tasks)
        return dict.fromkeys(tasks, several[1].report)

    monkeypatch.setattr("saccade.paper.audits.side_by_side", made)
    folder = tmp_path / "table1" / "tiny"
    folder.mkdir(parents=True)
    for seed, accuracy in enumerate((50.0, 52.0)):
        result = {
            "table": "table1",
            "cell": "hinge-e2e-rf-full",
            "seed": seed,
            "accuracy": accuracy,
            "command": "",
            "date": "",
        }
        result |= {
            "config": {},
            "run": {},
            "source": {},
            "versions": {"torch": ""},
            "hardware": {"processor": "", "threads": 1},
        }
        result["scale"] = asdict(TABLES["table1"].scales["tiny"])
        (folder / f"hinge-e2e-rf-full-seed{seed}.json").write_text(json.dumps(result))
    found = audited(tmp_path)
    assert [(one.key, one.ours["tiny"].mean, one.ours["tiny"].n) for one in found if one.ours] == [
        ("table1/hinge-e2e-rf-full", 51.0, 2)
    ]
    trained = [cell for cell in TABLES["table1"].cells if cell.trained]
    names = {one.key for one in found if one.table == "table1"}
    assert {f"table1/{cell.name}" for cell in trained if cell.published is not None} < names
    configs = [repr(config) for config, _ in asked.values()]
    assert len(configs) == len(set(configs))
    assert "table1/plausible" in asked
    assert "table1/random" in names and "table1/random" not in asked
    again = audited(tmp_path, dict.fromkeys(asked, several[1].report))
    assert [one.key for one in again] == [one.key for one in found]


def test_cells_of_a_table_train_its_network():
    cell = Cell("one", ("hinge",), "", {"loss": "hinge(negatives=1)"})
    assert (config_of("table1", cell).network, config_of("table2", cell).network) == ("cifar", "vgg6")
