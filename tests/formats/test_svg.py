"""Drawings as SVG: places on the grid, and files that other programs can read."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from rnnlab.formats.svg import GREY, Line, grid, svg

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10.0]])


def test_drawings_are_centred_in_their_cells_and_keep_their_proportions():
    drawings = [[Line(SQUARE * factor + shift)] for factor, shift in ((1, 0), (2, 500), (100, -9), (0.5, 3), (2, 7))]
    boxes = [line.points for line in grid(drawings, columns=3, side=50)]
    for number, box in enumerate(boxes):
        row, column = divmod(number, 3)
        np.testing.assert_allclose((box.min(0) + box.max(0)) / 2, [50 * column + 25, 50 * row + 25])
    # The median drawing (factor 2) and larger ones fill 0.8 of a cell; smaller ones keep their relative size.
    for box, size in zip(boxes, (20, 40, 40, 10, 40), strict=True):
        assert np.ptp(box, axis=0) == pytest.approx([size, size])


def test_a_wide_drawing_fits_into_its_cell():
    (line,) = grid([[Line(np.array([[0, 0], [30, 10.0]]))]], columns=1, side=100)
    assert np.ptp(line.points, axis=0) == pytest.approx([80, 80 / 3])


def test_drawings_without_points_or_extent_have_a_place():
    drawings = [[], [Line(np.zeros((1, 2)))], [Line(np.ones((3, 2)), GREY)]]
    dot, still = grid(drawings, columns=2, side=10)
    np.testing.assert_allclose(dot.points, [[15, 5]])
    np.testing.assert_allclose(still.points, [[5, 15]] * 3)
    assert still.colour == GREY


def test_a_file_is_xml_with_the_points_of_each_line():
    lines = [Line(np.array([[1, 2], [3, 4.25], [-5, 6]]), GREY), Line(np.array([[7, 8.0]]))]
    root = ElementTree.fromstring(svg(lines, 40, 20))
    space = {"svg": "http://www.w3.org/2000/svg"}
    assert root.attrib["viewBox"] == "0 0 40 20"
    paths = root.findall(".//svg:path", space)
    assert [path.attrib["stroke"] for path in paths] == [line.colour for line in lines]
    found = [[float(number) for number in re.findall(r"-?\d+\.?\d*", path.attrib["d"])] for path in paths]
    assert found[0] == pytest.approx([1, 2, 3, 4.25, -5, 6], abs=0.051)
    assert found[1] == [7, 8, 7, 8]  # a line of no length, whose round ends make a dot
    assert root.find("svg:g", space).attrib["stroke-linecap"] == "round"
