"""The built site, a server for it, and a headless Chromium. The tests are skipped without `JAXCNN_SITE`.

python -m sphinx -W --keep-going -b html docs build/site
JAXCNN_SITE=build/site pytest -n 0 tests/docs/site
"""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

SITE = os.environ.get("JAXCNN_SITE")


@pytest.fixture(scope="session")
def site():
    if not SITE:
        pytest.skip("the site is not built, or JAXCNN_SITE does not name its folder")
    folder = Path(SITE).resolve()
    assert (folder / "index.html").is_file(), f"there is no built site in {folder}"
    return folder


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Say nothing when the browser leaves a page that is still being sent."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="session")
def address(site):
    """Serve the site on this machine."""
    handler = functools.partial(Quiet, directory=str(site))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser(address):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    names = ("chromium-headless-shell", "google-chrome", "chromium")
    chromium = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail("the browser test needs Chromium: apt-get install chromium-headless-shell chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # The sandbox of Chromium refuses to run as root, as in containers.
    for argument in ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    opened.set_page_load_timeout(60)
    grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": address}
    opened.execute_cdp_cmd("Browser.grantPermissions", grant)
    yield opened
    opened.quit()
