import json

import pytest

from saccade.api import audit
from saccade.data import load
from saccade.report.audit import (
    Audited,
    as_data,
    circuit_section,
    facts,
    matrix,
    plausibility_against_performance,
    sections,
    verdicts,
    violated,
)
from saccade.report.page import render
from saccade.report.tables import Spread

NETWORK = {"network": "conv32 tanh maxpool | conv40 tanh maxpool", "views": "digits"}


@pytest.fixture(scope="module")
def audited():
    images = load("digits:train[:64]")
    plausible = {"loss": "hinge(negatives=1, block=true)", "schedule": "rll", "optimizer": "sgd"}
    return [
        Audited(
            ("simclr", "E2E", "BP", ""), audit(images=images, loss="simclr", **NETWORK), Spread(50.0, 1.0, 3), 72.44
        ),
        Audited(("hinge", "RLL", "URF", ""), audit(images=images, rule="urf", **plausible, **NETWORK)),
    ]


def test_matrix(audited):
    rows = matrix(audited, ("loss", "learning", "update", "variant"), "A caption").rows
    assert rows[0][4:9] == ["no: loss", "no: loss", "no: loss", "no: rule", "met"]
    assert rows[0][9:] == ["no: divides", Spread(50.0, 1.0, 3), 72.44]
    assert rows[1][4:] == ["met", "met", "met", "met, offset", "met", "met", None, None]
    assert [violated(one.report) for one in audited] == [3, 0]


def test_verdicts_come_with_evidence_and_violations_first(audited):
    table = verdicts(audited[0].report)
    kinds = [row[2] for row in table.rows]
    assert kinds == sorted(kinds, key=["violated", "met"].index)
    assert all(row[3] for row in table.rows)
    assert "feedback over time" in facts(audited[1].report)


def test_data_is_json(audited):
    data = json.loads(json.dumps([as_data(one) for one in audited]))
    assert data[0]["accuracy"]["mean"] == 50.0
    assert data[1]["verdicts"]["simple"] == "met"


def test_page_and_figures(audited):
    page = render("Audit", "", sections(audited, ("loss", "learning", "update", "variant"), "A caption"))
    assert "no: divides" in page
    assert page.count("data:image/svg+xml") == 3
    assert len(sections(audited[:1], ("loss", "learning", "update", "variant"), "A caption")) == 1
    assert plausibility_against_performance(audited).startswith("<svg")
    assert all(block.svg.startswith("<svg") for block in circuit_section().blocks)
