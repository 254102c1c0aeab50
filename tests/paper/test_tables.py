"""The paper's tables as data: what every cell asks for can be trained, and the published numbers are the paper's."""

import pytest

from saccade.config.grammar import parse_call
from saccade.config.run import check, head_of
from saccade.config.view_names import resolve
from saccade.errors import InputError
from saccade.paper import FIGURES, NAMES, TABLES, scaled
from saccade.paper.run import home
from saccade.paper.scales import CIFAR, MNIST, ROBUST, STL, runs_of, strengths
from saccade.paper.scores import config_of


def test_every_name_of_the_issue_is_there():
    wanted = {*(f"table{k}" for k in range(1, 5)), *(f"figure{k}" for k in range(1, 10))}
    assert set(NAMES) == wanted | {"pooling", "supplement-b", "supplement-c"}


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_can_be_configured_at_every_scale(name):
    table = TABLES[name]
    assert len({cell.name for cell in table.cells}) == len(table.cells)
    for scale in table.scales.values():
        assert scale.name in scale.said()
        for cell in table.cells:
            config = config_of(cell, scale, 0, 50_000)
            check(config)
            steps = round(config.epochs * (50_000 // config.batch))
            if not cell.supervised:  # all of the scale's pairs, and less than a batch more
                assert 0 <= steps * config.batch - scale.pairs < config.batch


def test_what_learns_from_what():
    cells = {cell.name: cell for cell in TABLES["table3"].cells}
    views = {
        name: config_of(cells[name], ROBUST["tiny"], 0, 5_000).views for name in ("supervised", "supervised-deformed")
    }
    assert views == {"supervised": "none", "supervised-deformed": "deformed-cifar(p=0.2)"}
    [same] = [cell for cell in TABLES["table1"].cells if cell.name == "hinge-e2e-bp-full-same"]
    assert config_of(same, CIFAR["tiny"], 0, 45_000).data == "cifar10:train[:45000]"


@pytest.mark.parametrize(
    ("name", "changes", "rate"),
    [
        ("paper", {}, 1e-4),
        ("small", {}, 1e-4),  # where the others have 3e-4
        ("small", {"rate": 1e-3}, 1e-4),
        ("small", {"dtp_rate": 2e-4}, 2e-4),
        ("digits", {}, 5e-4),  # as the others
    ],
)
def test_dtp_has_a_rate_of_its_own_that_its_inverses_can_follow(name, changes, rate):
    for table, cell in (("table1", "hinge-e2e-dtp-full"), ("pooling", "supervised-dtp-strided")):
        found = {one.name: one for one in TABLES[table].cells}
        scale = scaled(TABLES[table].scales, name, **changes)
        assert config_of(found[cell], scale, 0, 50_000).rate == rate
    assert config_of(found["supervised-dtp-strided"], scale, 0, 50_000).rule == "dtp"
    others = {one.name: one for one in TABLES["table1"].cells}["hinge-e2e-bp-full"]
    assert config_of(others, scale, 0, 50_000).rate == scale.rate
    assert ("(DTP" in scale.said()) == (rate != scale.rate)


@pytest.mark.parametrize(
    ("name", "images", "epochs", "batch", "rate", "sets", "margins"),
    [
        ("table1", 50_000, 400, 500, 1e-4, ("cifar100:train", "cifar10:train[:45000]", "cifar10:test"), {}),
        ("table2", 50_000, 100, 250, 1e-4, ("stl10:unlabeled[:50000]", "stl10:train", "stl10:test"), {}),
        ("table3", 50_000, 400, 500, 1e-4, ("cifar100:train", "cifar10:train", "cifar10:test"), {}),
        ("table4", 124_800, 400, 1000, 1e-3, ("emnist-letters:train", "mnist:train", "mnist:test"), {"m2": 1.5}),
    ],
)
def test_paper_scale_is_the_papers_protocol(name, images, epochs, batch, rate, sets, margins):
    table, seen = TABLES[name], 0
    scale = table.scales["paper"]
    assert scale.sets == sets
    for cell in table.cells:
        config = config_of(cell, scale, 0, images)
        if not cell.trained or cell.supervised:
            continue
        seen += 1
        patches = "-patches" in config.loss
        assert config.batch == (16 if patches else batch)
        steps = round(config.epochs * (images // config.batch))
        assert steps == epochs * (images // config.batch)  # of each layer: gll and rll multiply it by their number
        pairs = {"hinge-e2e-bp-sgd-constrained": 500 * 5, "hinge-e2e-bp-sgd-full": 500 * 499}
        sgd = 50 / pairs[cell.name] if cell.name in pairs else 1
        own = 1e-4 if config.rule == "dtp" else rate
        assert config.rate == pytest.approx(own * sgd) and (config.network, config.precision) == (
            scale.network,
            "auto",
        )
        assert head_of(config) == ("avgpool flatten linear64" if name == "table2" else "flatten linear64")
        assert config.optimizer == ("sgd" if cell.name.startswith("hinge-e2e-bp-sgd") else "adam")
        loss = parse_call(config.loss)
        if loss.name == "hinge":
            assert {key: value for key, value in loss.options.items() if key[0] == "m"} == margins
        if patches:
            assert config.loss == "clapp-patches(reading=authors)" and config.size == 64
            assert config.views == "window flip grey(p=1) standardize(mean=0.412, std=0.257)"
        else:
            assert config.views == ("digits" if name == "table4" else "paper")
    assert seen > 10
    probe = {"table1": (400, 1e-3), "table2": (200, 5e-3), "table3": (400, 1e-3), "table4": (200, 1e-3)}[name]
    assert (scale.probe_epochs, scale.probe_rate) == probe
    # Table 2's heads and probe average over 2x2 places: 1024 channels of 2x2 are left of VGG6's 4x4.
    assert scale.pool_to == (4096 if name == "table2" else None)
    assert (scale.probe_views, scale.sizes) == (
        "window flip" if name == "table2" else "none",
        (5_000, 50_000) if name == "table3" else (),
    )


def test_figure_8_of_the_paper_looks_into_table_2():
    table = TABLES["figure8"]
    [cell] = [cell for cell in table.cells if cell.name == "hinge-gll-bp-5"]
    assert cell.options == next(c.options for c in TABLES["table2"].cells if c.name == cell.name)
    assert runs_of("figure8", table.scales["paper"]) == runs_of("table2", TABLES["table2"].scales["paper"])


def test_published_numbers():
    table1 = [(cell.published, cell.column) for cell in TABLES["table1"].cells if cell.published]
    assert len(table1) == 22  # 9 rows in two columns, SimCLR, two of CLAPP, random
    assert sum(number for number, _ in table1) == pytest.approx(
        71.44 + 71.29 + 61.70 + 2 * 72.76 + 67.83 + 2 * 71.35 + 65.94  # all negatives
        + 70.35 + 67.74 + 63.61 + 2 * 71.14 + 66.52 + 2 * 71.17 + 65.49  # gradient block, 5 negatives
        + 72.44 + 69.05 + 68.93 + 61.23
    )  # fmt: skip
    assert [cell.published for cell in TABLES["table2"].cells if cell.row[1:] == ("E2E", "DTP")] == [None, None]
    assert not any(cell.published for name in ("table3", "table4") for cell in TABLES[name].cells)
    assert [cell.published for cell in TABLES["pooling"].cells] == [71.29, 39.42, 67.74, None, 71.0, 58.0]


def test_comparisons_name_cells():
    compared = {name: table for name, table in TABLES.items() if table.compared}
    assert set(compared) == {"table1", "table2", "table3", "table4", "pooling", "supplement-c"}
    for table in compared.values():
        families = table.compared
        assert {len(pairs) for family, pairs in families.items() if "E2E BP" in family} <= {6}
        assert {name for pairs in families.values() for pair in pairs for name in pair} <= {c.name for c in table.cells}
    families = TABLES["table1"].compared
    published = {cell.name: cell.published for cell in TABLES["table1"].cells}
    orders = [pairs for family, pairs in families.items() if "layer-wise RF" in family]
    assert [len(pairs) for pairs in orders] == [6, 6]
    assert all(published[this] > published[other] for pairs in orders for this, other in pairs)


def test_changes_are_in_the_scales_name():
    changed = scaled(CIFAR, "tiny", views="affine-hsv(u=0.1, hue=0.1)", pairs=500, probe_set="cifar10:train[:900]")
    assert changed.name == "tiny,views=affine-hsv_u=0.1_hue=0.1-70a090,pairs=500,probe_set=cifar10_train_900-2c35f2"
    assert (changed.views, changed.pairs, changed.sets[1]) == ("affine-hsv(u=0.1, hue=0.1)", 500, "cifar10:train[:900]")
    assert scaled(CIFAR, "tiny", pairs=25_000, views=None) == CIFAR["tiny"]
    rest = [scaled(CIFAR, "tiny", probe_set=f"cifar10:train[{piece}]").name for piece in (":5000", "5000:")]
    assert len(set(rest)) == 2
    stronger = scaled(ROBUST, "tiny", strength=0.4)
    assert stronger.test_views == "deformed-cifar(p=0.4)"
    assert runs_of("table3", stronger) == runs_of("table1", CIFAR["tiny"]) == "table1/tiny"
    assert runs_of("table1", changed) != runs_of("table1", CIFAR["tiny"])


def test_the_authors_reading_goes_to_few_negatives_alone():
    scale = scaled(CIFAR, "tiny", negatives="authors")
    losses = {cell.column: config_of(cell, scale, 0, 50_000).loss for cell in TABLES["table1"].cells[:2]}
    assert losses["all negatives"] == "hinge"
    assert "reading=authors" in losses["gradient block, 5 negatives"]
    scale = scaled(STL, "tiny", negatives="authors")  # by which one negative would be none
    losses = {cell.column: config_of(cell, scale, 0, 50_000).loss for cell in TABLES["table2"].cells[:2]}
    assert "reading=authors" in losses["5 negatives"] and losses["1 negative"] == "hinge(negatives=1)"


def test_readings_go_to_the_losses_and_rules_of_that_name():
    scale = scaled(CIFAR, "tiny", readings="dtp(order=targets, head=random) clapp(reduction=mean, negatives=1)")
    assert scale.name.startswith("tiny,readings=dtp_order=targets_head=random") and "dtp(order=targets" in scale.said()
    plain = {cell.name: config_of(cell, CIFAR["tiny"], 0, 50_000) for cell in TABLES["table1"].cells}
    changed = {cell.name: config_of(cell, scale, 0, 50_000) for cell in TABLES["table1"].cells}
    assert changed["hinge-e2e-dtp-full"].rule == "dtp(order=targets, head=random)"
    assert changed["hinge-e2e-dtp-full"].rate == plain["hinge-e2e-dtp-full"].rate == 1e-4
    assert changed["clapp-e2e-bp"].loss == "clapp(reduction=mean, negatives=1)"
    same = [name for name in plain if plain[name] == changed[name]]
    assert len(same) == len(plain) - 4  # two of DTP, two of CLAPP


def test_a_reading_does_not_train_anew_what_it_leaves_be():
    scale, cells = scaled(CIFAR, "tiny", negatives="authors"), {cell.name: cell for cell in TABLES["table1"].cells}
    assert home(TABLES["table1"], cells["hinge-e2e-bp-full"], scale) == "table1/tiny"
    assert home(TABLES["table1"], cells["hinge-e2e-bp-constrained"], scale) == "table1/tiny,negatives=authors"
    for name in ("pooling", "supplement-c"):
        shared = [cell for cell in TABLES[name].cells if cell.name in cells]
        assert len(shared) == 2
        for cell in shared:
            assert home(TABLES[name], cell, TABLES[name].scales["tiny"]) == "table1/tiny"
            ours, first = (config_of(one, CIFAR["tiny"], 0, 50_000) for one in (cell, cells[cell.name]))
            assert ours == first


def test_vgg6s_cells_are_left_out_where_the_network_is_another():
    names = [
        {cell.name for cell in TABLES["figure8"].at(TABLES["figure8"].scales[s]).cells} for s in ("paper", "small")
    ]
    assert names[0] - names[1] == {"hinge-gll-bp-5", "hinge-e2e-bp-5"} and not names[1] - names[0]


def test_margins_go_to_the_hinge_and_into_name_and_caption():
    scale = scaled(STL, "mini", m1=0.25, m2=0.5)
    assert scale.name == "mini,m1=0.25,m2=0.5" and ", m1=0.25, m2=0.5; " in scale.said()
    losses = {cell.name: config_of(cell, scale, 0, 50_000).loss for cell in TABLES["table2"].cells}
    assert losses["hinge-e2e-bp-5"] == "hinge(m1=0.25, m2=0.5, negatives=5)"
    assert not any("m1" in loss for cell, loss in losses.items() if not cell.startswith("hinge"))
    assert scaled(MNIST, "mini", m1=0.5).margins == {"m1": 0.5, "m2": 1.5}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pairs": 0}, "pairs is 0"),
        ({"m2": 0.0}, "m2 is 0.0"),
        ({"negatives": "mine"}, "paper or authors"),
        ({"views": "flop"}, "flop"),
        ({"strength": 2.0}, "low|high"),
        ({"readings": "hinge(negatives=1)"}, "m1, m2 and negatives"),
        ({"readings": "dtp"}, "options by name"),
        ({"readings": "foo(order=1) dtp(order=targets)"}, "readings has foo"),
        ({"batch": 1}, "batch is 1; it takes at least 2"),
    ],
)
def test_changes_that_cannot_be_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        scaled(ROBUST, "tiny", **changes)


def test_strengths_grow():
    assert list(strengths("deformed-cifar(p=0.3)")) == ["0.05", "0.1", "0.2", "0.3", "0.4", "0.6", "0.8"]
    asked = scaled(ROBUST, "tiny", strength=0.5).test_views
    assert list(strengths(asked)) == ["0.05", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.8"]
    assert scaled(MNIST, "tiny", strength=1.0) == MNIST["tiny"]  # as it is, in other words
    assert strengths("digits")["1"] == "digits(rotation=30, log_scale=0.3, shift=0.2)"
    assert scaled(MNIST, "tiny", strength=0.5).test_views == strengths("digits")["0.5"]
    assert strengths("none") == strengths("digits flip") == {}


@pytest.mark.parametrize(
    ("views", "own"),
    [
        ("deformed-cifar(p=0.2, shared=1)", "0.2"),
        ("deformed-cifar(p=0.25, hue=0.05)", "0.25"),
        ("digits(rotation=60, log_scale=0.6, shift=0.4)", "2"),
        ("digits(rotation=45)", "1"),
    ],
)
def test_a_policy_is_among_its_own_strengths(views, own):
    assert resolve(strengths(views)[own]) == resolve(views)
    assert len({str(resolve(policy)) for policy in strengths(views).values()}) == len(strengths(views)) >= 6
    assert all(("shared=1" in policy) == ("shared=1" in views) for policy in strengths(views).values())


def test_figures_and_their_scales():
    assert all(figure.scales for figure in FIGURES.values())
