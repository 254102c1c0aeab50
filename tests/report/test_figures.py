"""Figures: the same bytes each time, nothing changed outside, and what is drawn is what was given."""

import base64
import io
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from saccade.errors import InputError
from saccade.report import figures
from saccade.report.tables import Spread

PAIRS = (np.linspace(0.1, 0.9, 40), np.linspace(0.5, 2.5, 200))


def drawn():
    """Every figure once, with names that a matplotlib or XML reader might take for its own."""
    return {
        "loss": figures.loss_curve({"_a $x$": [(1, 2.0), (2, 1.0)], "<b>&\x00": [(3, 0.5)]}, "epoch", "loss"),
        "lines": figures.lines({"ours": [(0, Spread(50.0, 2.0, 3)), (1, Spread(55.0, None, 1))]}, "layer", "%"),
        "distances": figures.distances(PAIRS, (PAIRS[0], PAIRS[1] + 1), 1, 3),
        "bars": figures.bars(
            {"random": {"plain": Spread(95.0, 1.0, 3), "deformed": None}, "ours": {"plain": 98.0}}, "%"
        ),
    }


def texts(monkeypatch, draw):
    """The words of a figure, drawn as text in place of paths."""
    monkeypatch.setitem(figures._LOOK, "svg.fonttype", "none")
    return ["".join(e.itertext()) for e in ET.fromstring(draw()).iter("{http://www.w3.org/2000/svg}text")]


def test_same_bytes_whatever_matplotlib_is_set_to():
    first = drawn()
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        assert drawn() == first
        assert dict(matplotlib.rcParams) == before


def test_each_is_a_lone_svg_that_loads_nothing():
    for svg in drawn().values():
        assert svg.startswith("<svg")
        root = ET.fromstring(svg)
        for element in root.iter():
            assert not element.tag.endswith(("script", "image", "metadata"))
            links = [v for k, v in element.attrib.items() if k.endswith("href")]
            assert all(link.startswith("#") for link in links)


def test_names_are_drawn_as_they_are(monkeypatch):
    words = texts(
        monkeypatch, lambda: figures.loss_curve({"_a $x$": [(1, 2.0)], "<b>&\x00": [(1, 1.0)]}, "epoch $", "loss")
    )
    assert {"_a $x$", "<b>&", "epoch $", "loss"} <= {word.strip() for word in words}


def test_margins_are_named_and_left_out_where_there_are_none(monkeypatch):
    words = texts(monkeypatch, lambda: figures.distances(PAIRS, PAIRS, 1.0, 1.5))
    assert words.count("m1 = 1") == words.count("m2 = 1.5") == 2
    assert {"Before training", "After training", "positive pairs", "negative pairs"} <= set(words)
    assert not any(
        word.startswith("m1") for word in texts(monkeypatch, lambda: figures.distances(PAIRS, PAIRS, None, None))
    )


def test_bars_say_their_values_and_what_is_missing(monkeypatch):
    groups = {"random": {"plain": Spread(95.06, 1.0, 3), "deformed": None}, "ours": {"plain": 98.0, "deformed": 79.0}}
    words = texts(monkeypatch, lambda: figures.bars(groups, "accuracy (%)"))
    assert {"95.1", "missing", "98.0", "79.0", "random", "ours", "plain", "deformed", "accuracy (%)"} <= set(words)


def test_histograms_hold_every_pair_once(monkeypatch):
    seen = []
    real = np.histogram
    monkeypatch.setattr(np, "histogram", lambda *a: seen.append(real(*a)) or seen[-1])
    far = np.append(PAIRS[1], 1e6)  # one pair that would squeeze all others together
    figures.distances((torch.tensor(PAIRS[0]), far), (list(PAIRS[0]), far), 1, 3)
    assert [int(counts.sum()) for counts, _ in seen] == [40, 201, 40, 201]
    assert all(edges[-1] == pytest.approx(3.75) for _, edges in seen)


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")]])
def test_distances_that_cannot_be_drawn(bad):
    with pytest.raises(InputError, match="finite"):
        figures.distances(PAIRS, (PAIRS[0], bad), 1, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_gives_back_its_pixels(channels):
    image = torch.arange(channels * 20, dtype=torch.uint8).reshape(channels, 4, 5)
    kind, data = figures.picture(image).split(",")
    assert kind == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(pixels, image.expand(3, 4, 5).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 5), torch.zeros(4, 4, 5, dtype=torch.uint8), torch.zeros(4, 5)])
def test_picture_refuses_other_tensors(image):
    with pytest.raises(InputError, match=r"uint8 \(3, height, width\)"):
        figures.picture(image)


def test_maps_colour_every_class_and_refuse_nothing_to_draw():
    places = {f"layer {k}": [(float(i), float(i * k)) for i in range(6)] for k in (1, 2, 3)}
    svg = figures.maps(places, [0, 1, 2, 0, 1, 2], ["cat", "ship", "dog"], {"ship"})
    assert svg.startswith("<svg") and svg == figures.maps(places, [0, 1, 2, 0, 1, 2], ["cat", "ship", "dog"], {"ship"})
    assert svg != figures.maps(places, [1, 1, 2, 0, 1, 2], ["cat", "ship", "dog"], {"ship"})


def test_pair_histograms_have_a_panel_each():
    pairs = ([0.5, 0.7], [1.0, 2.0, 3.0])
    one, two = (figures.pair_histograms(dict.fromkeys(names, pairs), 1.0, 3.0) for names in (["a"], ["a", "b"]))
    assert len(two) > len(one)
    with pytest.raises(InputError, match="not all there"):
        figures.pair_histograms({"a": ([], [1.0])}, None, None)


def test_a_band_is_one_standard_deviation_each_way(monkeypatch):
    bands = []
    monkeypatch.setattr(Axes, "fill_between", lambda axes, x, low, high, **look: bands.append((x, low, high)))
    figures.lines({"ours": [(1, Spread(50.0, 2.0, 3)), (2, Spread(55.0, None, 1))]}, "layer", "%")
    assert bands == [([1.0, 2.0], [48.0, 55.0], [52.0, 55.0])]


def test_a_name_has_the_same_line_in_every_panel_and_once_in_the_legend(monkeypatch):
    drawn = []
    real = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda axes, *a, **look: drawn.append((look["color"], a)) or real(axes, *a, **look)
    )
    groups = {"all": {"a": [(1, 2.0)], "b": [(1, 3.0)]}, "five": {"b": [(1, 4.0)], "c": [(1, 5.0)]}}
    words = texts(monkeypatch, lambda: figures.panels(groups, "layer", "%"))
    a, b, again, c = drawn
    assert b[0] == again[0] and len({a[0], b[0], c[0]}) == 3
    assert [place for _, place in drawn] == [([1.0], [2.0]), ([1.0], [3.0]), ([1.0], [4.0]), ([1.0], [5.0])]
    assert [words.count(word) for word in ("a", "b", "c", "all", "five", "layer", "%")] == [1, 1, 1, 1, 1, 1, 2]
