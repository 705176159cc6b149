from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from pfstudy.report.page import write_page
from pfstudy.stats.effects import Effect
from pfstudy.tables.audit import audit_records
from pfstudy.tables.content import make_content
from pfstudy.tables.effects import JudgedEffects
from pfstudy.tables.rows import make_rows
from records import make_record

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="chromium and chromedriver are not installed; on Debian: apt install chromium-driver",
)

ODD = "<script>alert(1)</script>\"'</script><img src=x onerror=alert(1)>"
VARIANTS = {  # label: accuracy, relative time
    "original": (97.0, 1.0),
    "maxpool": (96.0, 0.8),
    "avgpool": (95.5, 0.75),
    "dwconv": (96.8, 1.2),
    "stage2=maxpool": (96.5, 0.9),
    ODD: (94.0, 0.7),
}
EFFECTS = JudgedEffects(
    "stage",
    (Effect("stage1", "maxpool", -0.5, 0.2), Effect("stage2", "maxpool", 0.1, 0.3)),
    *(False, 0.9, 4, 0.8, 0.1),
)

# the colours that text is seen in, blended over what lies behind it
CONTRASTS = """
const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, below) =>
  top.slice(0, 3).map((each, i) => top[3] * each + (1 - top[3]) * below[i]);
const behind = (node) => {
  if (!node) return rgba("canvas").slice(0, 3);
  const own = rgba(getComputedStyle(node).backgroundColor);
  return own[3] === 1 ? own.slice(0, 3) : over(own, behind(node.parentElement));
};
const luminance = (colour) => {
  const [r, g, b] = colour.map((each) => each / 255)
    .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
return [...document.querySelectorAll(arguments[0])]
  .filter((node) => node.textContent.trim() && node.getClientRects().length)
  .map((node) => {
    const isDrawn = node instanceof SVGElement;
    const style = getComputedStyle(node);
    const back = behind(isDrawn ? node.closest("div") : node);
    const front = over(rgba(isDrawn ? style.fill : style.color), back);
    const [low, high] = [luminance(front), luminance(back)].sort((a, b) => a - b);
    const name = node.tagName + " " + node.textContent.trim().slice(0, 30);
    return [name, (high + 0.05) / (low + 0.05)];
  });
"""


class Browser:
    """The page in Chromium, and what a person does with it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def load(self, fragment: str = "", *, dark: bool = False, width: int = 1360) -> None:
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.emulate("dark" if dark else "light")
        self.driver.get("about:blank")  # or only the fragment would change
        self.driver.get(self.url + fragment)
        self.wait(lambda: self.run("return performance.getEntriesByName('interactive').length"))
        self.wait(lambda: self.all("#curves svg"))

    def emulate(self, scheme: str, media: str = "screen") -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        settings = {"media": media, "features": [feature]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", settings)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, until: Callable[[], Any]) -> Any:
        redrawn = [StaleElementReferenceException]  # while it was looked at
        waiting = WebDriverWait(self.driver, 20, poll_frequency=0.05, ignored_exceptions=redrawn)
        return waiting.until(lambda _: until())

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def actions(self) -> ActionChains:
        return ActionChains(self.driver, duration=60)

    @property
    def rows(self) -> list[str]:
        """Names of the variants that the table shows, from above."""
        names = "[...document.querySelectorAll('#table tbody tr:not([hidden]) th')]"
        found: list[str] = self.run(f"return {names}.map((each) => each.textContent)")
        return found

    @property
    def points(self) -> list[Any]:
        return self.all("#scatter .mark-symbol.role-mark path")[: len(VARIANTS)]

    @property
    def faint(self) -> list[bool]:
        """Of every point, whether it is dimmed."""
        return [float(point.get_attribute("opacity")) < 0.5 for point in self.points]

    @property
    def shown(self) -> str:
        """The variant whose details are shown."""
        name: str = self.one("#variant-heading").text
        return name

    @property
    def focused(self) -> str:
        """What has the focus."""
        found: str = self.run("return document.activeElement.textContent")
        return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of six variants with two seeds; one has a hostile name and operation."""
    records = []
    for label, (accuracy, ratio) in VARIANTS.items():
        for seed in (0, 1):
            record = make_record(
                label,
                accuracy + 0.1 * seed,
                seed=seed,
                speed=(2 * ratio, ratio),
                macs=int(1e9 * ratio),
            )
            ends = {"relative_latency_low": 0.97 * ratio, "relative_latency_high": 1.03 * ratio}
            record["speed"][0].update(ends)
            second = label.removeprefix("stage2=")
            first = "original" if label.startswith("stage2") else label
            record["variant"]["operations"] = {
                **{f"stage1.block{block}": first for block in (1, 2)},
                **{f"stage2.block{block}": second for block in (1, 2)},
            }
            records.append(record)
    curves = pd.DataFrame(
        {
            "hash": record["identity"]["hash"],
            "seed": record["seed"],
            "epoch": epoch,
            "val_top1_percent": record["metrics"]["test_top1_percent"] - 60 * math.exp(-epoch / 3),
        }
        for record in records
        for epoch in range(1, 16)
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(
        path,
        f"Study {ODD}",
        make_content(make_rows(records)),
        audit_records(records),
        records=records,
        curves=curves,
        models=[EFFECTS],
        sources=[ODD],
    )
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One Chromium without a network for all tests of this module."""
    profile = tmp_path_factory.mktemp("profile")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    # root may not use the sandbox, and containers have a small /dev/shm
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        chromium.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        chromium.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield chromium
    finally:
        chromium.quit()
        _end_processes_of(profile)


def _end_processes_of(profile: Path) -> None:
    """End what a browser left running: those processes that were started with its profile."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_ours = os.fsencode(f"--user-data-dir={profile}") in entry.read_bytes()
            if is_ours:
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:
            continue


@pytest.fixture
def page(driver: webdriver.Chrome, report: Path) -> Iterator[Browser]:
    """The page as it opens; whatever a test does, nothing may come up on the console."""
    browser = Browser(driver, report.as_uri())
    browser.load()
    yield browser
    assert driver.get_log("browser") == []


def test_it_opens_offline_and_requests_nothing_but_itself(page: Browser, report: Path) -> None:
    page.driver.get_log("performance")
    page.load()
    page.one("#table tbody tr:nth-child(2) button").click()
    page.wait(lambda: page.shown == "maxpool")
    logged = [
        json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")
    ]
    asked = [
        message["params"]["request"]["url"]
        for message in logged
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith(("data:", "about:"))} == {report.as_uri()}
    assert len(page.points) == len(VARIANTS)


def test_headers_sort_by_click_and_by_keyboard(page: Browser) -> None:
    head = page.one("th[data-key=test_top1_percent]")
    assert head.get_attribute("aria-sort") == "none"
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    best_first = sorted(VARIANTS, key=lambda label: -VARIANTS[label][0])
    assert page.rows == ["original (conv)", *best_first[1:]]
    page.press(Keys.ENTER)  # the button has the focus
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.rows[0] == ODD
    page.one("th[data-key=variant] button").send_keys(Keys.SPACE)
    assert head.get_attribute("aria-sort") == "none"
    assert [name for name in page.rows if name != ODD] == [
        *("avgpool", "dwconv", "maxpool", "original (conv)", "stage2=maxpool")
    ]


def test_a_filter_hides_rows_dims_points_and_says_how_many(page: Browser) -> None:
    assert page.one("#count").text == "6 of 6 variants"
    assert page.one("#count").get_attribute("role") == "status"
    assert not page.one("#clear").is_enabled()
    page.one("#filter").send_keys("maxpool")
    assert page.rows == ["maxpool", "stage2=maxpool"]
    assert page.one("#count").text == "2 of 6 variants"
    page.wait(lambda: page.faint == [label not in page.rows for label in VARIANTS])
    page.one("#filter").send_keys(" stage2")
    assert page.rows == ["stage2=maxpool"]
    page.one("#clear").click()
    assert len(page.rows) == len(VARIANTS)
    page.wait(lambda: not any(page.faint))


def test_dragging_over_points_filters_the_table(page: Browser) -> None:
    place = {label: point.rect for label, point in zip(VARIANTS, page.points, strict=True)}
    left, right = place["avgpool"], place["maxpool"]  # nothing else is between them
    across = math.ceil(right["x"] - left["x"]) + 12
    down = math.ceil(left["y"] - right["y"]) + 12
    start = page.points[list(VARIANTS).index("avgpool")]
    actions = page.actions().move_to_element_with_offset(start, -9, 9).click_and_hold()
    actions.move_by_offset(across + 9, -down - 9).release().perform()
    page.wait(lambda: sorted(page.rows) == ["avgpool", "maxpool"])
    assert page.one("#count").text == "2 of 6 variants"
    assert page.faint == [label not in ("avgpool", "maxpool") for label in VARIANTS]
    page.one("#filter").send_keys("avgpool")  # both at once
    assert page.rows == ["avgpool"]
    page.one("#clear").click()
    page.wait(lambda: len(page.rows) == len(VARIANTS) and not any(page.faint))


def test_clicking_a_point_shows_the_variant(page: Browser) -> None:
    assert page.shown == "original (conv)"
    page.actions().move_to_element(page.points[3]).perform()
    page.wait(lambda: "dwconv" in page.one("#tip").text)
    assert "top-1 (%): 96.85" in page.one("#tip").text
    page.actions().click().perform()
    page.wait(lambda: page.shown == "dwconv")
    assert page.one("#table tr[aria-current]").text.startswith("dwconv")
    page.wait(lambda: "dwconv ends at" in page.one("#curves").get_attribute("aria-label"))
    # a ring is around it
    assert len(page.all("#scatter .mark-symbol.role-mark path")) == len(VARIANTS) + 1


def test_enter_on_a_row_shows_blocks_curves_and_difference(page: Browser) -> None:
    page.one("#table tbody button").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.focused == "avgpool"
    page.press(Keys.END)
    page.press(Keys.ARROW_UP)
    assert page.focused == "stage2=maxpool"
    page.press(Keys.ENTER)
    page.wait(lambda: page.shown == "stage2=maxpool")
    assert page.focused == "stage2=maxpool"  # the heading of the details
    assert page.run("return location.hash").startswith("#variant=base-stage2")
    label = page.one("#diagram").get_attribute("aria-label")
    assert label == "Blocks in order. stage1: original, original; stage2: maxpool, maxpool."
    assert [block.text for block in page.all("#diagram .replaced")] == ["1\nmaxpool", "2\nmaxpool"]
    assert [item.text for item in page.all("#legend li")] == [
        *("original (conv): 2 of 4 blocks", "maxpool: 2 of 4 blocks")
    ]
    page.wait(lambda: "stage2=maxpool ends" in page.one("#curves").get_attribute("aria-label"))
    assert len(page.all("#curves .mark-line path")) == 4  # with the baseline
    assert [cell.text for cell in page.all("#difference tbody tr > *")] == [
        *("layer1.0.conv2", "conv", "stage2=maxpool")
    ]


def test_a_link_leads_to_a_variant(page: Browser) -> None:
    page.load("#variant=base-maxpool")
    page.wait(lambda: page.shown == "maxpool")
    page.load("#variant=%zz")  # no variant, and no text either
    assert page.shown == "original (conv)"


def test_curves_of_several_variants_can_be_compared(page: Browser) -> None:
    page.one("#keep").click()
    assert not page.one("#keep").is_enabled()
    page.one("#table tbody tr:nth-child(2) button").click()
    page.wait(lambda: page.one("#keep").is_enabled())
    page.one("#keep").click()
    page.one("#table tbody tr:nth-child(3) button").click()
    label = "return document.getElementById('curves').getAttribute('aria-label')"
    page.wait(lambda: all(each in page.run(label) for each in ("original", "maxpool", "avgpool")))
    page.one("#kept button[aria-label$='maxpool']").click()
    page.wait(lambda: "maxpool" not in page.run(label))


def test_menus_choose_cost_and_colour(page: Browser) -> None:
    def texts() -> str:
        found: str = page.run("return document.getElementById('scatter').textContent")
        return found

    cost = Select(page.one("#cost"))
    assert [option.text for option in cost.options][:3] == [
        "latency (ms)",
        "MACs (G)",
        "params (M)",
    ]
    cost.select_by_visible_text("MACs (G)")
    page.wait(lambda: "MACs (G)" in texts())
    Select(page.one("#colour")).select_by_visible_text("stage 2")
    page.wait(lambda: len(page.all("#scatter .role-legend-symbol")) == 5)


AS_TEXT = """
    h1, h2, h3, p, dt, dd, td, th, caption, label, select, input, small, button:enabled, #count,
    .verdict, .key, .label, .figures b, .block, .place, .name, li, #scatter text, #curves text
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out(page: Browser, dark: bool) -> None:
    page.load("#variant=base-maxpool", dark=dark)
    found = page.run(CONTRASTS, AS_TEXT)
    assert len(found) > 100
    assert [each for each in found if each[1] < 4.5] == []


def test_the_theme_follows_the_system(page: Browser) -> None:
    before = page.one("#scatter text").get_attribute("fill")
    page.emulate("dark")
    page.wait(lambda: page.one("#scatter text").get_attribute("fill") != before)
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"


def test_assistive_technology_finds_its_way(page: Browser) -> None:
    assert [len(page.all(tag)) for tag in ("main", "header", "footer", "h1", "html[lang=en]")] == [
        1
    ] * 5
    levels = [int(heading.tag_name[1]) for heading in page.all("h1, h2, h3")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for section in page.all("section"):
        assert section.accessible_name, section.get_attribute("outerHTML")[:80]
    for control in page.all("button, select, input, [tabindex='0']"):
        assert control.accessible_name, control.get_attribute("outerHTML")
    for picture in page.all("[role=img]"):
        assert len(picture.accessible_name) > 20
    for table in page.all("table"):
        assert table.find_elements(By.TAG_NAME, "caption")
    assert {head.get_attribute("scope") for head in page.all("th")} == {"col", "row", "colgroup"}
    assert page.one("#variant").accessible_name == "original (conv)"


def test_tab_reaches_every_control_and_shows_where_it_is(page: Browser) -> None:
    page.one("#filter").send_keys("o")  # or there is nothing to clear
    page.run(
        "document.activeElement.blur(); window.getSelection().removeAllRanges(); scrollTo(0, 0)"
    )
    page.load()
    wanted = page.run(
        "return [...document.querySelectorAll('a[href], button, select, input, [tabindex=\"0\"]')]"
        ".filter((each) => each.tabIndex === 0 && !each.disabled && each.getClientRects().length)"
    )
    reached, unseen = [], []
    for _ in range(len(wanted)):
        page.press(Keys.TAB)
        element = page.driver.switch_to.active_element
        reached.append(element)
        if element.value_of_css_property("outline-style") == "none":
            unseen.append(element.get_attribute("outerHTML"))
    assert reached == wanted
    assert unseen == []
    assert len(wanted) > 15


def test_a_narrow_page_does_not_scroll_sideways(page: Browser) -> None:
    page.load("#variant=base-maxpool", width=390)
    assert page.run("return document.documentElement.scrollWidth") <= 390
    assert page.run("return document.querySelector('.results').scrollWidth") > 390  # but the table
    svg = page.one("#scatter svg").rect
    assert svg["x"] + svg["width"] <= 390


def test_hostile_text_stays_text(page: Browser) -> None:
    assert page.one("h1").text == f"Study {ODD}"
    assert page.all("img, svg image") == []
    assert len(page.all("script")) == 4
    page.all("#table tbody button")[-1].click()
    page.wait(lambda: page.shown == ODD)
    assert page.all("#diagram .block")[0].get_attribute("title") == f"block1: {ODD}"
    assert page.all("#difference td")[-1].text == ODD
    page.actions().move_to_element(page.points[-1]).perform()
    page.wait(lambda: ODD in page.one("#tip").text)
    assert page.all("img, #tip script") == []
    page.one("#filter").send_keys("onerror=alert(1)>")
    assert page.rows == [ODD]


def test_paper_has_no_controls_and_the_whole_table(page: Browser) -> None:
    page.emulate("light", "print")
    assert not any(each.is_displayed() for each in page.all(".controls, .skip, #tip"))
    assert page.one("#table-notes").is_displayed()
    assert (
        page.run("return getComputedStyle(document.querySelector('.results')).maxHeight") == "none"
    )
