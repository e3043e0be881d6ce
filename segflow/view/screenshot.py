"""Pictures by a headless browser, which may fail but never waits for ever."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from segflow.errors import SegflowError

if TYPE_CHECKING:
    from segflow.chunk import Chunk

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DRIVERS = ("chromedriver", "/usr/lib/chromium/chromedriver", "/usr/lib/chromium-browser/chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
    "--force-device-scale-factor=1", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip
TIMEOUT = 120.0  # seconds for one picture


def find_browser() -> tuple[str, str]:
    """Give the paths of the browser and of its driver.

    Raises:
        SegflowError: one of them, or selenium, is not installed; names what to install.
    """
    if importlib.util.find_spec("selenium") is None:
        raise SegflowError("a screenshot needs selenium; pip install 'segflow[screenshot]'")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = next(filter(None, map(shutil.which, DRIVERS)), None)
    if browser is None or driver is None:
        what = "chromium" if browser is None else "chromedriver"
        raise SegflowError(
            f"a screenshot needs a browser, and there is no {what}; "
            "install it (Debian, Ubuntu: apt-get install chromium chromium-driver)"
        )
    return browser, driver


@contextmanager
def browser(size: tuple[int, int] = (1200, 900)) -> Iterator[Any]:
    """Give a headless browser (selenium's driver) whose window has ``size`` pixels, width and height."""
    program, driver_program = find_browser()
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(prefix="segflow-browser-", ignore_cleanup_errors=True) as folder:
        options = Options()
        options.binary_location = program
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Chrome() takes no other way
            options.ignore_local_proxy_environment_variables()
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder}"):
            options.add_argument(flag)
        service = Service(driver_program, log_output=os.devnull)
        try:
            driver = webdriver.Chrome(options=options, service=service)
        except WebDriverException as error:
            text = str(error.msg or error).splitlines()[0]
            raise SegflowError(f"the browser {program} did not start: {text}") from error
        try:
            driver.set_page_load_timeout(TIMEOUT)
            yield driver
        finally:
            driver.quit()


def within(seconds: float, work: Callable[[], Any], why: Callable[[], str]) -> Any:
    """Give what ``work()`` gives, run in a thread that is left alone after ``seconds``.

    Raises:
        SegflowError: it took longer; the message ends with ``why()``.
    """
    answer: list[Any] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            answer.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise SegflowError(f"no picture within {seconds:.0f} s{why()}")
    return answer[0]


def console(driver: Any) -> str:
    """Give the last severe line of the browser's console, to be put behind a message."""
    try:
        lines = [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    except Exception:
        return ""
    return f"; the browser says: {' '.join(lines[-1].split())[:300]}" if lines else ""


def shoot(
    chunks: Mapping[str, Chunk],
    *,
    voxel_size: Sequence[float] | None = None,
    layout: str = "xy",
    size: tuple[int, int] = (1200, 900),
    timeout: float = TIMEOUT,
) -> bytes:
    """Give a PNG of ``chunks`` as neuroglancer shows them.

    Args:
        chunks: by layer name, which may carry options: ``image[color=red]``.
        voxel_size: zyx, nm; default: the chunks' own.
        layout: neuroglancer's: ``xy``, ``4panel``, ``xy-3d``, ...
        size: width and height, pixels.
        timeout: seconds to wait for the picture at most.

    Raises:
        SegflowError: there is no browser, or it gave no picture in time.
    """
    from segflow.view.scene import Neuroglancer

    find_browser()
    scene = Neuroglancer()
    try:
        scene.add(chunks, voxel_size=voxel_size, layout=layout, size=size)
        scene.for_picture(chunks)
        with browser(size) as driver:
            driver.get(scene.url)
            shot = within(
                timeout, lambda: scene.viewer.screenshot(size=list(size)).screenshot, lambda: console(driver)
            )
        return bytes(shot.image)
    finally:
        scene.close()


def shoot_sections(
    image: Chunk,
    segmentation: Chunk | None = None,
    size: tuple[int, int] = (1200, 900),
    timeout: float = TIMEOUT,
) -> bytes:
    """Give a PNG of the page that leafs through sections, at the middle one.

    Args:
        image: zyx or czyx.
        segmentation: labels to lay over it, zyx.
        size: width and height, pixels.
        timeout: seconds to wait for the picture at most.

    Raises:
        SegflowError: there is no browser, or the page was not ready in time.
        ChunkError: image and segmentation do not have the same size.
    """
    from segflow.view.slices import PageServer

    find_browser()
    page = PageServer(image, segmentation, port=0)
    try:
        return _shoot_page(page.url, size, timeout)
    finally:
        page.close()


def _shoot_page(url: str, size: tuple[int, int], timeout: float) -> bytes:
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    with browser(size) as driver:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(url)
        try:
            WebDriverWait(driver, timeout).until(
                lambda d: d.execute_script("return document.body.dataset.ready === '1'")
            )
        except TimeoutException as error:
            raise SegflowError(f"no picture within {timeout:.0f} s{console(driver)}") from error
        return bytes(driver.get_screenshot_as_png())
