"""Figures: drawn by matplotlib once, saved as svg and png, and put into the page as inline svg.

The page recolours its copy: every colour of `COLOURS` becomes a variable of the page's style sheet, so that a figure is
readable on light and on dark. Texts stay texts, ids are the figure's own, and the same results give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER, GROUND = "#1b2129", "#5f6873", "#d9dde2", "#99a1ab", "#fefefe"
SERIES = ("#1f6fd0", "#d3610a", "#15824b", "#a83fb5", "#c23247", "#0c7f8c", "#8a6412", "#5b53d6", "#6f7d10", "#b03a7c")
MARKERS = "osD^vPXph*"
DASHES = ("-", "--", ":", "-.")
COLOURS = {INK: "ink", MUTED: "muted", GRID: "line", PAPER: "paper", GROUND: "ground"} | {
    colour: f"s{index}" for index, colour in enumerate(SERIES)}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "mux", "text.parse_math": False, "axes.unicode_minus": True,
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.fontsize": 8, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.6,
    "errorbar.capsize": 0,
    "figure.facecolor": GROUND, "axes.facecolor": "none", "savefig.facecolor": GROUND, "figure.dpi": 100,
}
SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
DPI = 130  # of the png
NARROWEST = 480  # pixels; on a narrower screen a figure is scrolled
REFERENCE = re.compile(r"(^|url\()#([^)]+)")
GEOMETRY = ("d", "x", "y", "width", "height", "transform", "points")
DECIMALS = re.compile(r"-?\d+\.\d{3,}")

Tips = Mapping[str, str]  # id (gid) of an element -> what is shown when the pointer is on it


@dataclass(frozen=True)
class Drawing:
    name: str  # of its files
    title: str
    description: str  # for who cannot see it
    svg: str  # the file
    inline: str  # the same for the page
    png: bytes
    choice: str = ""  # the entry of the section's menu that shows it; empty: always shown


def draw(name: str, title: str, description: str, size: tuple[float, float], plot: Callable[[Figure], Tips | None],
         choice: str = "") -> Drawing:
    """Let `plot` draw on a figure of this size (inches at 100 dots); it returns the tips of what it gave ids (gid).

    Elements whose id begins with "paper" can be hidden together on the page.
    """
    svg, png = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of names in other scripts; the svg has text
        figure = Figure(figsize=size, layout="constrained")
        tips = plot(figure) or {}
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # the second time as the first
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    return Drawing(name, title, description, svg.getvalue(), _inline(svg.getvalue(), name, description, tips),
                   png.getvalue(), choice)


def shown(words: str, limit: int = 40) -> str:
    """A name as a label: cut, and never beginning with what matplotlib takes for a hidden label."""
    words = words if len(words) <= limit else f"{words[: limit - 1]}…"
    return f" {words}" if words.startswith("_") else words


def series(index: int) -> dict[str, Any]:
    """Colour and marker of the index-th series; colours repeat with other markers."""
    return {"color": SERIES[index % len(SERIES)], "marker": MARKERS[(index + index // len(SERIES)) % len(MARKERS)]}


def stroke(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th line without markers; colours repeat with other dashes."""
    return {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[index // len(SERIES) % len(DASHES)]}


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend of the lines of `axes` under the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def _inline(svg: str, name: str, description: str, tips: Tips) -> str:
    """The svg for a page with many: ids of its own, the page's colours, no byte more than needed."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    referred = {found for element in root.iter() for value in element.attrib.values()
                for _, found in REFERENCE.findall(value)}
    prefix = f"f{zlib.crc32(name.encode()):x}"
    short = {old: f"{prefix}-{index}" for index, old in enumerate(sorted(referred))}
    for element in root.iter():
        element.tail = None
        if not (element.text or "").strip():
            element.text = None
        _rewrite(element, short, tips)
    for element in root.iter():
        _hoist(element)
    width = float(root.attrib["viewBox"].split()[2]) * 4 / 3  # of points in pixels
    root.attrib = {"viewBox": root.attrib["viewBox"], "class": "figure", "role": "img", "aria-label": description,
                   "style": f"max-width:{width:.0f}px;min-width:{min(width, NARROWEST):.0f}px"}
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(element: ElementTree.Element, short: Mapping[str, str], tips: Tips) -> None:
    """Shorten numbers and ids; only ids that something refers to stay."""
    gid = element.attrib.pop("id", "")
    attributes = {"href" if key == XLINK else key: value for key, value in element.attrib.items()}
    for key, value in attributes.items():
        if key in GEOMETRY:
            value = DECIMALS.sub(lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."), value)
        if key == "style":
            value = _restyled(value)
        attributes[key] = REFERENCE.sub(lambda found: f"{found[1]}#{short[found[2]]}", " ".join(value.split()))
    if gid in short:
        attributes["id"] = short[gid]
    if gid in tips:
        attributes |= {"data-tip": "", "tabindex": "0", "role": "img", "aria-label": tips[gid]}
    if gid.startswith("paper"):
        attributes["class"] = "paper"
    element.attrib = attributes


def _hoist(element: ElementTree.Element) -> None:
    """Say once on a group what all of its children say."""
    drawn = [child for child in element if child.tag != f"{{{SVG}}}defs"]
    for key in ("style", "clip-path"):
        values = {child.get(key) for child in drawn}
        if len(drawn) > 1 and len(values) == 1 and None not in values and key not in element.attrib:
            element.set(key, drawn[0].attrib[key])
            for child in drawn:
                del child.attrib[key]


def _restyled(style: str) -> str:
    """In the page's colours and font."""
    style = style.replace("; ", ";").replace(": ", ":").replace("'DejaVu Sans'", "var(--font)")
    for colour, variable in COLOURS.items():
        style = style.replace(f":{colour}", f":var(--{variable})")
    return style
