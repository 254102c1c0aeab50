"""The page: one file that loads nothing, is well formed, and shows hostile names as text."""

from html.parser import HTMLParser

import pytest
import torch

from saccade.errors import InputError
from saccade.report import figures
from saccade.report.page import Code, Facts, Picture, Section, Svg, Text, render, write_page
from saccade.report.tables import Link, Spread, Table

HOSTILE = "<script>alert(1)</script>\" onerror='x' &amp; {{ 7 * 7 }} \x07\udcff</code></title>"
SHOWN = "<script>alert(1)</script>\" onerror='x' &amp; {{ 7 * 7 }}"
VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Elements with their attributes, the text of each kind of element; every element must be closed in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.open = [], {}, []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.words.setdefault(self.open[-1] if self.open else "", []).append(data.strip())


def sections(name="a name"):
    table = Table(
        [name, "x"], [[name, Spread(58.06, 0.31, 3)], [Link(name, "runs/1/a b.yaml"), None]], name, notes=[name]
    )
    svg = figures.loss_curve({name: [(1, 1.0), (2, 0.5)], "other": [(1, 2.0)]}, "epoch", "loss")
    picture = figures.picture(torch.zeros(3, 4, 4, dtype=torch.uint8))
    facts = {name: name, "nested": {"sizes": [1, 28, 28], "none": None, "changed": True, "empty": {}}, "rate": 3e-4}
    return [
        Section(name, [Text(f"{name}\n\nanother"), table, Svg(svg, name)]),
        Section("Second", [Picture(picture, name), Facts(facts), Code(name)]),
    ]


@pytest.mark.parametrize("name", ["a name", HOSTILE])
def test_loads_nothing_and_runs_nothing(name):
    reader = Reader(render(name, name, sections(name)))
    for tag, attributes in reader.elements:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        assert not any(attribute.startswith("on") for attribute in attributes)
        for attribute in ("src", "href", "srcset", "data", "action", "poster"):
            if tag == "a":
                assert attributes["href"] == "runs/1/a b.yaml"
            else:
                assert attributes.get(attribute, "data:").startswith("data:")
    style = "".join(reader.words["style"])
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_names_are_shown_as_text():
    reader = Reader(render(HOSTILE, HOSTILE, sections(HOSTILE)))
    for tag in ("title", "h1", "h2", "p", "th", "td", "a", "span", "figcaption", "dt", "dd", "code"):
        assert any(SHOWN in words for words in reader.words[tag]), tag
    assert (
        reader.words["code"] == [HOSTILE.replace("\x07", "").replace("\udcff", "?")] or SHOWN in reader.words["code"][0]
    )
    assert {attributes["alt"] for tag, attributes in reader.elements if tag == "img"} == {
        "<script>alert(1)</script>\" onerror='x' &amp; {{ 7 * 7 }}  ?</code></title>"
    }


def test_shape_of_the_page():
    html = render("Title", "Sub", sections())
    reader = Reader(html)
    assert html.startswith("<!doctype html>")
    assert ("html", {"lang": "en"}) in reader.elements
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in reader.elements
    assert reader.words["h2"] == ["a name", "Second"]
    assert reader.words["td"] == ["a name", "58.1 ± 0.3", "—"]
    assert "—: missing, no result yet." in reader.words["p"]
    assert {"1, 28, 28", "none", "yes", "0.00030"} <= set(reader.words["dd"])
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert [a["class"] for tag, a in reader.elements if tag == "img"] == ["drawn", "picture"]


def test_written_whole(tmp_path):
    path = write_page(tmp_path / "page.html", "a", "b", sections(HOSTILE))
    assert path.read_text(encoding="utf-8") == render("a", "b", sections(HOSTILE))
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(InputError, match=r"could not be written"):
        write_page(tmp_path / "none" / "page.html", "a", "b", [])


@pytest.mark.parametrize("uri", ["http://example.org/x.png", "javascript:x", "data:text/html,x"])
def test_pictures_from_elsewhere_are_refused(uri):
    with pytest.raises(InputError, match="data URI"):
        Picture(uri, "x")
