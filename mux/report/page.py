"""A page of markdown that people write and `mux report --page` fills: each block between

    <!-- report NAME -->
    <!-- end of report -->

gets what NAME says: a section (`scores`), or one `figure NAME` or `table NAME` of it, as the files of a report are
called (`figure pareto_sst2`); everything else stays as it is. Figures lie in a folder beside the page that has its
name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from mux.recipe.wording import did_you_mean
from mux.report import folder
from mux.report.drawing import Drawing
from mux.report.section import Section
from mux.report.tables import Table, escaped

BEGIN, END = "<!-- report {} -->", "<!-- end of report -->"
BLOCK = re.compile(r"^<!-- report (?P<name>[^\n]*?) -->[ \t]*$.*?"
                   r"(?P<end>^<!-- end of report -->[ \t]*$|(?=^<!-- report )|\Z)",
                   re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"^[ \t]*<!--[ \t]*(report\b|end[ \t]+of[ \t]+report\b).*$", re.MULTILINE | re.IGNORECASE)
FIGURES = "figures"


def read(page: Path) -> str:
    """The text of a page with blocks. ValueError says why it is none, or which line is nearly one of their lines."""
    try:
        text = page.read_bytes().decode()
    except FileNotFoundError:
        raise ValueError(f"{page}: no such file; write one with lines {BEGIN.format('scores')} and {END}: what belongs "
                         "between them is put there") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{page}: not UTF-8 ({error})") from None
    except OSError as error:
        raise ValueError(f"{page}: cannot be read ({error.strerror})") from None
    lines = text.replace("\r\n", "\n").removeprefix("\ufeff")  # some editors write a byte order mark
    if not BLOCK.search(lines):
        raise ValueError(f"{page}: has no line {BEGIN.format('scores')} to say where a part of the report belongs")
    known = {place for block in BLOCK.finditer(lines) for place in (block.start(), block.start("end"))}
    for marker in MARKER.finditer(lines):
        if marker.start() not in known:
            number = lines.count("\n", 0, marker.start()) + 1
            raise ValueError(f"{page}:{number}: {marker[0].strip()!r} begins or ends no block; lines "
                             f"{BEGIN.format('NAME')} and {END} do, each alone and from the first column")
    return text


def fill(page: Path, sections: Sequence[Section]) -> Path:
    """Fill the blocks of the page and write their figures; returns the page.

    ValueError names a block that is wrong, or what is in the way; then nothing is written.
    """
    page = Path(os.path.realpath(page))  # what a link names is filled, and stays where it is
    beside = page.with_suffix("") if page.suffix else page.with_name(f"{page.name}_report")
    raw = read(page)
    mark = "\ufeff" * raw.startswith("\ufeff")
    text = raw.removeprefix(mark).replace("\r\n", "\n")
    parts = named(sections)
    figures: dict[str, bytes] = {}

    def filled(block: re.Match[str]) -> str:
        name, line = block["name"], text.count("\n", 0, block.start()) + 1
        if name not in parts:
            raise ValueError(f"{page}:{line}: the report has no {name!r}; {did_you_mean(name, parts, 'it has')}")
        if not block["end"]:
            raise ValueError(f"{page}:{line}: no line {END} ends what begins here")
        drawings = [part for part in parts[name] if isinstance(part, Drawing)]
        figures.update({f"{FIGURES}/{drawing.name}.svg": drawing.svg.encode() for drawing in drawings})
        body = "\n".join(_markdown(part, quote(beside.name)) for part in parts[name])
        return f"{BEGIN.format(name)}\n\n{body.rstrip()}\n\n{END}"

    content = mark + BLOCK.sub(filled, text)
    if figures and (beside / "index.html").exists():
        raise ValueError(f"{beside}: is the folder of a whole report, and the page would put its figures there: give "
                         "the page another name")
    if figures:
        folder.replace(beside, figures)
    folder.write(page, (content.replace("\n", "\r\n") if "\r\n" in raw else content).encode())
    return page


def named(sections: Sequence[Section]) -> Mapping[str, list[Drawing | Table | str]]:
    """What a block can hold, by the name it asks for."""
    parts: dict[str, list[Drawing | Table | str]] = {}
    for section in sections:
        lead = section.missing if section.empty else escaped(section.lead)
        parts[section.id] = [f"{lead}\n", *section.drawings, *section.tables]
        parts |= {f"figure {drawing.name}": [drawing] for drawing in section.drawings}
        parts |= {f"table {table.name}": [table] for table in section.tables}
    return parts


def _markdown(part: Drawing | Table | str, beside: str) -> str:
    if isinstance(part, Drawing):
        return f"![{escaped(part.title)}]({beside}/{FIGURES}/{part.name}.svg)\n"
    return part.markdown() if isinstance(part, Table) else part
