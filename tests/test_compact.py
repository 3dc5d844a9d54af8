"""Pictures in few bytes: the same points, looks and references."""

import io
import re
from xml.etree import ElementTree

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covey.pages.compact import _relative, compact

COUNTS = {"M": 1, "L": 1, "Q": 2, "C": 3, "Z": 0}


def points(path):
    """Every point of a path in absolute numbers, with its command."""
    found, at, first, command = [], np.zeros(2), np.zeros(2), ""
    words = re.findall(r"[A-Za-z]|-?\d*\.?\d+(?:e-?\d+)?", path)
    while words:
        if words[0].isalpha():
            command = words.pop(0)
        if command in "zZ":
            found.append(("Z", first))
            at = first
            continue
        size = COUNTS[command.upper()]
        numbers = np.array([float(words.pop(0)) for _ in range(2 * size)]).reshape(size, 2)
        ends = numbers + at if command.islower() else numbers
        found += [(command.upper(), end) for end in ends]
        at = ends[-1]
        if command in "mM":
            first = at
    return found


def without_closing_lines(found):
    """The points without lines to the beginning, in tenths, just before a path is closed: closing draws them."""
    kept, start, first = [], found[0][1], found[0][1]
    for command, point in found:
        if command == "Z" and kept[-1][0] == "L" and same_tenths(kept[-1][1] - start, first - start):
            kept.pop()
        kept.append((command, point))
        first = point if command == "M" else first
    return kept


def same_tenths(one, other):
    return np.array_equal(np.round(10 * one), np.round(10 * other))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.sampled_from("MLQCz"), max_size=8), st.lists(st.integers(-(10**9), 10**9), min_size=60, max_size=60))
def test_a_path_keeps_its_points(commands, millionths):
    numbers = iter(f"{one / 1e6:.6f}" for one in millionths)
    text = ""
    for command in ["M", *commands]:
        text += f"{command} {' '.join(next(numbers) for _ in range(2 * COUNTS[command.upper()]))} \n"
    before, after = without_closing_lines(points(text)), points(_relative(text))
    assert [command for command, _ in after] == [command for command, _ in before]
    for (_, exact), (_, kept) in zip(before, after, strict=True):
        assert np.abs(exact - kept).max() <= 0.1 + 1e-6


def test_closing_replaces_the_line_back_to_the_beginning():
    assert _relative("M 1 1 \nL 2 1 \nL 2 2 \nL 1 1 \nz\n") == "M1 1l1 0 0 1z"


def drawn():
    from matplotlib import rc_context

    from covey.view.look import new_axes, new_figure

    figure = new_figure((4, 3))
    axes = new_axes(figure)
    axes.bar(range(12), range(1, 13), color="#332288")
    axes.plot(range(12), marker="o", color="#0072b2", alpha=0.5)
    axes.imshow(np.eye(3), extent=(2, 4, 2, 4), aspect="auto")
    axes.set_title("a <title> & more")
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S)
    return svg[svg.index("<svg") :]


def test_a_picture_keeps_its_texts_shapes_and_references():
    svg = drawn()
    small = compact(svg, "m-")
    assert len(small) < len(svg) / 2
    tree = ElementTree.fromstring(small)
    before = ElementTree.fromstring(svg)
    texts = [text.text for text in tree.iter() if text.tag.endswith("text")]
    assert texts == [text.text.strip() for text in before.iter() if text.tag.endswith("}text")]
    assert "a <title> & more" in texts
    ids = {element.get("id") for element in tree.iter()} - {None}
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', small))
    assert {first or second for first, second in used} == ids
    assert all(name.startswith("m-") for name in ids)
    starts = sum(len(re.findall("[Mm]", path.get("d", ""))) for path in tree.iter())
    uses = small.count("<use") - sum(name.startswith("m-") and f'<path id="{name}"' in small for name in ids)
    assert starts + uses == sum(path.tag.endswith("}path") for path in before.iter()) + svg.count("<use") - svg.count(
        '<path id="m'
    )
