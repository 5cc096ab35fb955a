"""The page of tools/web_demo.py, driven in a headless Chromium as a visitor would: `make test-web`.

WEB_MODEL names the model of its screenshots, which go to the folder WEB_SCREENSHOTS; else weights are drawn.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.goldens import IMAGES, ROOT

pytestmark = pytest.mark.web
sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
Page, expect = sync_api.Page, sync_api.expect

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
WAIT = 60_000  # milliseconds
SKIER = "000000000785.jpg"


@pytest.fixture(scope="module")
def address(run, tmp_path_factory) -> Iterator[str]:
    """A page served by the tool, for files of at most 2 MB and 4 megapixels."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = os.environ.get("WEB_MODEL") or str(run)
    command = [sys.executable, str(ROOT / "tools/web_demo.py"), "--model", model, "--port", str(port)]
    limits = ["--max-megabytes", "2", "--max-pixels", "4000000"]
    folder = tmp_path_factory.mktemp("server")
    log = folder / "log"
    with log.open("w") as output:
        environment = os.environ | {"TMPDIR": str(folder)}
        server = subprocess.Popen([*command, *limits], stdout=output, stderr=output, env=environment)
    url = f"http://127.0.0.1:{port}/"
    for _ in range(240):
        try:
            urllib.request.urlopen(url).close()
            break
        except urllib.error.URLError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
    assert len(list(folder.glob("transpose-web-*"))) == 1
    yield url
    server.terminate()
    server.wait()
    assert not list(folder.glob("transpose-web-*"))  # visitors' images go with the program
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if not CHROMIUM:
        pytest.skip("no Chromium; install the system's, or name it in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address) -> Iterator:
    """A new visitor; at the end, whoever asked another host than ours fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    expect(page.get_by_text("What TransPose looks at")).to_be_visible(timeout=WAIT)
    yield page
    context.close()
    own = (address, address.replace("http", "ws", 1), "data:", "blob:")
    assert asked and [url for url in asked if not url.startswith(own)] == []
    assert faults == []


def upload(page: Page, name: str, content: bytes) -> None:
    file = {"name": name, "mimeType": "image/jpeg", "buffer": content}
    page.locator("#upload").locator("xpath=..").locator("input[type=file]").set_input_files(file)


def sources(page: Page, name: str) -> list[str]:
    """What the pictures of a part show: names made of their content."""
    return [image.get_attribute("src") for image in page.locator(f"#{name} img").all()]


def changed(page: Page, name: str, before: list[str]) -> list[str]:
    deadline = time.monotonic() + WAIT / 1000
    while time.monotonic() < deadline:
        now = sources(page, name)
        if now and now != before:
            return now
        page.wait_for_timeout(100)
    raise AssertionError(f"the pictures of {name} stay what they were")


def pixels(page: Page, name: str) -> np.ndarray:
    """What a visitor sees of a part's picture."""
    image = page.locator(f"#{name} img")
    content = page.request.get(image.evaluate("image => image.src")).body()
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def click(page: Page, name: str, x: float, y: float) -> None:
    """At a place of a part's picture, as a share of its width and height, which is shown with margins."""
    image = page.locator(f"#{name} img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    width, height = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    scale = min(box["width"] / width, box["height"] / height)
    left, top = (box["width"] - scale * width) / 2, (box["height"] - scale * height) / 2
    image.click(position={"x": left + x * scale * width, "y": top + y * scale * height})


def choose(page: Page, part: str, label: str) -> None:
    page.locator(f"#{part}").get_by_label(label, exact=True).check()


def screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("WEB_SCREENSHOTS"):
        page.wait_for_timeout(1000)
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def told(page: Page, sentence: str) -> None:
    expect(page.locator(".toast-body").filter(has_text=re.compile(sentence)).first).to_be_visible(timeout=WAIT)


def test_a_sample_its_people_and_the_maps_of_a_keypoint_and_of_points(page):
    page.locator("#samples img").first.click()
    first = changed(page, "maps", [])
    expect(page.locator("#table")).to_contain_text("left_wrist")
    expect(page.locator("#boxes").get_by_label("annotated")).to_be_checked()
    screenshot(page, "sample")

    click(page, "crop", 0.2, 0.9)
    expect(page.locator("#asked")).to_contain_text("the point", timeout=WAIT)
    of_point = changed(page, "maps", first)
    page.locator("#table").get_by_text("right_ankle").click()
    expect(page.locator("#asked")).to_contain_text("right ankle", timeout=WAIT)
    of_ankle = changed(page, "maps", of_point)

    before = pixels(page, "maps").astype(int)
    page.locator("#threshold input[type=number]").fill("0.05")
    page.locator("#threshold input[type=number]").press("Tab")
    of_threshold = changed(page, "maps", of_ankle)
    assert np.abs(pixels(page, "maps").astype(int) - before).max() > 20
    choose(page, "mode", "rollout")
    expect(page.locator("#asked")).to_contain_text("rollout", timeout=WAIT)
    changed(page, "maps", of_threshold)


def test_an_upload_a_drawn_box_and_the_whole_image(page):
    upload(page, SKIER, (IMAGES / SKIER).read_bytes())
    expect(page.locator("#hint")).to_contain_text("say where the persons are", timeout=WAIT)
    expect(page.locator("#boxes").get_by_label("annotated")).to_have_count(0)
    plain = changed(page, "picture", [])
    choose(page, "boxes", "whole image")
    whole = changed(page, "picture", plain)
    of_whole = changed(page, "maps", [])

    choose(page, "boxes", "drawn")
    expect(page.locator("#hint")).to_contain_text("two opposite corners", timeout=WAIT)
    empty = changed(page, "picture", whole)
    click(page, "picture", 281 / 640, 45 / 425)
    corner = changed(page, "picture", empty)
    click(page, "picture", 499 / 640, 391 / 425)
    changed(page, "picture", corner)
    drawn = changed(page, "maps", of_whole)
    screenshot(page, "drawn")

    page.locator("#typed").get_by_role("textbox").fill("10,20,300,400")
    page.locator("#typed").get_by_role("textbox").press("Enter")
    changed(page, "maps", drawn)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.jpg", b"this is no image", "this file: not an image that can be decoded"),
        ("cut.jpg", (IMAGES / SKIER).read_bytes()[:9000], "this file: the JPEG is truncated"),
        ("empty.png", b"", "empty"),
        ("wide.png", cv2.imencode(".png", np.zeros((2001, 2000), np.uint8))[1].tobytes(), "this page allows 4,000,000"),
        ("heavy.jpg", b"\xff\xd8" * 1_100_000, "exceed|too large"),
    ],
    ids=["no image", "cut off", "empty", "too many pixels", "too many bytes"],
)
def test_a_file_that_cannot_be_used_gives_a_sentence_and_the_page_goes_on(page, name, content, sentence):
    upload(page, name, content)
    told(page, sentence)
    screenshot(page, f"sentence_{Path(name).stem}")
    upload(page, SKIER, (IMAGES / SKIER).read_bytes())
    changed(page, "picture", [])


def test_other_mistakes_are_sentences(page):
    page.locator("#typed").get_by_role("textbox").fill("1,2,3,4")
    page.locator("#typed").get_by_role("textbox").press("Enter")
    told(page, "there is no image yet")
    page.locator("#samples img").nth(1).click()
    changed(page, "maps", [])
    page.locator("#typed").get_by_role("textbox").fill("<img src=x onerror=alert(1)>")
    page.locator("#typed").get_by_role("textbox").press("Enter")
    told(page, "a box is four numbers")
    page.locator("#typed").get_by_role("textbox").fill("9000,2,30,40")
    page.locator("#typed").get_by_role("textbox").press("Enter")
    told(page, "lies outside of the image")
    click(page, "crop", 0.5, 0.5)
    expect(page.locator("#asked")).to_contain_text("the point", timeout=WAIT)
    choose(page, "mode", "gradient")
    told(page, "gradient explains a keypoint's heatmap")


def test_no_file_of_the_machine_or_of_another_visitor_is_served(page, address, browser):
    expect(page.get_by_text("Weights: ")).to_be_visible(timeout=WAIT)
    assert ": /" not in page.get_by_text("Weights: ").inner_text()  # the name of a folder, not where it lies
    for path in (ROOT / "README.md", Path("/etc/passwd"), IMAGES / SKIER, "../README.md"):
        assert page.request.get(f"{address}gradio_api/file={path}").status in (403, 404)
    page.locator("#samples img").nth(2).click()
    shown = changed(page, "picture", [])
    folder = Path(page.locator("#picture img").get_attribute("src").split("file=")[1]).parents[1]
    assert folder.stat().st_mode & 0o077 == 0  # nor by another user of the machine
    for path in (folder, folder.parent):
        assert page.request.get(f"{address}gradio_api/file={path}").status in (403, 404)
    other = browser.new_context()
    visitor = other.new_page()
    visitor.goto(address)
    expect(visitor.get_by_text("What TransPose looks at")).to_be_visible(timeout=WAIT)
    assert sources(visitor, "picture") == [] and sources(visitor, "maps") == []
    assert shown
    other.close()
