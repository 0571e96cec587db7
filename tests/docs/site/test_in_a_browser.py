"""The site in a headless Chromium: search, copy buttons, figures, narrow screens, dark mode, no other host."""

import json
import time

import pytest

NARROW, WIDE = 375, 1280
LEAST_CONTRAST = 4.5  # of text against its background: WCAG 2.1, success criterion 1.4.3

# Return the texts of the page whose contrast is too low, with their contrast.
CONTRAST = """
const least = arguments[0], canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
function rgba(color) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
}
function luminance(color) {
  const [r, g, b] = Array.from(color).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function background(element) {
  for (let e = element; e; e = e.parentElement) {
    const color = rgba(getComputedStyle(e).backgroundColor);
    if (color[3] > 250) return color;
  }
  return rgba(getComputedStyle(document.body).backgroundColor);
}
const low = {}, texts = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
  if (!text || !element.getClientRects().length || element.closest("button, .headerlink")) continue;
  const a = luminance(rgba(getComputedStyle(element).color)), b = luminance(background(element));
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < least) low[text.slice(0, 40)] = contrast.toFixed(2);
}
return low;
"""
# Return what leaves the screen to the right, unless it is in a box that scrolls.
OVERFLOW = """
const width = document.documentElement.clientWidth;
function scrolls(element) {
  for (let e = element.parentElement; e && e.tagName != "ARTICLE"; e = e.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)) return true;
  return false;
}
const wide = Array.from(document.querySelectorAll("article, article *"))
  .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e)).map(e => e.outerHTML.slice(0, 100));
return document.documentElement.scrollWidth > width ? ["page", ...wide] : wide;
"""
# Lazy images are loaded only near the screen.
IMAGES = """
const images = Array.from(document.images), done = arguments[arguments.length - 1];
images.forEach(image => { image.loading = "eager"; });
Promise.all(images.map(image => image.decode().catch(() => 0))).then(
  () => done(images.filter(image => !image.naturalWidth).map(image => image.src)));
"""


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def use_scheme(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def requests(browser):
    """Return the addresses that the browser has asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    return {request["request"]["url"] for request in sent}


@pytest.fixture(scope="module")
def visits(site, address, browser):
    """Open every page on a narrow screen, light and dark, and return what is wrong with each."""
    found = {}
    requests(browser)
    resize(browser, NARROW)
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        if name.startswith("_"):
            continue
        use_scheme(browser, "light")
        browser.get(f"{address}/{name}")
        visit = {"overflow": browser.execute_script(OVERFLOW), "images": browser.execute_async_script(IMAGES)}
        visit["light"] = browser.execute_script(CONTRAST, LEAST_CONTRAST)
        use_scheme(browser, "dark")
        visit["dark"] = browser.execute_script(CONTRAST, LEAST_CONTRAST)
        visit["elsewhere"] = [url for url in requests(browser) if not url.startswith((address, "data:"))]
        found[name] = visit
    use_scheme(browser, "light")
    return found


@pytest.mark.parametrize("fault", ["overflow", "images", "light", "dark", "elsewhere"])
def test_no_page_has_this_fault(visits, fault):
    assert {name: visit[fault] for name, visit in visits.items() if visit[fault]} == {}


def test_faults_are_found(tmp_path, address, browser):
    resize(browser, NARROW)
    use_scheme(browser, "light")
    browser.get(f"{address}/start.html")
    browser.execute_script("""
      const [p, wide, image] = ["p", "div", "img"].map(name => document.createElement(name));
      p.textContent = "pale"; p.style.color = "#ccc"; wide.style.width = "2000px"; wide.textContent = "wide";
      image.src = "missing.png";
      document.querySelector("article").append(p, wide, image);
    """)
    assert list(browser.execute_script(CONTRAST, LEAST_CONTRAST)) == ["pale"]
    assert browser.execute_script(OVERFLOW)
    assert browser.execute_async_script(IMAGES) == [f"{address}/missing.png"]


def test_dark_mode_is_dark(address, browser):
    lightness = {}
    for scheme in ("light", "dark"):
        use_scheme(browser, scheme)
        browser.get(f"{address}/start.html")
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        lightness[scheme] = sum(int(part) for part in color[4:-1].split(",")) / 3
    use_scheme(browser, "light")
    assert lightness["light"] > 200
    assert lightness["dark"] < 60


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing was found in time"
        time.sleep(0.1)
    return found


def test_the_search_finds_fit(address, browser):
    resize(browser, WIDE)
    browser.get(f"{address}/index.html")
    box = browser.find_element("css selector", ".sidebar-search")
    box.send_keys("fit\n")
    links = wait_for(lambda: browser.find_elements("css selector", "#search-results li a"))
    assert "/search.html" in browser.current_url
    results = wait_for(lambda: [link.get_attribute("href") for link in links][:10])
    assert f"{address}/reference/train.html#jaxcnn.train.fit" in results


def test_code_blocks_are_copied(address, browser):
    resize(browser, WIDE)
    browser.get(f"{address}/start.html")
    ActionChains = pytest.importorskip("selenium.webdriver").ActionChains
    block = browser.find_element("css selector", "div.highlight-python")
    code = block.find_element("css selector", "pre").text
    button = block.find_element("css selector", "button.copybtn")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", block)
    # A browser lets a page write to the clipboard only after a real click.
    ActionChains(browser).move_to_element(block).pause(0.3).move_to_element(button).click().perform()
    read = "const done = arguments[0]; navigator.clipboard.readText().then(done, error => done(String(error)))"
    copied = wait_for(lambda: browser.execute_async_script(read))
    assert copied.strip() == code.strip()


def test_every_code_block_has_a_copy_button(site, address, browser):
    for name in ("start.html", "tutorials/first_network.html", "reference/layers.html"):
        browser.get(f"{address}/{name}")
        count = "return document.querySelectorAll(arguments[0]).length"
        blocks = browser.execute_script(count, "div.highlight pre")
        buttons = browser.execute_script(count, "div.highlight button.copybtn")
        assert blocks > 0
        assert buttons == blocks
