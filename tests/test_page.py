"""The page: nothing given as text can break it, figures follow its colours, tables sort in a real browser."""

import re
from functools import cache
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
from PIL import Image

from rnnlab import report as pages
from rnnlab.report import Cell, Page, number

SIDES = ("left", "right", "top", "bottom")
NASTY = "<script>alert('x')</script> & \"quotes\""


class Tree(HTMLParser):
    """Collects what is open; an end tag that does not fit fails."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def drawn(**axes):
    made, one = pages.figure(xlabel="steps", ylabel="loss", **axes)
    for kind in range(10):
        one.plot([1, 2, 3], [kind, 2, 1], label=f"cell {kind}", **pages.style(kind))
    pages.legend(one)
    return made


@cache
def whole():
    page = Page(NASTY, lead=NASTY)
    for name in ("one", "two", NASTY):
        page.section(name)
        page.text(NASTY, "warning")
        page.heading(NASTY)
        page.code(NASTY)
        page.figure(drawn(), alt=NASTY, caption=NASTY)
        page.figure(drawn(yscale="log"), alt="another")
        page.table([NASTY, "value"], [[Cell(NASTY, href='x"y'), 2.5], ["b", None], ["a", 10]], NASTY)
        page.details(NASTY, "runs", [(NASTY, NASTY), ("plain", None)])
    return page.html()


def test_text_is_escaped_and_tags_are_closed():
    html = whole()
    assert "<script>alert" not in html
    tree = Tree()
    tree.feed(html)
    assert not tree.open
    assert html.count("<script>") == 1
    assert not re.search(r'(?:src|href)="https?:', html.replace("http://www.w3.org", "")), "it needs nothing but itself"


def test_identifiers_are_unique():
    html = whole().replace('id="runs"', "", 2)
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))


def test_figures_follow_the_page():
    text = pages.themed(pages.render(drawn(), "one"), alt="what it shows", prefix="f1-")
    assert 'role="img" aria-label="what it shows"' in text
    colours = set(re.findall(r"#[0-9a-f]{6}", re.sub(r'url\(#[\w-]+\)|"#[\w-]+"', "", text)))
    assert colours <= {"#ffffff", "#000000"}, "every colour of ours is a variable"
    again = pages.themed(pages.render(drawn(), "one"), alt="what it shows", prefix="f1-")
    assert text == again, "the same figure is the same text"


def test_figures_become_files(tmp_path):
    pages.save(drawn(), tmp_path / "loss.v2")
    corner = Image.open(tmp_path / "loss.v2.png").convert("RGBA").getpixel((0, 0))
    assert corner == (255, 255, 255, 255), "opaque: a viewer may be dark"
    assert b"<svg" in (tmp_path / "loss.v2.svg").read_bytes()


def test_series_can_be_told_apart():
    assert len({tuple(pages.style(kind).items()) for kind in range(32)}) == 32


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(None, "–"), (float("nan"), "–"), (float("inf"), "∞"), (3, "3"), (20000, "20,000"), (0.123456, "0.1235")],
        *[(-0.5, "−0.5"), (1234.5678, "1,235"), (1.5e-7, "1.5×10⁻⁷"), (1e20, "10²⁰"), (123456.7, "123,457")],
    ],
)
def test_numbers_for_people(value, text):
    assert number(value) == text


def test_superscripts_and_readings_are_html():
    page = Page("10⁻³ of it", lead=f"{number(2e-7)} & 10⁻³")
    page.figure(drawn(), alt="a", caption="x⁻¹²", reading="<as> it is")
    page.table(["10²"], [[3e-9]])
    page.code("10⁻³")
    html = page.html()
    assert "<title>10⁻³ of it</title>" in html
    assert "<h1>10<sup>−3</sup> of it</h1>" in html
    assert '<p class="lead">2×10<sup>−7</sup> &amp; 10<sup>−3</sup></p>' in html
    reading = "<p>x<sup>−12</sup></p><p><b>How to read this.</b> &lt;as&gt; it is</p>"
    assert f"<figcaption>{reading}</figcaption>" in html
    assert "3×10<sup>−9</sup></td>" in html
    assert "<pre>10⁻³</pre>" in html


def test_what_diverged_is_sorted_as_a_number():
    page = Page("x")
    page.table(["a"], [[float("inf")], [float("-inf")], [1.5], ["inf"]])
    assert re.findall(r'data-sort="([^"]*)"', page.html()) == ["Infinity", "-Infinity", "1.5"]


@browser.needed
def test_in_a_browser(tmp_path):
    """Tables sort on a click, nothing is wider than the window, the console stays empty, nothing else is asked for."""
    page = Page("Sorting", lead="x")
    page.section("One")
    page.figure(drawn(), alt="a figure")
    page.figure(drawn(), alt="a wide one", is_wide=True)
    page.table(
        ["name", *"bcdefghijklmnop"],
        [[name, *[value] * 15] for name, value in (("x", 10), ("y", 9), ("z", 2.5))],
        NASTY,
    )
    file = tmp_path / "page.html"
    page.write(file)
    with browser.browser() as look:
        for width in (1280, 390):
            look.open(file, width)
            look.run("document.querySelectorAll('th button')[1].click()")
            order = look.run("[...document.querySelectorAll('tbody tr')].map(row => row.cells[0].textContent).join('')")
            assert order == "zyx"
            assert look.run("document.querySelectorAll('th')[1].getAttribute('aria-sort')") == "ascending"
            assert look.run("document.documentElement.scrollWidth") == width
            named = look.run(
                "document.getElementById(document.querySelector('table').getAttribute('aria-labelledby')).textContent"
            )
            assert named == NASTY
            scrolls = look.run("(box => box.scrollWidth > box.clientWidth)(document.querySelector('.table'))")
            assert scrolls == (width == 390)
            assert look.run("document.querySelector('.hint').checkVisibility()") == scrolls, "a narrow table says it"
            right = look.run("document.querySelector('.caption').getBoundingClientRect().right")
            assert right <= width, "a caption is no wider than the window"
        look.open(file, 390)
        dark = [shadow(look, tmp_path / "page.png", scrolled) for scrolled in (0, 10_000)]
        # At the left edge, the first column stays visible.
        assert dark == [(False, True), (False, False)], "the shadow is where the table goes on"
    assert not look.complaints
    assert set(look.requests) == {file.as_uri()}


def shadow(look, file, scrolled):
    """Whether the left and the right edge of the table, scrolled to the side, are darker than the page."""
    look.run(f"document.querySelector('.table').scrollLeft = {scrolled}")
    box = "document.querySelector('.table').getBoundingClientRect()"
    left, right, top, bottom = (look.run(f"{box}.{side} + scrollY * {side in ('top', 'bottom'):d}") for side in SIDES)
    look.picture(file)
    image = Image.open(file).convert("L")
    edges = [[image.getpixel((x, y)) for y in range(int(top), int(bottom))] for x in (int(left) + 1, int(right) - 2)]
    return tuple(float(np.median(edge)) < 245 for edge in edges)
