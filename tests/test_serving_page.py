"""The page in headless Chromium, with a real recording. `$SC_RUNTIME_SCREENSHOTS` names a folder for pictures."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec

served_in_thread = pytest.importorskip("tests.served", reason="needs the extra serve, and httpx")
webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream"),
    "--use-fake-device-for-media-stream",
)
READ_BLOB = """
const done = arguments[arguments.length - 1];
fetch(document.getElementById(arguments[0])[arguments[1]]).then(answer => answer.blob()).then(blob => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1]);
  reader.readAsDataURL(blob);
});
"""


@pytest.fixture(scope="module")
def served() -> Iterator[Any]:
    with served_in_thread.serving(served_in_thread.ServeSettings("embedded")) as served:
        yield served


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def speech(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s of stereo at 44.1 kHz, so that the page and the server resample."""
    import soxr

    samples, _ = soundfile.read(golden / "speech_12s.wav", dtype="float32")
    path = tmp_path_factory.mktemp("speech") / "speech.flac"
    sound = soxr.resample(samples[:96000], 16000, 44100)
    soundfile.write(path, np.stack([sound, 0.5 * sound], 1), 44100)
    return path


@pytest.mark.parametrize(("name", "width", "height"), [("desktop", 1280, 1500), ("phone", 390, 1900)])
def test_a_recording_goes_through_the_page(
    served: Any, browser: Any, speech: Path, tmp_path: Path, name: str, width: int, height: int
) -> None:
    browser.set_window_size(width, height)
    browser.get(served.url)
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": name == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wait_for(browser, "model", "semanticodec, 100 tokens a second")
    browser.find_element("id", "file").send_keys(str(speech))
    wait_for(browser, "status", "Encoded.")
    facts = browser.find_element("id", "token-facts").text
    assert facts.startswith("608 tokens for 6.00 s: 1.20 kbit/s, 900 bytes."), facts
    browser.find_element("id", "seed").clear()
    browser.find_element("id", "seed").send_keys("5")
    press(browser, "decode")
    wait_for(browser, "status", "Decoded.")
    keep(browser, tmp_path, name)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"

    codec = Codec.load("embedded")
    tokens = codec.encode(speech)
    expected = codec.decode(tokens, preset="fast", seed=5)
    decoded = read_blob(browser, "save-decoded", "href")
    assert len(decoded) == len(expected) == 96000
    assert np.abs(decoded - np.clip(expected, -1, 1)).max() < 2 / 32768
    assert np.abs(decoded).max() > 0.01, "silence"
    played = browser.execute_async_script(
        "const done = arguments[0], player = document.getElementById('play-decoded');"
        "player.play().then(() => setTimeout(() => done([player.duration, player.currentTime]), 500));"
    )
    assert played[0] == pytest.approx(6, abs=0.01) and played[1] > 0.1
    press(browser, "switch")
    assert browser.execute_script("return !document.getElementById('play-original').paused")
    assert "decoded" in browser.find_element("id", "switch").text
    for view in ("view-original", "view-decoded", "strip"):
        shown = browser.execute_script(
            "const c = document.getElementById(arguments[0]);"
            "return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size",
            view,
        )
        assert shown > 20, f"{view} is empty"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_by_keyboard_alone(served: Any, browser: Any, speech: Path) -> None:
    """Every control is reached by Tab, in order, and Enter decodes."""
    from selenium.webdriver import Keys

    browser.get(served.url)
    wait_for(browser, "model", "semanticodec")
    browser.find_element("id", "file").send_keys(str(speech))
    wait_for(browser, "status", "Encoded.")
    browser.execute_script("document.activeElement.blur()")
    reached = []
    for _ in range(20):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element.get_attribute("id"))
        if reached[-1] == "decode":
            break
    assert [each for each in reached if each in ("file", "record", "preset", "seed", "decode")] == [
        "file",
        "record",
        "preset",
        "seed",
        "decode",
    ]
    webdriver.ActionChains(browser).send_keys(Keys.ENTER).perform()
    wait_for(browser, "status", "Decoded.")


def test_a_recording_from_the_microphone_and_an_error(served: Any, browser: Any, tmp_path: Path) -> None:
    browser.get(served.url)
    wait_for(browser, "model", "semanticodec")
    nonsense = tmp_path / "nonsense.wav"
    nonsense.write_bytes(b"no sound")
    browser.find_element("id", "file").send_keys(str(nonsense))
    wait_for(browser, "status", "the recording")
    assert browser.find_element("id", "status").get_attribute("class") == "wrong"
    press(browser, "record")
    wait_for(browser, "status", "Recording")
    browser.execute_async_script("setTimeout(arguments[0], 1500)")
    press(browser, "record")
    wait_for(browser, "status", "Encoded.")
    assert len(read_blob(browser, "save-original", "href")) > 10_000


def test_documentation(served: Any, browser: Any, tmp_path: Path) -> None:
    browser.set_window_size(1280, 1600)
    browser.get(f"{served.url}/docs")
    wait_for(browser, "main", "POST /v1/audio")
    text = browser.find_element("id", "main").text
    for part in ("POST /v1/tokens", "GET /metrics", "preset", "WS /v1/stream", "429", f"curl {served.url}/v1/models"):
        assert part in text, part
    keep(browser, tmp_path, "docs")


def press(browser: Any, name: str) -> None:
    element = browser.find_element("id", name)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def wait_for(browser: Any, name: str, text: str) -> None:
    served_in_thread.wait_until(lambda: text in browser.find_element("id", name).text, 60)


def read_blob(browser: Any, name: str, attribute: str) -> np.ndarray:
    data = base64.b64decode(browser.execute_async_script(READ_BLOB, name, attribute))
    samples: np.ndarray = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    return samples


def keep(browser: Any, folder: Path, name: str) -> None:
    kept = Path(os.environ.get("SC_RUNTIME_SCREENSHOTS", folder))
    kept.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(kept / f"{name}.png"))
