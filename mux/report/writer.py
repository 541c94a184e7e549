"""`mux report`: reads runs, draws, and writes the page, the markdown, and every figure and table as files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import markupsafe

from mux.report import folder
from mux.report import page as pages
from mux.report.results import Run, read_runs
from mux.report.section import Section
from mux.report.sections import (
    against_paper,
    composition,
    curves,
    diagnostics,
    ensembling,
    muxology,
    overview,
    pareto,
    profile,
    scores,
    throughput,
)
from mux.report.tables import escaped

SECTIONS: tuple[Callable[[Sequence[Run]], Section], ...] = (
    overview.section, scores.section, pareto.section, against_paper.section, ensembling.section, composition.section,
    throughput.section, muxology.section, curves.section, profile.section,
    diagnostics.section,
)
HERE = Path(__file__).parent
PAGE, MARKDOWN, FIGURES, TABLES = "index.html", "report.md", "figures", "tables"

Progress = Callable[[int, int, str], None]  # sections done, all sections, what comes next


def write(runs: Sequence[Path], out: Path, progress: Progress = lambda done, total, what: None) -> Path:
    """Write the report of these run directories to the folder `out`; returns the page's path.

    Files of an earlier report there are replaced, others left alone. ValueError names a run's file that cannot be read,
    or what is in the way in `out`; then nothing is written.
    """
    read, sections = built(runs, progress)
    files = {PAGE: page(read, sections), MARKDOWN: markdown(read, sections)}
    for section in sections:
        for table in section.tables:
            files[f"{TABLES}/{table.name}.csv"] = table.csv()
            files[f"{TABLES}/{table.name}.md"] = table.markdown()
        for drawing in section.drawings:
            files[f"{FIGURES}/{drawing.name}.svg"] = drawing.svg
    images = {f"{FIGURES}/{drawing.name}.png": drawing.png for section in sections for drawing in section.drawings}
    folder.replace(Path(out), {name: text.encode() for name, text in files.items()} | images)
    return Path(out) / PAGE


def fill(runs: Sequence[Path], page: Path, progress: Progress = lambda done, total, what: None) -> Path:
    """Fill the blocks of a page that people write (`mux.report.page`); returns the page. Raises as `write` does."""
    pages.read(Path(page))  # what is wrong with it is said before anything is drawn
    return pages.fill(Path(page), built(runs, progress)[1])


def built(runs: Sequence[Path], progress: Progress) -> tuple[list[Run], list[Section]]:
    """The runs, read, and every section on them. ValueError names a run's file that cannot be read."""
    read = read_runs(runs)
    if not read:
        raise ValueError("no run to report on")
    sections = []
    for index, build in enumerate(SECTIONS):
        progress(index, len(SECTIONS), build.__module__.rpartition(".")[2].replace("_", " "))
        sections.append(build(read))
    progress(len(SECTIONS), len(SECTIONS), "")
    return read, sections


def page(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """One HTML file that needs nothing else, and may run no script but its own."""
    script, style = (HERE / "assets" / f"page.{kind}" for kind in ("js", "css"))
    code = script.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    loader = jinja2.FileSystemLoader(HERE / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = code_marked
    return environment.get_template("page.html").render(
        title=heading(runs), sections=sections, script=code, digest=digest, style=style.read_text(encoding="utf-8"))


def code_marked(text: str) -> markupsafe.Markup:
    """What stands between `backticks` as code."""
    parts = [markupsafe.Markup("<code>{}</code>" if index % 2 else "{}").format(part)
             for index, part in enumerate(text.split("`"))]
    return markupsafe.Markup("").join(parts)


def heading(runs: Sequence[Run]) -> str:
    names = [run.label for run in runs]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def markdown(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    parts = [f"# Report: {escaped(heading(runs))}", ""]
    for section in sections:
        parts += [f"## {section.title}", "", section.missing if section.empty else escaped(section.lead), ""]
        parts += [f"![{escaped(drawing.title)}]({FIGURES}/{drawing.name}.svg)\n" for drawing in section.drawings]
        parts += [table.markdown() for table in section.tables]
    return "\n".join(parts)
