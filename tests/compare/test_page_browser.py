"""The comparison page in headless Chromium: nothing is fetched or fails, plots are drawn, tables sort, filters work."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from compare.study_runs import JCT, Runs

from edgenetllm.compare.__main__ import main
from edgenetllm.report.results import latency

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with its chromedriver")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1366,900",
)  # fmt: skip
EVIL = "<b>bold</b> & co"


def edge(megabytes: float) -> dict:
    return {
        "bundle": {"bytes": int(1e6 * megabytes), "dense_fp32_bytes": 4e6, "dense_fp16_bytes": 2e6, "dense_int8_bytes": 1e6,
                   "values": "fp16"},
        "decision_ms": {"torch dense": latency([8.0]), "torch sparse": latency([10 * megabytes])},
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, two models, and a run that failed."""
    logs = tmp_path_factory.mktemp("logs #1")
    for folder, task in (("abr", "abr"), ("cjs", "cjs")):
        runs = Runs(logs / folder, task=task, **({"metric": JCT} if task == "cjs" else {}))
        for seed in (1, 2):
            runs.write(0.97, sparsity=0.4, seed=seed, **edge(1.4))
            runs.write(0.90, sparsity=0.8, seed=seed, **edge(0.7))
        runs.write(0.2, method=EVIL, sparsity=0.8, **edge(0.7))
        if task == "abr":
            runs.write(0.95, model="other", sparsity=0.6, **edge(1.0))
    (logs / "broken").mkdir()
    (logs / "broken" / "run.json").write_text('{"status": "failed"}')
    assert main([str(logs)]) == 0
    return logs / "comparison.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        os.environ.pop(proxy, None)
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def opened(driver: "webdriver.Chrome", page: Path) -> "webdriver.Chrome":
    """The page, freshly loaded, with what happened since in the logs."""
    driver.get("about:blank")
    driver.get_log("performance"), driver.get_log("browser")
    driver.get(page.as_uri())
    return driver


def rows(section, table: str, column: int) -> list[str]:
    """Texts of a column, of the rows that are shown."""
    return section.parent.execute_script(
        "return [...arguments[0].querySelectorAll(`table.${arguments[1]} tbody tr`)].filter((row) => !row.hidden)"
        ".map((row) => row.cells[arguments[2]].textContent)", section, table, column,
    )  # fmt: skip


def shown(driver) -> list[str]:
    return [
        s.get_attribute("data-task") for s in driver.find_elements(By.CSS_SELECTOR, ".comparison") if s.is_displayed()
    ]


def drawn(driver, count: int) -> list:
    """All plots, once `count` of them are drawn."""
    found = lambda _: driver.find_elements(By.CSS_SELECTOR, "figure.plot .main-svg .scatterlayer")  # noqa: E731
    WebDriverWait(driver, 30).until(lambda _: len(found(_)) >= count)
    return driver.find_elements(By.CSS_SELECTOR, "figure.plot")


def test_it_opens_without_network_or_error_and_draws_three_plots_each(opened) -> None:
    for section in opened.find_elements(By.CSS_SELECTOR, ".comparison"):
        opened.execute_script("arguments[0].scrollIntoView()", section)
    plots = drawn(opened, 6)
    assert [plot.get_attribute("data-plot") for plot in plots] == ["sparsity", "latency", "size"] * 2
    for plot in plots:
        points = plot.find_elements(By.CSS_SELECTOR, ".scatterlayer .point")
        assert len(points) >= 3
        axes = [plot.find_element(By.CSS_SELECTOR, f".{axis}title").text for axis in ("x", "y")]
        assert all("[" in text or "QoE" in text for text in axes)
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1
    buttons = {button.get_attribute("data-title") for button in opened.find_elements(By.CSS_SELECTOR, ".modebar-btn")}
    known = {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale", "Reset axes"}
    assert buttons == known  # none that uploads the plot


def test_a_table_sorts_by_its_headers_with_mouse_and_keys(opened) -> None:
    section = opened.find_element(By.CSS_SELECTOR, '.comparison[data-task="abr"]')
    heads = section.find_elements(By.CSS_SELECTOR, "table.groups th")
    (column,) = [number for number, head in enumerate(heads) if head.text.startswith("size [MB]")]
    head, before = heads[column], rows(section, "groups", column)
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    after = rows(section, "groups", column)
    numbers = [float(text) for text in after if text != "–"]
    assert len(numbers) >= 7
    assert numbers == sorted(numbers)
    assert after[len(numbers) :] == ["–"] * (len(after) - len(numbers))  # what has no size stands last
    assert sorted(before) == sorted(after)
    assert before != after
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in rows(section, "groups", column)[: len(numbers)]] == numbers[::-1]
    heads[1].find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "none"
    names = rows(section, "groups", 1)
    assert names == sorted(names, key=str.lower)


def test_filters_hide_sections_rows_and_lines(opened) -> None:
    drawn(opened, 3)
    abr = opened.find_element(By.CSS_SELECTOR, '.comparison[data-task="abr"]')
    choose = {name: Select(opened.find_element(By.ID, f"filter-{name}")) for name in ("task", "data", "model")}
    assert shown(opened) == ["abr", "cjs"]
    choose["task"].select_by_visible_text("cjs")
    assert shown(opened) == ["cjs"]
    choose["task"].select_by_visible_text("all")
    choose["model"].select_by_visible_text("other")
    assert shown(opened) == ["abr"]
    assert set(rows(abr, "groups", 0)) == {"other", ""}  # baselines belong to every model
    assert rows(abr, "runs", 2) == ["other"]
    lines = (
        "return document.querySelector('figure.plot').data.filter((trace) => trace.visible).map((t) => t.meta.model)"
    )
    assert set(opened.execute_script(lines)) == {"other"}
    choose["model"].select_by_visible_text("all")
    opened.find_element(By.ID, "filter-text").send_keys("bold")
    assert rows(abr, "groups", 1) == [EVIL]
    assert opened.find_element(By.ID, "shown").text == "2 runs shown"


def test_a_name_above_the_plots_hides_its_line(opened) -> None:
    drawn(opened, 3)
    section = opened.find_element(By.CSS_SELECTOR, '.comparison[data-task="abr"]')
    chips = section.find_elements(By.CSS_SELECTOR, ".chip")
    assert any(chip.text == f"{EVIL}, tiny" for chip in chips)
    visible = "return document.querySelector('figure.plot').data.filter((trace) => trace.visible).length"
    before = opened.execute_script(visible)
    chips[1].click()
    assert chips[1].get_attribute("aria-pressed") == "false"
    assert opened.execute_script(visible) == before - 1
    section.find_element(By.CSS_SELECTOR, ".chips-all").click()
    assert opened.execute_script(visible) == 0


def test_links_lead_to_folders_that_exist(opened) -> None:
    links = [a.get_attribute("href") for a in opened.find_elements(By.CSS_SELECTOR, "table.runs a, table.left-out a")]
    assert len(links) == 5 + 6 + 1
    for link in links:
        assert Path(unquote(urlparse(link).path)).is_dir(), link
    assert "failed" in opened.find_element(By.ID, "left-out").text
