"""The page of tools/web_demo.py, driven in a headless Chromium as a visitor would: `make test-web`.

WEB_MODEL names the model of its screenshots, which go to the folder WEB_SCREENSHOTS; else weights are drawn.
"""

import base64
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
    limits = ["--max-megabytes", "2", "--max-pixels", "4000000", "--max-sessions", "20"]
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
    yield from visit(browser, address, viewport={"width": 1440, "height": 900})


@pytest.fixture
def phone(browser, address) -> Iterator:
    yield from visit(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)


def visit(browser, address, **options) -> Iterator:
    context = browser.new_context(**options)
    page = context.new_page()
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    expect(page.locator("#maps img")).to_be_visible(timeout=WAIT)
    yield page
    context.close()
    own = (address, address.replace("http", "ws", 1), "data:", "blob:")
    assert asked and [url for url in asked if not url.startswith(own)] == []
    assert faults == []


def upload(page: Page, name: str, content: bytes) -> None:
    file = {"name": name, "mimeType": "image/jpeg", "buffer": content}
    page.locator("#upload input[type=file]").set_input_files(file)


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
    content = base64.b64decode(image.get_attribute("src").split(",")[1])
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def click(page: Page, name: str, x: float, y: float) -> None:
    """At a place of a part's picture, as a share of its width and height."""
    image = page.locator(f"#{name} img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    image.click(position={"x": x * box["width"], "y": y * box["height"]})


def drag(page: Page, x0: float, y0: float, x1: float, y1: float) -> None:
    """A box over the image, by shares of its width and height."""
    box = page.locator("#picture img").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in ((x0, y0), (x1, y1))]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    expect(page.locator(".band")).to_be_visible()
    page.mouse.up()
    expect(page.locator(".band")).to_have_count(0)


def in_sight(page: Page, name: str) -> bool:
    """Whether all of a part can be seen without scrolling."""
    box, size = page.locator(f"#{name}").bounding_box(), page.viewport_size
    return (
        min(box["x"], box["y"]) >= 0
        and box["x"] + box["width"] <= size["width"]
        and box["y"] + box["height"] <= size["height"]
    )


def choose(page: Page, part: str, label: str) -> None:
    page.locator(f"#{part}").get_by_label(label, exact=True).check()


def screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("WEB_SCREENSHOTS"):
        page.wait_for_timeout(1000)
        page.screenshot(path=Path(folder) / f"{name}.png")


def told(page: Page, sentence: str) -> None:
    expect(page.locator("#notice p").filter(has_text=re.compile(sentence))).to_be_visible(timeout=WAIT)


PARTS = ("picture", "hint", "boxes", "typed", "crop", "table", "maps", "asked", "mode", "share")


def test_the_page_opens_explained_and_all_of_it_is_in_sight(page):
    assert sources(page, "picture") and sources(page, "crop") and sources(page, "maps")
    expect(page.locator("#table")).to_contain_text("left_wrist")
    expect(page.locator("#boxes").get_by_label("annotated")).to_be_checked()
    screenshot(page, "opened")
    assert [part for part in PARTS if not in_sight(page, part)] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# Whether the notice lies on top at a place of the page.
NOTICE_ON_TOP = "([x, y]) => !!document.elementFromPoint(x, y).closest('#notice')"


def test_on_a_phone_the_maps_follow_the_picture(phone):
    screenshot(phone, "phone")
    tops = {part: phone.locator(f"#{part}").bounding_box()["y"] for part in PARTS}
    assert tops["picture"] < tops["maps"] < tops["crop"] < tops["table"]
    between = phone.locator("#maps").bounding_box()["y"] - tops["picture"]
    assert between < phone.viewport_size["height"]
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    first = sources(phone, "maps")
    phone.locator("#crop img").tap()
    expect(phone.locator("#asked")).to_contain_text("the point", timeout=WAIT)
    of_point = changed(phone, "maps", first)
    phone.locator("#samples img").nth(1).tap()
    changed(phone, "maps", of_point)
    phone.locator("#typed").get_by_role("textbox").fill("x")
    phone.locator("#typed").get_by_role("textbox").press("Enter")
    told(phone, "a box is four numbers")
    box = phone.locator("#notice p").bounding_box()
    height = box["y"] + box["height"] / 2
    places = [[box["x"] + share * box["width"], height] for share in np.linspace(0.05, 0.95, 30)]
    assert all(phone.evaluate(NOTICE_ON_TOP, place) for place in places)  # nothing of the page shows through


def test_a_sample_its_persons_and_the_maps_of_a_keypoint_and_of_points(page):
    opened = sources(page, "maps")
    page.locator("#samples img").nth(3).click()
    first = changed(page, "maps", opened)
    expect(page.locator("#boxes").get_by_label("annotated")).to_be_checked()

    click(page, "crop", 0.2, 0.9)
    expect(page.locator("#asked")).to_contain_text("the point", timeout=WAIT)
    of_point = changed(page, "maps", first)
    page.locator("#table").get_by_text("right_ankle").click()
    expect(page.locator("#asked")).to_contain_text("right ankle", timeout=WAIT)
    expect(page.locator("#table tr.asked")).to_contain_text("right_ankle")
    of_ankle = changed(page, "maps", of_point)

    before = pixels(page, "maps").astype(int)
    page.locator("#share input[type=number]").fill("60")
    page.locator("#share input[type=number]").press("Tab")
    of_threshold = changed(page, "maps", of_ankle)
    assert np.abs(pixels(page, "maps").astype(int) - before).max() > 20
    choose(page, "mode", "rollout")
    expect(page.locator("#asked")).to_contain_text("rollout", timeout=WAIT)
    changed(page, "maps", of_threshold)


def test_an_upload_a_drawn_box_and_the_whole_image(page):
    opened = sources(page, "maps")
    upload(page, SKIER, (IMAGES / SKIER).read_bytes())
    uploaded = changed(page, "maps", opened)
    expect(page.locator("#boxes").get_by_label("annotated")).to_have_count(0)
    chosen = page.locator("#boxes input:checked").get_attribute("value")
    assert chosen == "detector" or (chosen == "whole image" and "detector" in page.locator("#hint").inner_text())
    screenshot(page, "uploaded")

    before = sources(page, "picture")
    drag(page, 281 / 640, 45 / 425, 499 / 640, 391 / 425)
    changed(page, "picture", before)
    drawn = changed(page, "maps", uploaded)
    expect(page.locator("#boxes").get_by_label("drawn")).to_be_checked()
    x, y, w, h = map(float, page.locator("#typed textarea, #typed input").input_value().split(","))
    assert abs(np.array([x, y, w, h]) - (281, 45, 218, 346)).max() < 3
    screenshot(page, "drawn")

    choose(page, "boxes", "whole image")
    whole = changed(page, "maps", drawn)
    page.locator("#typed").get_by_role("textbox").fill("10,20,300,400")
    page.locator("#typed").get_by_role("textbox").press("Enter")
    changed(page, "maps", whole)


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
def test_an_unusable_file_gives_a_message_and_the_page_still_works(page, name, content, sentence):
    before = sources(page, "picture")
    upload(page, name, content)
    told(page, sentence)
    assert sources(page, "picture") == before
    upload(page, SKIER, (IMAGES / SKIER).read_bytes())
    changed(page, "picture", before)


def test_other_mistakes_give_a_message_and_controls_match_the_image(page):
    for typed, sentence in (
        ("<img src=x onerror=alert(1)>", "a box is four numbers"),
        ("9000,2,30,40", "lies outside of the image"),
    ):
        before = sources(page, "maps")
        page.locator("#typed").get_by_role("textbox").fill(typed)
        page.locator("#typed").get_by_role("textbox").press("Enter")
        told(page, sentence)
        expect(page.locator("#typed").get_by_role("textbox")).not_to_have_value(typed)
        assert sources(page, "maps") == before
    expect(page.locator("#notice p")).to_have_count(1)  # they do not stack
    screenshot(page, "sentence")
    click(page, "crop", 0.5, 0.5)
    expect(page.locator("#asked")).to_contain_text("the point", timeout=WAIT)
    choose(page, "mode", "gradient")
    told(page, "gradient explains a keypoint's heatmap")
    expect(page.locator("#mode").get_by_label("dependency")).to_be_checked(timeout=WAIT)
    expect(page.locator("#notice p")).to_be_hidden(timeout=20_000)  # and they go away


def test_no_file_is_served_and_no_other_visitor_sees_an_image(page, address, browser):
    assert ": /" not in page.get_by_text("Weights: ").inner_text()  # the name of a folder, not where it lies
    for path in (ROOT / "README.md", Path("/etc/passwd"), IMAGES / SKIER, "../README.md"):
        assert page.request.get(f"{address}gradio_api/file={path}").status == 404
    page.locator("#samples img").nth(2).click()
    shown = changed(page, "picture", sources(page, "picture"))
    other = browser.new_context()
    visitor = other.new_page()
    visitor.goto(address)
    expect(visitor.locator("#maps img")).to_be_visible(timeout=WAIT)
    assert sources(visitor, "picture") != shown
    other.close()
