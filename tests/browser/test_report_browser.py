"""The report in a real browser: it draws everything, says nothing on the console, and answers pointer and keys."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from framefeat.report import build

from tests.unit.report.report_fixture import colour_features, drawn, write_run

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the Python package selenium")
BROWSER = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver (apt: chromium chromium-driver)"
)

NASTY = "<script>document.title='broken'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    videos = [
        drawn("scenes", [6, 8, 5], seed=1),
        drawn("hurt", [10, 10], seed=2, bad=[7, 8], problems=["rows 7 and 8: the decoder gave no frame"]),
        drawn(NASTY, [5, 5], seed=3, clamped=[9]),
        *(drawn(f"other {number}", [4, 4], seed=10 + number) for number in range(6)),
    ]
    results = write_run(
        root, videos, {"one": colour_features, "two": lambda frames: colour_features(frames) ** 2}
    )
    jobs = {name: root / name / "demo" for name in ("benchmarks", "logs")}
    build.build(results, root / "report.html", **jobs)
    return root / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def load(browser: Any, page: Path, width: int, theme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    browser.get_log("browser")
    browser.get(page.as_uri())


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
    return value


def complaints(browser: Any) -> list[str]:
    return [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_is_drawn(browser: Any, page: Path, width: int, theme: str) -> None:
    load(browser, page, width, theme)
    count = browser.execute_async_script("const done = arguments[0]; framefeat.drawAll().then(done)")
    assert count == 1 + 1 + 2 * 9 + 3 + 1  # stages, map, two per video, three histograms, throughput
    state = browser.execute_script("return framefeat")
    assert state["failed"] == []
    blank = browser.execute_script("""
        return [...document.querySelectorAll("[data-chart]")].filter((node) => node.clientWidth).filter((node) =>
            !node.querySelector(".main-svg") || !node.querySelector(".points path, .point, .lines path, .hm image, .bars path, .boxes path, .box"))
            .map((node) => node.dataset.chart)""")
    assert blank == []
    # Nothing is wider than the window, and no chart than its place.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = browser.execute_script("""
        return [...document.querySelectorAll("[data-chart]")].filter((node) => node.clientWidth && Math.abs(node._fullLayout.width - node.clientWidth) > 2).length""")
    assert wide == 0
    # The matrix is square.
    shape = browser.execute_script(
        "const {w, h} = document.querySelector('[data-chart=matrix]')._fullLayout._size; return [w, h]"
    )
    assert shape[0] == pytest.approx(shape[1], abs=3)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in background[4:-1].split(",")) < 200) == (theme == "dark")
    assert browser.title == "demo: frame features"
    assert complaints(browser) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_doubtful_is_amber_and_a_gap_has_no_picture(browser: Any, tmp_path: Path, theme: str) -> None:
    videos = [drawn("off", [9, 9], seed=1, doubts=["the index says 30 fps"]), drawn("fine", [4, 4], seed=2)]
    build.build(write_run(tmp_path, videos), tmp_path / "doubtful.html")
    load(browser, tmp_path / "doubtful.html", 1280, theme)
    red, green, blue = browser.execute_script("""
        const colour = getComputedStyle(document.querySelector(".verdict")).borderColor;
        return colour.match(/\\d+/g).slice(0, 3).map(Number)""")
    assert red > green > blue
    assert browser.execute_script("""
        return getComputedStyle(document.querySelector("#v-0-0")).borderColor ===
            getComputedStyle(document.querySelector(".verdict")).borderColor""")
    videos[0] = drawn("off", [9, 9], seed=1, bad=[16, 17], problems=["rows 16 and 17: broken"])
    build.build(write_run(tmp_path / "bad", videos), tmp_path / "bad.html")
    load(browser, tmp_path / "bad.html", 1280, theme)
    browser.execute_async_script("const done = arguments[0]; framefeat.drawAll().then(done)")
    covered = browser.execute_script("""
        const strip = document.querySelector("#v-0-0 .strip"), gap = strip.querySelector(".gone").getBoundingClientRect();
        return [...strip.querySelectorAll(".pic")].map((one) => one.getBoundingClientRect().right - gap.left)""")
    assert max(covered) < 1
    assert complaints(browser) == []


def test_map_answers_pointer_and_keys(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    load(browser, page, 1280, "light")
    chart = browser.find_element(By.CSS_SELECTOR, "[data-chart=map]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    wait_for(lambda: chart.get_attribute("data-drawn"))
    points = wait_for(lambda: chart.find_elements(By.CSS_SELECTOR, ".points path.point"))
    # A mark that stands alone, so that nothing lies above it.
    target = points[browser.execute_script("""
        const boxes = [...arguments[0].querySelectorAll(".trace:first-child .points path")].map((path) => path.getBoundingClientRect());
        const gap = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
        const alone = boxes.map((a) => Math.min(...boxes.filter((b) => b !== a).map((b) => gap(a, b))));
        return alone.indexOf(Math.max(...alone))""", chart)]  # fmt: skip
    ActionChains(browser).move_to_element(target).pause(0.3).perform()
    tip = browser.find_element(By.ID, "tip")
    wait_for(tip.is_displayed)
    assert tip.find_elements(By.CSS_SELECTOR, ".pic")
    words = tip.text
    ActionChains(browser).click(target).perform()
    panel = browser.find_element(By.CSS_SELECTOR, "[data-role=panel]")
    wait_for(
        lambda: (
            panel.find_elements(By.CSS_SELECTOR, ".chosen .id")
            and panel.find_element(By.CSS_SELECTOR, ".chosen .id").text in words
        )
    )
    near = panel.find_elements(By.CSS_SELECTOR, ".near button")
    assert len(near) >= 6
    assert all(button.find_elements(By.CSS_SELECTOR, ".pic[role=img][aria-label]") for button in near)
    label = near[0].get_attribute("aria-label").split(", cosine")[0]
    near[0].click()
    slider = browser.find_element(By.CSS_SELECTOR, "[data-role=step]")
    wait_for(lambda: slider.get_attribute("aria-valuetext") == label)
    slider.send_keys(Keys.ARROW_RIGHT)
    wait_for(lambda: slider.get_attribute("aria-valuetext") != label)
    assert complaints(browser) == []


def test_video_answers_pointer_and_keys(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    load(browser, page, 1280, "light")
    video = browser.find_element(By.CSS_SELECTOR, "details.video")
    assert video.find_element(By.TAG_NAME, "h3").text == "hurt"
    browser.execute_script("arguments[0].scrollIntoView({block: 'start', behavior: 'instant'})", video)
    line, matrix = (
        video.find_element(By.CSS_SELECTOR, f"[data-chart={name}]") for name in ("line", "matrix")
    )
    wait_for(lambda: line.get_attribute("data-drawn") and matrix.get_attribute("data-drawn"))
    assert len(video.find_elements(By.CSS_SELECTOR, ".strip .pic")) >= 8
    assert video.find_elements(By.CSS_SELECTOR, ".strip .gone")
    readout = video.find_element(By.CSS_SELECTOR, "[data-role=readout]")
    assert readout.text.startswith("Row 19 · 0 s")
    slider = video.find_element(By.CSS_SELECTOR, "[data-role=row]")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait_for(lambda: readout.text.startswith("Row 21 · 1 s"))
    ActionChains(browser).move_to_element(line).pause(0.3).perform()
    wait_for(lambda: not readout.text.startswith("Row 21"))
    ActionChains(browser).move_to_element_with_offset(matrix, -60, -120).pause(0.3).perform()
    pair = video.find_element(By.CSS_SELECTOR, "[data-role=pair]")
    wait_for(lambda: "cosine" in pair.text)
    assert len(pair.find_elements(By.CSS_SELECTOR, ".pic")) == 2
    assert complaints(browser) == []


def test_theme_backbone_filter_and_links(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    load(browser, page, 1280, "light")
    toggle = browser.find_element(By.ID, "theme")
    toggle.click()
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
    browser.find_elements(By.CSS_SELECTOR, "[data-choose]")[1].click()
    shown = browser.find_elements(By.CSS_SELECTOR, ".tiles .long dd")
    assert [element.is_displayed() for element in shown] == [False, True]
    filters = [
        field
        for field in browser.find_elements(By.CSS_SELECTOR, "[data-role=filter]")
        if field.is_displayed()
    ]
    filters[0].send_keys("other")
    rows = [row for row in browser.find_elements(By.CSS_SELECTOR, "table.all tbody tr") if row.is_displayed()]
    assert len(rows) == 6
    # A link from the table unfolds a folded video.
    link = rows[-1].find_element(By.TAG_NAME, "a")
    target = browser.find_element(By.ID, link.get_attribute("href").split("#")[1])
    assert target.get_attribute("open") is None
    link.send_keys(Keys.ENTER)
    wait_for(lambda: target.get_attribute("open") is not None)
    wait_for(lambda: target.find_element(By.CSS_SELECTOR, "[data-chart=matrix]").get_attribute("data-drawn"))
    assert complaints(browser) == []


def test_nothing_is_fetched(browser: Any, page: Path) -> None:
    browser.get_log("performance")
    load(browser, page, 1280, "light")
    browser.execute_async_script("const done = arguments[0]; framefeat.drawAll().then(done)")
    import json

    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [
        message["params"]["request"]["url"]
        for message in asked
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [
        address[:60] for address in addresses if not address.startswith(("file:", "data:", "blob:"))
    ] == []


def test_everything_that_acts_can_be_reached_by_keys_and_has_a_name(browser: Any, page: Path) -> None:
    load(browser, page, 1280, "light")
    nameless = browser.execute_script("""
        const named = (node) => node.getAttribute("aria-label") || node.textContent.trim() || (node.labels && node.labels.length && node.labels[0].textContent.trim());
        return [...document.querySelectorAll("button, a[href], input, select, summary, [role=img], [role=region]")].filter((node) => !named(node)).map((node) => node.outerHTML.slice(0, 120))""")
    assert nameless == []


@pytest.mark.parametrize("width", [1280, 1000, 760, 560, 400])
def test_the_tables_fit_their_page(browser: Any, page: Path, width: int) -> None:
    """At each width at which the style changes, and between them: nothing to scroll sideways for."""
    for exact in (width, width - 120 if width > 520 else width):
        load(browser, page, exact, "light")
        too_wide = browser.execute_script("""
            return [...document.querySelectorAll(".scroll")].filter((one) => one.clientWidth && one.scrollWidth > one.clientWidth)
                .map((one) => [one.getAttribute("aria-label"), one.scrollWidth, one.clientWidth])""")
        assert too_wide == []


def column(browser: Any, number: int) -> list[str]:
    """What stands in a column of the table that is seen, from above."""
    return browser.execute_script(
        """
        const table = [...document.querySelectorAll("table.all")].find((one) => one.clientWidth);
        return [...table.tBodies[0].rows].map((row) => row.cells[arguments[0]].textContent)""",
        number,
    )


def test_the_table_sorts(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    load(browser, page, 1280, "light")
    heads = browser.find_elements(By.CSS_SELECTOR, "[data-backbone='0'] table.all thead button")
    heads[0].send_keys(Keys.ENTER)
    assert column(browser, 0) == sorted(column(browser, 0), key=str.lower)
    heads[1].send_keys(Keys.ENTER)
    assert column(browser, 1)[0] == "not verified"
    heads[1].send_keys(Keys.ENTER)
    assert column(browser, 1)[-1] == "not verified"
    heads[2].send_keys(Keys.ENTER)
    rows = [int(text) for text in column(browser, 2)]
    assert rows == sorted(rows, reverse=True)
    assert heads[2].find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    assert complaints(browser) == []


def test_a_video_without_frames_has_nothing_drawn_and_sorts_last(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    videos = [drawn("none", [3], seed=1, bad=[0, 1, 2]), drawn("a", [4, 4], seed=2), drawn("b", [4], seed=3)]
    build.build(write_run(tmp_path, videos), tmp_path / "none.html")
    load(browser, tmp_path / "none.html", 1280, "light")
    browser.execute_async_script("const done = arguments[0]; framefeat.drawAll().then(done)")
    video = next(
        one
        for one in browser.find_elements(By.CSS_SELECTOR, "details.video")
        if one.find_element(By.TAG_NAME, "h3").text == "none"
    )
    assert video.find_elements(By.CSS_SELECTOR, ".main-svg, .strip, input") == []
    assert "nothing to draw" in video.text
    cuts = browser.find_elements(By.CSS_SELECTOR, "table.all thead button")[7]
    for expected in (["1", "0", ""], ["0", "1", ""]):
        browser.execute_script("arguments[0].click()", cuts)
        assert column(browser, 7) == expected
    assert complaints(browser) == []


def test_the_line_that_loads_is_copied_or_selected(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By

    load(browser, page, 1280, "light")
    button = browser.find_element(By.CSS_SELECTOR, "[data-copy]")
    line = browser.find_element(By.ID, button.get_attribute("data-copy")).text
    button.click()
    wait_for(lambda: button.text in ("Copied", "Selected: press Ctrl+C"))
    assert browser.execute_script("return getSelection().toString()") == line
    wait_for(lambda: button.text == "Copy")
    assert complaints(browser) == []
