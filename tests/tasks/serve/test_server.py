"""The command in a process of its own, with requests over the network; and its page in a browser."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from simsiam_eval.errors import DataError
from tasks.serve.server import bound_socket
from tasks.serve.settings import ServeSettings

ROOT = Path(__file__).parents[3]
DOG = "dog & 'co'"


class Running:
    """A server in a process; `url` is where it says it is."""

    def __init__(self, *arguments):
        command = [sys.executable, ROOT / "cli.py", "serve", "--port", 0, "--json", *arguments]
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.messages = []
        for line in self.process.stderr:
            self.messages.append(line)
            if found := re.search(r"Serving .* at (http://\S+)", line):
                self.url = found[1]
                break
        else:
            raise AssertionError("".join(self.messages))
        # A full pipe would stop the server.
        threading.Thread(target=lambda: self.messages.extend(self.process.stderr), daemon=True).start()

    def end(self, number):
        """Exit status and record after a signal."""
        self.process.send_signal(number)
        out = self.process.stdout.read()
        return self.process.wait(), json.loads(out)


@pytest.fixture(scope="module")
def server(gallery_file, encoder_file):
    running = Running("--gallery", gallery_file, "--checkpoint", encoder_file)
    yield running
    running.process.kill()
    running.process.wait()


def test_many_clients_get_the_same_answers_as_one(server, shapes):
    paths = sorted((shapes / DOG).iterdir())[:10]

    def ask(number):
        with httpx.Client(base_url=server.url, timeout=120) as client:
            path = paths[number % len(paths)]
            uploaded = client.post("/search?k=9", files={"image": path.read_bytes()})
            searched = client.get("/search", params={"id": f"{DOG}/{path.name}", "k": 8})
            thumbnail = client.get(f"/thumbnails/{number % 60}")
            assert (uploaded.status_code, searched.status_code, thumbnail.status_code) == (200, 200, 200)
            return [hit["row"] for hit in uploaded.json()["hits"]][1:], [hit["row"] for hit in searched.json()["hits"]]

    one = [ask(number) for number in range(len(paths))]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(40))) == one * 4
    assert all(uploaded == searched for uploaded, searched in one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_record(gallery_file, number):
    running = Running("--gallery", gallery_file)
    host = httpx.URL(running.url)
    assert httpx.get(f"{running.url}/search?row=1").status_code == 200
    assert httpx.get(f"{running.url}/search?row=1", headers={"host": "evil.example"}).status_code == 400
    with socket.create_connection((host.host, host.port)):  # a client that is silent does not keep it
        status, record = running.end(number)
    assert status == 0
    counts = {name: record["metrics"][name] for name in ("requests", "searches", "uploads", "rejected", "failed")}
    assert counts == {"requests": 2, "searches": 1, "uploads": 0, "rejected": 1, "failed": 0}
    assert "without --checkpoint" in "".join(running.messages)


def test_a_port_that_is_taken_is_one_sentence(call, gallery_file):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = call("serve", "--gallery", gallery_file, "--port", taken.getsockname()[1])
    assert result.exit_code == 1
    assert "is already in use; choose another, or 0 for any free one." in result.stderr
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(DataError, match="--host"):
            bound_socket(host, 0)


def test_a_missing_package_is_one_sentence(call, gallery_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = call("serve", "--gallery", gallery_file)
    assert result.exit_code == 2
    assert 'uvicorn is missing): pip install "simsiam-eval[serve]"' in result.stderr


def test_settings_that_have_no_effect_are_rejected(call, gallery_file):
    assert "requires an index file" in call("serve", "--gallery", gallery_file, "--index-parameters", "nprobe=1").stderr
    assert "one layer" in call("serve", "--gallery", "a.index", "--layer", "layer3").stderr
    assert ServeSettings(gallery="a.h5").host == "127.0.0.1"


def test_another_encoder_is_rejected(call, gallery_file, checkpoint):
    result = call("serve", "--gallery", gallery_file, "--checkpoint", checkpoint, "--port", 0)
    assert result.exit_code == 1 and "from another encoder" in result.stderr


@pytest.fixture
def page(browser, server):
    """The page at two widths, and what went wrong on it."""
    contexts = []

    def open_page(width=1280, height=900):
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        opened, faults = context.new_page(), []
        opened.set_default_timeout(60_000)
        opened.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("request", lambda request: faults.append(request.url) if is_elsewhere(request.url) else None)
        opened.goto(server.url)
        opened.wait_for_selector(".card")
        return opened, faults

    def is_elsewhere(url):
        return not url.startswith((f"{server.url}/", "data:", "blob:"))

    yield open_page
    for context in contexts:
        context.close()


def until(page, holds):
    """Wait in Python: the page's policy forbids to evaluate strings in it again and again."""
    for _ in range(600):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("waited too long")


def cards(page, part):
    return page.locator(f"#hits .card {part}").all_text_contents()


@pytest.mark.parametrize("width", [1280, 390])
def test_search_in_a_browser(page, shapes, width):
    opened, faults = page(width)
    assert "Images of the gallery" in opened.inner_text("#summary")
    path = sorted((shapes / DOG).iterdir())[2]
    opened.set_input_files("#file", path)
    opened.wait_for_selector("#hits .similarity")
    assert cards(opened, ".name")[0] == f"{DOG}/{path.name}"
    assert cards(opened, ".similarity")[0] == "1.0000"
    assert opened.inner_text("#query") == path.name
    until(opened, lambda: opened.evaluate("document.querySelector('#hits img').naturalWidth > 0"))
    # Scrolling shows the rest of the gallery.
    for _ in range(5):
        opened.mouse.wheel(0, 20_000)
        opened.wait_for_timeout(200)
    until(opened, lambda: len(cards(opened, ".name")) == 60)
    assert not opened.is_visible("#more")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # A class of the same upload, which is not sent again.
    opened.select_option("#class", DOG)
    until(opened, lambda: set(cards(opened, ".class")) == {DOG})
    # A hit is the next query; going back shows the one before.
    second = cards(opened, ".name")[1]
    opened.locator("#hits .card").nth(1).click()
    until(opened, lambda: opened.inner_text("#query") == second)
    assert second not in cards(opened, ".name") and "row=" in opened.url
    opened.fill("#id", cards(opened, ".name")[0])
    opened.get_by_role("button", name="Search", exact=True).click()
    until(opened, lambda: opened.inner_text("#query") not in (second, ""))
    opened.go_back()
    until(opened, lambda: opened.inner_text("#query") == second)
    assert not faults


def test_messages_in_a_browser(page, tmp_path):
    opened, faults = page()
    (tmp_path / "torn.png").write_bytes(b"torn")
    opened.set_input_files("#file", tmp_path / "torn.png")
    opened.wait_for_selector("#message:not([hidden])")
    assert "not an image" in opened.inner_text("#message")
    opened.fill("#id", "<b>nothing</b>")
    opened.get_by_role("button", name="Search", exact=True).click()
    until(opened, lambda: "<b>nothing</b>" in opened.inner_text("#message"))
    assert all("Failed to load resource" in fault for fault in faults)  # the browser's own words for a 4xx
    opened.fill("#id", "1-19.PNG")
    opened.get_by_role("button", name="Search", exact=True).click()
    until(opened, lambda: '"1-19.PNG" in their id' in opened.inner_text("#summary"))
    assert opened.locator("#hits .card").count() == 1 and opened.locator("#message").is_hidden()
    opened.get_by_role("button", name="Browse all").click()
    opened.wait_for_selector("#hits .card")
    theme = opened.evaluate("document.documentElement.dataset.theme")
    opened.click("#theme")
    assert opened.evaluate("document.documentElement.dataset.theme") != theme


def test_an_image_is_pasted_and_dropped(page, shapes):
    opened, faults = page()
    path = sorted((shapes / DOG).iterdir())[4]
    for kind, field in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        opened.get_by_role("button", name="Browse all").click()
        opened.wait_for_selector("#hits .card:not(:has(.similarity))")
        opened.evaluate(
            """([kind, field, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
                const Type = kind === "paste" ? ClipboardEvent : DragEvent;
                document.body.dispatchEvent(new Type(kind, { bubbles: true, cancelable: true, [field]: data }));
            }""",
            [kind, field, list(path.read_bytes())],
        )
        opened.wait_for_selector("#hits .similarity")
        assert cards(opened, ".name")[0] == f"{DOG}/{path.name}"
    assert not faults
