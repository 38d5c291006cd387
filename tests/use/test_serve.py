"""The page on this machine: what it answers, whom it answers, and how it looks."""

import http.client
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image
from test_predict import assert_refused, trained  # noqa: F401

import mpoxcv
from mpoxcv.commands import serve


@pytest.fixture
def server(trained):  # noqa: F811
    folder = str(trained[0])
    made = serve.make_server(mpoxcv.load(folder), serve.measured(folder), 0.9, 0)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def ask(server):
    def asked(method: str, path: str, body: bytes = b"", **headers: str):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    return asked


def jpeg(width: int = 60, height: int = 40) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def test_it_says_what_python_says(ask, trained, tmp_path):  # noqa: F811
    (tmp_path / "one.jpg").write_bytes(jpeg())
    expected = mpoxcv.load(trained[0])(tmp_path / "one.jpg")
    answer, content = ask("POST", "/classify", jpeg())
    said = json.loads(content)
    assert answer.status == 200 and said["label"] == expected.label
    assert list(said["probabilities"].values()) == pytest.approx(expected.probabilities.tolist())
    assert said["set"] == list(expected.prediction_set)
    _, content = ask("POST", "/explain", jpeg())
    assert -1 <= json.loads(content)["likeness"] <= 1


def test_its_page_has_the_measured_numbers_and_nothing_from_elsewhere(ask):
    answer, content = ask("GET", "/")
    page = content.decode()
    assert "This is no diagnosis" in page and "sensitivity" in page
    # of three patients a class nothing can be said, and no interval is given
    assert "patients: few, so that this says little" in page and "nan" not in page
    assert "http://" not in page and "https://" not in page
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "The file is empty"),
        (b"no picture", "is not a picture"),
        (jpeg()[:300], "cannot be decoded"),
    ],
)
def test_a_broken_file_gets_a_sentence(ask, body, says):
    answer, content = ask("POST", "/classify", body)
    assert answer.status == 400 and says in json.loads(content)["error"]
    # and the next one is served
    assert ask("POST", "/classify", jpeg())[0].status == 200


def test_a_large_file_is_refused_before_it_is_read(ask):
    answer, content = ask("POST", "/classify", b"", **{"Content-Length": str(50 * 2**20)})
    assert answer.status == 400 and "larger than 40 MB" in json.loads(content)["error"]
    assert ask("POST", "/classify", b"", **{"Content-Length": "-1"})[0].status == 400


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_pages_from_elsewhere_get_nothing(ask, headers):
    for method, path in (("GET", "/"), ("POST", "/classify")):
        if method == "POST" or "Host" in headers:
            answer, content = ask(method, path, jpeg(), **headers)
            assert answer.status == 404 and content == b"{}"
    for path in ("/../conf", "/classify", "/static/x"):
        assert ask("GET", path)[0].status == 404


def test_two_at_once_are_both_answered(ask):
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask("POST", "/classify", jpeg())[0].status))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 4


def test_a_port_that_is_taken_is_said_so(run_script, server, trained):  # noqa: F811
    done = run_script("serve", f"run={trained[0]}", f"port={server.server_port}")
    assert_refused(done, f"port={server.server_port} cannot be had")
    assert_refused(run_script("serve", f"run={trained[0]}", "port=99999"), "cannot be had")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_a_photograph_is_classified(server, tmp_path, width):
    sync_api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "one.jpg").write_bytes(jpeg())
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.set_input_files("#file", [tmp_path / "one.jpg", tmp_path / "broken.jpg"])
        page.get_by_text("With a probability of 90 %").wait_for(timeout=30_000)
        page.get_by_text("is not a picture").wait_for(timeout=30_000)
        page.get_by_text("Where did it look?").click()
        page.get_by_text("resembles that of untrained networks").wait_for(timeout=60_000)
        # nothing stands out of the page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / f"page{width}.png", full_page=True)
        browser.close()
    assert not errors
