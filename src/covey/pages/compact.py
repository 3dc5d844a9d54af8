"""Compress the SVG of matplotlib to about a tenth of its bytes. Points move by at most a tenth of a unit."""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from itertools import count, groupby
from xml.etree import ElementTree

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "http://www.w3.org/1999/xlink"
_LINK = f"{{{_XLINK}}}href"
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+")
_COMMAND = re.compile(r"([A-Za-z])([^A-Za-z]*)")
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_START = re.compile(r"M(-?[\d.]+) ?(-?[\d.]+)(.*)")
_PNG = "data:image/png;base64,"
_COLOURS = 32
_MANY = 8
"""The least number of equal shapes that share one definition."""

Element = ElementTree.Element
ElementTree.register_namespace("xlink", _XLINK)


def compact(svg: str, mark: str) -> str:
    """Compress a picture.

    Args:
        svg: the SVG that matplotlib wrote. Fonts of texts are removed, as the page sets them.
        mark: the prefix of all ids, which must be unique on the page.
    """
    root = ElementTree.fromstring(svg)
    used = {name for element in root.iter() for _, value in element.items() for name in _REFERENCE.findall(value)}
    short = {name: f"{mark}{number}" for number, name in enumerate(sorted(used))}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text = (element.text or "").strip() if element.tag in ("text", "style") else None
        element.tail = None
        _shorten(element, short)
    _tidy(root, (f"{mark}{number}" for number in count(len(used))))
    return ElementTree.tostring(root, encoding="unicode")


def _shorten(element: Element, short: dict[str, str]) -> None:
    """Shorten the attributes of one element."""
    for name, value in list(element.items()):
        new: str | None = _REFERENCE.sub(lambda found: short[found[0]], value)
        if name == "id":
            new = short.get(value)
        elif name == "style":
            parts = (part for part in value.split("; ") if not part.startswith("font-family"))
            new = ";".join(_DECIMAL.sub(lambda found: f"{float(found[0]):.3g}", part) for part in parts)
            new = new.replace(": ", ":")
        elif name == _LINK and value.startswith(_PNG):
            new = _PNG + _in_few_colours(value.removeprefix(_PNG))
        elif name == "d":
            new = _relative(value)
        elif name == "transform" and value.startswith("rotate(-0 "):
            new = None
        elif name in ("x", "y", "width", "height") or (name == "transform" and value.startswith("rotate")):
            new = _DECIMAL.sub(lambda found: _tenths(round(10 * float(found[0]))), value)
        del element.attrib[name]
        if new is not None:
            element.set("href" if name == _LINK and value.startswith("#") else name, new)


def _in_few_colours(png: str) -> str:
    """Reduce the colours of a PNG file with transparent pixels, in base64. Opaque pictures stay as they are."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode != "RGBA" or picture.getchannel("A").getextrema() == (255, 255):
        return png
    buffer = io.BytesIO()
    picture.quantize(_COLOURS, Image.Quantize.FASTOCTREE).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _tenths(count: int) -> str:
    """A number of tenths as SVG writes it."""
    text = f"{count / 10:g}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _relative(path: str) -> str:
    """Write a path in relative commands. Offsets from the first point are rounded, so equal shapes have equal text."""
    words, last, before = "", "", 0
    first, at = (0, 0), (0, 0)
    for command, text in _COMMAND.findall(path.replace("z", "Z")):
        exact = [float(number) for number in text.split()]
        if not words:
            start_x, start_y = exact
            words = "M" + _joined([round(10 * value) for value in exact])
            continue
        ends = [round(10 * (value - (start_y if odd % 2 else start_x))) for odd, value in enumerate(exact)]
        points = list(zip(ends[::2], ends[1::2], strict=True))
        steps = [far - near for point in points for far, near in zip(point, at, strict=True)]
        written = _joined(steps)
        if command == "Z" and last == "L" and at == first:
            words = words[:before]  # Closing draws that line.
        before = len(words)
        if command == last == "L" and written:
            words += written if written[0] == "-" else f" {written}"
        else:
            words += command.lower() + written
        last = command
        at = points[-1] if points else first
        if command == "M":
            first = at
    return words


def _joined(tenths: Sequence[int]) -> str:
    """Join numbers with the fewest separators that SVG allows."""
    text = ""
    for one in tenths:
        number = _tenths(one)
        text += number if not text or number[0] == "-" else f" {number}"
    return text


def _tidy(element: Element, ids: Iterator[str]) -> None:
    """Remove groups without attributes, and move attributes that neighbours share to one place."""
    element[:] = [kept for inner in element for kept in _unwrapped(inner)]
    for inner in element:
        _tidy(inner, ids)
    gathered: list[Element] = []
    for look, members in groupby(list(element), _look):
        alike = list(members)
        gathered += [_together(alike, dict(look), ids)] if look and len(alike) > 1 else alike
    element[:] = gathered


def _together(alike: list[Element], look: dict[str, str], ids: Iterator[str]) -> Element:
    """One element for neighbours with the same look."""
    forms = [element.get("d", "") for element in alike]
    starts = [_START.fullmatch(form) for form in forms]
    group = Element("g", look)
    if len(alike) >= _MANY and len({start and start[3] for start in starts}) == 1 and starts[0] is not None:
        name = next(ids)
        definition = Element("defs")
        definition.append(Element("path", {"id": name, "d": f"M0 0{starts[0][3]}"}))
        group[:] = [definition, *(Element("use", {"href": f"#{name}", "x": x[1], "y": x[2]}) for x in starts if x)]
        return group
    if all(forms) and "opacity" not in look.get("style", ""):
        return Element("path", {**look, "d": "".join(forms)})
    for element in alike:
        element.attrib = {name: value for name, value in element.items() if name not in look}
    group[:] = alike
    return group


def _unwrapped(element: Element) -> list[Element]:
    """The content of a group without attributes, or the element itself."""
    if element.tag == "g" and not element.attrib:
        return [kept for inner in element for kept in _unwrapped(inner)]
    return [element]


def _look(element: Element) -> tuple[tuple[str, str], ...]:
    """The style and clip path of a shape. Shapes with an id have none, as others refer to them."""
    if element.tag not in ("path", "use") or "id" in element.attrib:
        return ()
    return tuple((name, value) for name, value in sorted(element.items()) if name in ("style", "clip-path"))
