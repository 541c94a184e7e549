"""The page in a browser: headless Chromium, from a file, without a network."""

from __future__ import annotations

import base64
import json
import re
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from mux.report.writer import write

pytestmark = pytest.mark.browser

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1300,1000")
SECTIONS = ("runs", "scores", "pareto", "paper", "ensembling", "composition", "throughput", "muxology", "curves",
            "profile", "diagnostics")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    assert all(programs), "the report is tested in a browser: apt install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    yield driver
    driver.quit()


def scheme(browser, name):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": name}]})


@pytest.fixture
def page(browser, report):
    """The page as it opens, with SST-2 chosen among the planes."""
    browser.get_log("performance")
    scheme(browser, "light")
    browser.get((report / "index.html").as_uri())
    Select(browser.find_element(By.CSS_SELECTOR, "#pareto select")).select_by_visible_text("SST-2")
    return browser


def column(page, table, name):
    """The head cell of a column and a function that reads its cells."""
    heads = page.find_elements(By.CSS_SELECTOR, f"#table-{table} th")
    index = next(index for index, head in enumerate(heads) if head.text.strip() == name)
    return heads[index], lambda: page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(c => c.textContent)",
        f"#table-{table} tbody td:nth-child({index + 1})")


def values(texts):
    return [float(re.sub(r"[,×]| .*", "", text.replace("\N{MINUS SIGN}", "-"))) for text in texts]


def test_nothing_is_wrong_and_nothing_is_fetched(page):
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [message["params"]["request"]["url"] for message in messages
             if message["method"] == "Network.requestWillBeSent"
             and message["params"]["documentURL"].endswith("/index.html")]
    assert asked.pop(0).startswith("file:") and all(url.startswith("data:") for url in asked)


def test_every_section_has_its_figures_and_tables(page):
    for name in SECTIONS:
        section = page.find_element(By.ID, name)
        assert section.find_elements(By.TAG_NAME, "h2") and not section.find_elements(By.CLASS_NAME, "missing"), name
        assert section.find_elements(By.CSS_SELECTOR, "figure svg, table"), name
        shown = [item for item in section.find_elements(By.CSS_SELECTOR, "figure, .table") if item.is_displayed()]
        assert shown and all(item.size["height"] > 50 and item.size["width"] > 100 for item in shown), name
    sizes = page.execute_script("""
        for (const item of document.querySelectorAll("[data-choice]")) item.hidden = false;
        return [...document.querySelectorAll("figure svg.figure, .table table")].map(
            item => [item.getBoundingClientRect().width, item.getBoundingClientRect().height])""")
    assert len(sizes) > 40 and all(width > 100 and height > 20 for width, height in sizes)
    marks = page.execute_script("""
        return [...document.querySelectorAll("svg.figure use")].map(
            use => Math.max(use.getBBox().width, use.getBBox().height))""")
    assert len(marks) > 500 and min(marks) > 0


def test_the_menu_shows_one_task_at_a_time(page):
    select = Select(page.find_element(By.CSS_SELECTOR, "#pareto select"))
    names = [option.text for option in select.options]
    assert names[:2] == ["STS-B", "SST-2"] and any("Figure 4" in name for name in names)
    for name in ("SST-2", "STS-B"):
        select.select_by_visible_text(name)
        shown = [figure for figure in page.find_elements(By.CSS_SELECTOR, "#pareto figure") if figure.is_displayed()]
        assert [figure.find_element(By.TAG_NAME, "figcaption").text for figure in shown] == [name]


def test_a_click_on_a_head_sorts_by_number_and_back(page):
    head, cells = column(page, "pareto_sst2", "instances/s")
    button = head.find_element(By.TAG_NAME, "button")
    before = values(cells())
    assert before != sorted(before)
    button.click()
    assert values(cells()) == sorted(before) and head.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert values(cells()) == sorted(before, reverse=True) and head.get_attribute("aria-sort") == "descending"
    other, texts = column(page, "pareto_sst2", "run")
    other.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") is None and other.get_attribute("aria-sort") == "ascending"
    names = texts()
    assert names.index("bert_base_n5") < names.index("bert_base_n10")  # numbers in names count as numbers


def test_cells_that_stand_beside_the_paper_s_are_sorted_by_ours_and_empty_ones_go_last(page):
    head, cells = column(page, "table_9", "SST2")
    for _ in range(2):
        head.find_element(By.TAG_NAME, "button").click()
        texts = cells()
        assert not texts[0].startswith("–") and not texts[1].startswith("–") and texts[-1].startswith("–")


def test_hovering_over_a_point_of_the_plane_shows_its_numbers(page):
    tip = page.find_element(By.ID, "tip")
    assert not tip.is_displayed()
    points = page.find_elements(By.CSS_SELECTOR, "#figure-pareto_sst2 [data-tip]:not(.paper)")
    assert len(points) == 9  # copies: 1; 1, 2, 5; 1, 2; 1, 2, 10
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[0])
    ActionChains(page).move_to_element(points[0]).perform()
    assert tip.is_displayed()
    assert "bert_base_n1: bert BASE, N = 1, 1 copy" in tip.text and "x BERT BASE" in tip.text
    assert re.search(r"\d\d\.\d\d % accuracy ±\d", tip.text) and re.search(r"95 %: [\d.]+ to [\d.]+", tip.text)
    box = tip.rect
    width = page.execute_script("return document.body.clientWidth")
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    ActionChains(page).move_to_element(page.find_element(By.CSS_SELECTOR, "#pareto h2")).perform()
    assert not tip.is_displayed()
    page.execute_script("arguments[0].focus()", points[-1])
    assert tip.is_displayed() and "bert_base_n10" in tip.text
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_the_paper_s_models_can_be_hidden(page):
    grey = page.find_elements(By.CSS_SELECTOR, "#figure-pareto_sst2 .paper")
    assert len(grey) > 10 and all(point.is_displayed() for point in grey[:3])
    box = page.find_element(By.CLASS_NAME, "paper-toggle")
    box.click()
    assert not any(point.is_displayed() for point in grey)
    box.click()
    assert grey[0].is_displayed()


CONTRAST = """
const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
  return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
const ground = luminance(getComputedStyle(document.body).backgroundColor);
return arguments[0].map(selector => { const one = document.querySelector(selector), style = getComputedStyle(one);
  const [low, high] = [luminance(one instanceof SVGElement ? style.fill : style.color), ground].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05); });
"""
READ = ["#runs h2", ".lead", ".note", "td", ".theirs", ".better, .worse", "nav a", "#figure-pareto_sst2 text",
        "#figure-curves_stage_pretrain text"]


@pytest.mark.parametrize("name", ["light", "dark"])
def test_texts_are_readable_on_light_and_dark(page, name):
    scheme(page, name)
    page.refresh()
    assert page.execute_script("return document.documentElement.dataset.theme") == name
    assert min(page.execute_script(CONTRAST, READ)) >= 4.5
    colours = page.execute_script(CONTRAST, ["#figure-pareto_sst2 [data-tip]:not(.paper) [style*=fill]"])
    assert colours[0] >= 3  # of marks
    page.find_element(By.ID, "theme").click()
    assert page.execute_script("return document.documentElement.dataset.theme") == ({"light", "dark"} - {name}).pop()


def test_a_phone_scrolls_tables_not_the_page(page):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                         {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 391
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_prints(page):
    printed = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"landscape": True})["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") > 3


@pytest.mark.processes
def test_the_page_of_a_real_run_opens(browser, finished, maker, tmp_path):
    page = write([finished.path, maker.run("bert_base_n2", 2, tasks=["sst2"])], tmp_path / "out")
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    tuned = finished.stage("finetune")["tasks"]
    html = page.read_text()
    for task, scores in tuned.items():
        assert f'id="figure-pareto_{task}"' in html and f'id="figure-confusion_{task}"' in html
        assert f"{100 * scores['mean']:.2f} ±" in html
    assert all(browser.find_elements(By.CSS_SELECTOR, f"#{name} :is(figure, .table)") for name in SECTIONS)
