"""Pages that people write and `mux report --page` fills."""

import re

import pytest

from mux.report import writer
from mux.report.page import fill
from mux.report.results import read_runs
from mux.report.sections import pareto, scores
from tests.mux.report.conftest import Maker

PAGE = """# What we found

Ours.

<!-- report scores -->
of yesterday
<!-- end of report -->

Between.

<!-- report figure pareto_sst2 -->
<!-- end of report -->
The end.
"""
GOOD = "<!-- report scores -->\n<!-- end of report -->\n"


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    maker = Maker(tmp_path_factory.mktemp("runs"))
    runs = read_runs([maker.run("plain", 1, tasks=["sst2"], accuracy=0.88), maker.run("five", 5, tasks=["sst2"])])
    return [scores.section(runs), pareto.section(runs)]


def test_blocks_are_filled_and_the_rest_stays(sections, tmp_path):
    page = tmp_path / "docs" / "found.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    assert fill(page, sections) == page
    text = page.read_text()
    assert "of yesterday" not in text and "| five | 5 |" in text
    assert re.sub(r"(<!-- report [\w ]+ -->\n).*?(<!-- end)", r"\1\2", text, flags=re.DOTALL) == PAGE.replace(
        "of yesterday\n", "")
    (figure,) = re.findall(r"!\[.*\]\((.*)\)", text)
    assert figure == "found/figures/pareto_sst2.svg" and (page.parent / figure).read_text().startswith("<?xml")
    assert fill(page, sections).read_text() == text
    page.write_text(PAGE.partition("Between.")[0])
    fill(page, sections)
    assert (page.parent / figure).exists()  # a page without figures leaves the folder alone


@pytest.mark.parametrize(("page", "says"), [
    ("# None\n", "has no line <!-- report scores -->"),
    ("\n<!-- report scorse -->\n<!-- end of report -->\n", ":2: the report has no 'scorse'; did you mean \"scores\"?"),
    ("<!-- report scores -->\n", ":1: no line <!-- end of report --> ends"),
    ("<!-- report scores -->\n<!-- report pareto -->\n<!-- end of report -->\n", ":1: no line <!-- end of report -->"),
    (GOOD + "<!--report figure pareto_sst2-->\n", ":3: '<!--report figure pareto_sst2-->' begins or ends no block"),
    (GOOD + "  <!-- report scores -->\n", ":3: '<!-- report scores -->' begins or ends no block"),
    (GOOD + "<!-- End of report -->\n", ":3: '<!-- End of report -->' begins or ends no block"),
    (None, "no such file"),
])
def test_a_page_that_cannot_be_filled_is_left_as_it_is(sections, tmp_path, page, says):
    path = tmp_path / "page.md"
    if page is not None:
        path.write_text(page)
    with pytest.raises(ValueError, match=re.escape(says)):
        fill(path, sections)
    assert not (tmp_path / "page").exists() and (path.read_text() == page if page else not path.exists())


def test_a_page_keeps_its_line_ends_its_link_and_blanks_behind_markers(sections, tmp_path):
    page, link = tmp_path / "my page (2).md", tmp_path / "link.md"
    page.write_bytes(PAGE.replace("sst2 -->", "sst2 --> ").replace("\n", "\r\n").encode())
    link.symlink_to(page)
    fill(link, sections)
    text = page.read_bytes().decode()
    assert link.is_symlink() and text.count("\n") == text.count("\r\n") > 10
    (figure,) = re.findall(r"!\[.*\]\((.*)\)", text)
    assert figure == "my%20page%20%282%29/figures/pareto_sst2.svg"
    assert (tmp_path / "my page (2)" / "figures" / "pareto_sst2.svg").exists()


def test_figures_do_not_replace_a_whole_report(sections, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("mine")
    (tmp_path / "report.md").write_text(PAGE)
    with pytest.raises(ValueError, match="the folder of a whole report"):
        fill(tmp_path / "report.md", sections)
    assert (tmp_path / "report.md").read_text() == PAGE and (tmp_path / "report" / "index.html").read_text() == "mine"


def test_a_byte_order_mark_stays_where_it_is(sections, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\ufeff<!-- report scores -->\n<!-- end of report -->\n")
    assert fill(page, sections).read_text().startswith("\ufeff<!-- report scores -->\n\n")


def test_a_page_without_a_suffix_has_its_figures_in_a_folder_of_another_name(sections, tmp_path):
    page = tmp_path / "page"
    page.write_text(PAGE)
    (figure,) = re.findall(r"!\[.*\]\((.*)\)", fill(page, sections).read_text())
    assert figure == "page_report/figures/pareto_sst2.svg" and (tmp_path / figure).exists()


def test_a_page_that_is_none_is_refused_before_anything_is_drawn(tmp_path):
    (tmp_path / "loop.md").symlink_to("loop.md")
    for page, says in (("none.md", "no such file"), ("loop.md", "cannot be read")):
        with pytest.raises(ValueError, match=says):
            writer.fill([], tmp_path / page, pytest.fail)
