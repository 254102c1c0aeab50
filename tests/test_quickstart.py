"""The quickstart's rows: each number comes from the run, the images and the views that its row and column name."""

from types import SimpleNamespace

import pytest

from saccade import api, quickstart
from saccade.errors import InputError
from saccade.report.tables import spread


@pytest.fixture
def asked(monkeypatch):
    """Configurations by folder; a score says what it is of: start 100, classifier 50, views 20, deformed 1, seed 0.1 each."""
    trained = {}

    def score(folder, views, **others):
        config = trained[folder]
        return 20 * (config.views != "none") + (views == quickstart.VIEWS) + config.seed / 10 + sum(others.values())

    def evaluate(folder, test, *, test_views=None):
        assert test == quickstart.TEST
        return score(folder, test_views, classifier=50)

    def probe(folder, train, test, *, test_views, initial, seed):
        assert (train, test, seed) == (quickstart.TRAIN, quickstart.TEST, trained[folder].seed)
        return [SimpleNamespace(accuracy=score(folder, test_views, start=100 * initial))]

    monkeypatch.setattr(api, "train", lambda config, *, out, progress: trained.update({out: config}))
    monkeypatch.setattr(api, "evaluate", evaluate)
    monkeypatch.setattr(api, "probe", probe)
    monkeypatch.setattr(api, "run_page_sections", lambda run: [])
    in_turn = lambda function, tasks, progress: {name: function(task, print) for name, task in tasks.items()}  # noqa: E731
    monkeypatch.setattr(quickstart, "side_by_side", in_turn)
    return trained


def test_each_row_is_what_its_name_says(asked, tmp_path):
    table, page = quickstart.run(tmp_path / "out", 2, everything=True)
    rows = {name: (plain, deformed) for name, plain, deformed in table.rows}
    of = {quickstart.RANDOM: 120, quickstart.WITH_LABELS: 50, quickstart.OURS: 20, quickstart.UPPER_MARK: 70}
    for name, base in (of | dict.fromkeys(quickstart.OTHERS, 20)).items():
        assert rows.pop(name) == tuple(spread([base + off, base + off + 0.1]) for off in (0, 1))
    assert not rows and page.exists()
    losses = {config.loss for folder, config in asked.items() if folder.name.startswith("with-labels")}
    assert losses == {"cross-entropy"} and len(asked) == 2 * (3 + len(quickstart.OTHERS))


def test_what_is_asked_for_again_keeps_what_was_measured(asked, tmp_path, monkeypatch):
    kept = tmp_path / "results.json"
    quickstart.run(tmp_path, 1)
    first = kept.read_bytes()
    monkeypatch.setattr(quickstart, "surroundings", lambda: {"command": "again"})
    quickstart.run(tmp_path, 1)
    assert kept.read_bytes() == first
    quickstart.run(tmp_path, 2)
    assert b'"again"' in kept.read_bytes()


def test_results_that_cannot_be_read_are_refused_before_anything_is_trained(asked, tmp_path):
    kept = tmp_path / "results.json"
    kept.write_text("half of")
    with pytest.raises(InputError, match="results.json cannot be read .*; it takes what quickstart wrote there"):
        quickstart.run(tmp_path, 1)
    assert not asked and kept.read_text() == "half of"
