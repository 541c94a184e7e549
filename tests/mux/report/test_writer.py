"""The report as files: everything there, nothing from outside, nothing that a run's strings could run."""

import json
import re
from xml.etree import ElementTree

import pytest

from mux.report.writer import SECTIONS, write


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_figure_and_table_is_also_a_file(report):
    written, html, markdown = files(report), (report / "index.html").read_text(), (report / "report.md").read_text()
    figures = re.findall(r'<figure id="figure-([^"]+)"', html)
    tables = re.findall(r'<div class="table" id="table-([^"]+)"', html)
    assert set(written) == {"index.html", "report.md", "files.txt"} | {
        f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")} | {
        f"tables/{name}.{kind}" for name in tables for kind in ("csv", "md")}
    assert len(figures) == len(set(figures)) >= 15 and len(tables) == len(set(tables)) >= 20
    assert {"pareto_sst2", "figure_5", "ensembling_sst2", "composition_sst2", "confusion_sst2", "sanity_stsb",
            "curves_stage_pretrain", "throughput_sequence_instances"} <= set(figures)
    assert {f"table_{n}" for n in (1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14)} <= set(tables)
    for name in figures:
        assert f"](figures/{name}.svg)" in markdown
        assert written[f"figures/{name}.png"].startswith(b"\x89PNG") and ElementTree.fromstring(
            written[f"figures/{name}.svg"])


def test_the_same_results_give_the_same_bytes_and_nothing_of_an_earlier_report_stays(maker, tmp_path):
    run, other = maker.run("bert_base_n2", 2, tasks=["sst2"]), maker.run("bert_base_n1", 1, tasks=["cola"])
    seen = []
    page = write([run], tmp_path / "one", lambda done, total, what: seen.append((done, total, what)))
    assert page == tmp_path / "one" / "index.html"
    assert seen[0] == (0, len(SECTIONS), "overview") and seen[-1] == (len(SECTIONS), len(SECTIONS), "")
    write([other], tmp_path / "two")
    assert "figures/pareto_cola.svg" in files(tmp_path / "two")
    write([run], tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_the_page_needs_nothing_from_outside(report):
    html = (report / "index.html").read_text()
    addresses = set(re.findall(r'\b(?:href|src)="([^"]*)"', html)) | set(re.findall(r"url\(([^)]*)\)", html))
    assert all(address.startswith(("#", "data:")) for address in addresses), addresses
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {"http://www.w3.org/2000/svg"}
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
    assert all(f'id="{address[1:]}"' in html for address in addresses if address.startswith("#"))


def test_strings_of_a_run_are_text(maker, tmp_path):
    evil = "<script>alert(1)</script>$\\frac$|../../x"
    path = maker.run("bert_base_n2", 2, tasks=["sst2"])
    content = (path / "results.json").read_text()
    for name in ('"sst2"', '"NVIDIA V100"', '"class 0"', '"random"', '"wikitext-103 validation"', '"pretrain/model"'):
        content = content.replace(name, json.dumps(evil))
    results = json.loads(content) | {"name": evil, "status": '"><img src=x onerror=alert(1)>'}
    (path / "results.json").write_text(json.dumps(results))
    page = write([path], tmp_path / "out")
    html = page.read_text()
    assert html.count("<script>") == html.count("</script>") == 1 and "<img" not in html
    assert "&lt;script&gt;" in html
    assert "<script" not in (tmp_path / "out" / "report.md").read_text().replace(r"\<script", "")
    kinds = {path.suffix for path in (tmp_path / "out").rglob("*.*")}
    assert kinds == {".svg", ".png", ".csv", ".md", ".html", ".txt"}
    assert all(re.fullmatch(r"[a-z0-9_]+", path.stem) for path in (tmp_path / "out" / "figures").iterdir())


def test_what_is_missing_is_a_sentence_that_says_what_fills_it(maker, tmp_path):
    model = {"family": "bert", "source": None, "size": "BASE", "layers": 12, "hidden": 768, "N": 2,
             "multiplexer": "gaussian", "demultiplexer": "rsa", "compat": None, "parameters": None}
    path = maker.write("begun", {"schema": 1, "name": "begun", "status": "running", "model": model, "stages": [
        {"id": "retrieval", "kind": "retrieval", "status": "pending"}]})
    html = write([path], tmp_path / "out").read_text()
    assert "begun is running" in html
    assert "recipes/results/n2.toml" in html  # scores
    for word in ("ensemble stage", "evaluate stage", "throughput stage", "muxology stage", "finetune"):
        assert word in html
    assert html.count('class="missing"') == 8
    assert 'id="figure-pareto_glue_without_wnli_cola"' in html and 'id="figure-pareto_token"' in html  # Figure 4


def test_the_page_grows_by_less_than_sixty_kilobytes_a_run_and_task(report, maker, tmp_path):
    """A task's own figures among them. Ten runs with all eleven tasks stay below seven megabytes."""
    one = write([maker.run("bert_base_n1", 1, tasks=["sst2"], accuracy=0.88)], tmp_path / "out").stat().st_size
    assert one < 300_000
    assert (report / "index.html").stat().st_size - one < 5 * 60_000  # of its four runs, two have two tasks


def test_what_no_report_wrote_stays(maker, tmp_path):
    run, out = maker.run("bert_base_n2", 2, tasks=["sst2"]), tmp_path / "out"
    mine = [out / "figures" / "mine.png", out / "tables" / "deep" / "notes.md", out / "thesis.tex"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    write([run], out)
    write([maker.run("bert_base_n1", 1, tasks=["cola"])], out)
    assert all(path.read_text() == "mine" for path in mine)
    assert (out / "figures" / "pareto_cola.svg").exists() and not (out / "figures" / "pareto_sst2.svg").exists()


@pytest.mark.parametrize("name", ["index.html", "figures/pareto_sst2.svg", "files.txt"])
def test_a_file_of_the_user_s_is_not_written_over(maker, tmp_path, name):
    run, path = maker.run("bert_base_n2", 2, tasks=["sst2"]), tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("figures/a.svg\n")
    with pytest.raises(ValueError, match=f"{name}: no report wrote this"):
        write([run], tmp_path / "out")
    assert [path.read_text() for path in (tmp_path / "out").rglob("*.*")] == ["figures/a.svg\n"]


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_folder_of_the_report_that_is_something_else_is_refused(maker, tmp_path, kind):
    run, out, elsewhere = maker.run("bert_base_n2", 2, tasks=["sst2"]), tmp_path / "out", tmp_path / "elsewhere"
    write([run], out)
    before = (out / "index.html").read_bytes()
    (out / "figures").rename(elsewhere)
    if kind == "file":
        (out / "figures").write_text("")
    else:
        (out / "figures").symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    count = len(files(elsewhere))
    with pytest.raises(ValueError, match="figures: a report makes a folder of this name"):
        write([maker.run("bert_base_n1", 1, tasks=["cola"])], out)
    assert len(files(elsewhere)) == count > 5 and (out / "index.html").read_bytes() == before


def test_where_no_folder_can_be_nothing_is_written(maker, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="a file is in the way"):
            write([maker.run(out.name, 1, tasks=["sst2"])], out)


def test_a_list_of_files_deletes_nothing_beyond_a_report_s_own(maker, tmp_path):
    run, out, mine = maker.run("bert_base_n2", 2, tasks=["sst2"]), tmp_path / "out", tmp_path / "mine.txt"
    write([run], out)
    mine.write_text("mine")
    (out / "notes.md").write_text("mine")
    with (out / "files.txt").open("a") as file:
        file.write(f"../mine.txt\n{mine}\nnotes.md\nfigures/../../mine.txt\n\0\n")
    write([run], out)
    assert mine.exists() and (out / "notes.md").exists() and "mine" not in (out / "files.txt").read_text()


def test_strings_that_no_file_can_hold_do_not_stop_it(maker, tmp_path):
    path = maker.run("bert_base_n2", 2, tasks=["sst2"])
    results = json.loads((path / "results.json").read_text())
    results["stages"] = [stage for stage in results["stages"] if stage["kind"] != "throughput"]
    (path / "results.json").write_text(json.dumps(results | {"device": "\ud800\x00"}))
    path = path.rename(path.with_name("bert\udcff"))
    html = write([path], tmp_path / "out").read_text()
    assert "\x00" not in html and html.endswith("</html>")


def test_a_refused_run_leaves_nothing(maker, tmp_path):
    good = maker.run("good", 1, tasks=["sst2"])
    with pytest.raises(ValueError, match=r"none.results\.json: no such file"):
        write([good, tmp_path / "none"], tmp_path / "out")
    with pytest.raises(ValueError, match="no run"):
        write([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
