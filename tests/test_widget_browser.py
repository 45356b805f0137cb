"""The chat window as a reader meets it: JupyterLab, a real browser, a message sent."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def lab(tmp_path):
    "Address of a JupyterLab without a token, with a notebook whose cells show two windows, one of them slow."
    code = ["from chatglm_cookbook.checkpoints import load_model, load_tokenizer\n"
            "from chatglm_cookbook.deploy import ChatWidget\n"
            "model, tokenizer = load_model('tiny-v3'), load_tokenizer('tiny-v3')",
            "widget = ChatWidget(model, tokenizer, temperature=0, max_new_tokens=8)\nwidget",
            "import time\nfrom chatglm_cookbook.window import ChatWindow\n"
            "def slow(text, history, stop, **_):\n"
            "    for end in range(1, len(text) + 1):\n"
            "        if stop.is_set(): return\n"
            "        time.sleep(0.1)\n"
            "        yield text[:end], [*history, {'role': 'user', 'content': text}]\n"
            "ChatWindow(slow)"]
    cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": c, "outputs": [], "execution_count": None}
             for i, c in enumerate(code)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    (tmp_path / "window.ipynb").write_text(json.dumps(
        {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / "c"), "JUPYTER_DATA_DIR": str(tmp_path / "d"),
           "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
                               "--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={tmp_path}"],
                              env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try: urllib.request.urlopen(f"{address}/api", timeout=2).read(); break
        except OSError: time.sleep(0.5)
    yield address
    server.terminate()
    server.wait(20)


@pytest.mark.slow
@pytest.mark.skipif(chromium is None, reason="no chromium on this machine")
def test_a_message_is_answered(lab):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(f"{lab}/lab/tree/window.ipynb")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        page.get_by_text(re.compile(r"\| Idle$")).first.wait_for(timeout=120_000)  # the kernel is there
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text(re.compile("^Run All Cells$")).click()
        box = page.locator(".jp-OutputArea textarea").first
        box.wait_for(timeout=120_000)
        send, stop = (page.get_by_role("button", name=name, exact=True).first for name in ("Send", "Stop"))
        sync.expect(stop).to_be_disabled()
        assert "Send sends it" in box.get_attribute("placeholder")
        box.fill("<b>Hello</b>")
        box.press("End")
        box.press("Enter")
        box.press_sequentially("model")
        sync.expect(send).to_be_enabled()
        send.click()
        bubbles = page.locator(".jp-OutputArea .widget-html-content >> text=assistant")
        bubbles.first.wait_for(timeout=120_000)
        sync.expect(stop).to_be_disabled(timeout=30_000)  # the reply is complete
        sync.expect(send).to_be_enabled()
        if folder := os.environ.get("COOKBOOK_SCREENSHOTS"): page.screenshot(path=f"{folder}/window.png")
        said = page.locator(".jp-OutputArea .widget-html-content").first.inner_text()
        assert "<b>Hello</b>\nmodel" in said and re.search(r"\d\.\d s", said) and box.input_value() == ""
        page.get_by_role("button", name="Clear").first.click()
        page.wait_for_selector("text=No messages yet.", timeout=30_000)
        box = page.locator(".jp-OutputArea textarea").nth(1)  # the slow window
        send, stop = (page.get_by_role("button", name=name, exact=True).nth(1) for name in ("Send", "Stop"))
        box.fill("word " * 200)
        send.click()
        sync.expect(stop).to_be_enabled(timeout=30_000)
        sync.expect(send).to_be_disabled()
        stop.click()
        page.get_by_text("stopped", exact=True).wait_for(timeout=30_000)
        sync.expect(stop).to_be_disabled()
        sync.expect(send).to_be_enabled()
        browser.close()
