from mux.report.drawing import series, stroke
from mux.report.tables import Cell, Table, number, spread, text


def table(*rows):
    return Table("t", "Title", ["a", "b"], rows)


def test_numbers_have_separators_signs_and_dashes():
    assert number(1234567.891, 1).text == "1,234,567.9"
    assert number(-0.5, 1).text == "\N{MINUS SIGN}0.5" and number(-0.5, 1).value == -0.5
    assert number(None).text == number(float("nan")).text == "\N{EN DASH}"
    assert spread(0.8251, 0.0061, 2).text == "82.51 ±0.61"
    assert spread(0.8251, None).text == "82.5"


def test_csv_is_for_programs():
    written = table([text("plain, with a comma"), number(-1234.5, 1)], [text("=HYPERLINK(1)"), number(None)],
                    [text("-2+3"), number(7)]).csv()
    assert written == 'a,b\n"plain, with a comma",-1234.5\n\'=HYPERLINK(1),\n\'-2+3,7\n'


def test_a_cell_that_is_compared_has_three_columns():
    compared = table([text("x"), Cell("80.0", 80.0, "81.0", 81.0, "\N{MINUS SIGN}1.0", False)],
                     [text("y"), Cell("–", None, "70.0", 70.0)])
    assert compared.csv() == "a,b,b (paper),b (difference)\nx,80.0,81.0,-1.0\ny,,70.0,\n"
    assert "| x | **80.0** / 81.0 / \N{MINUS SIGN}1.0 |" in compared.markdown()
    assert "| y | – / 70.0 |" in compared.markdown()
    assert [compared.key(row, 1) for row in compared.rows] == [80.0, None]


def test_a_column_with_none_of_ours_is_sorted_by_the_paper_s():
    empty = table([text("x"), Cell("–", None, "81.0", 81.0)], [text("y"), Cell("–")])
    assert empty.numeric == [False, True] and [empty.key(row, 1) for row in empty.rows] == [81.0, None]


def test_markdown_shows_names_as_they_are():
    written = table([text("<script>|*x*[y](z)`"), number(1)]).markdown()
    assert r"| \<script\>\|\*x\*\[y\](z)\` | 1 |" in written
    assert "| --- | ---: |" in written


def test_lines_and_points_of_many_runs_differ():
    for look in (stroke, series):
        assert len({tuple(look(index).items()) for index in range(30)}) == 30
