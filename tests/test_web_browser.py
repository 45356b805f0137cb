"""The page as visitors meet it: headless Chromium, the real page, no console errors and no request to another machine."""
import json
import os
import re
import shutil
import time

import pytest

pytest.importorskip("gradio", reason="the web extra is not installed")
sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if not chromium: pytest.skip("no chromium on this machine", allow_module_level=True)

from test_web import Played, program  # noqa: E402

from chatglm_cookbook.checkpoints import load_model, load_tokenizer  # noqa: E402
from chatglm_cookbook.deploy import chat  # noqa: E402
from chatglm_cookbook.sandbox import run_code  # noqa: E402
from chatglm_cookbook.toolbox import calculate, weekday  # noqa: E402
from chatglm_cookbook.web import web_demo  # noqa: E402

pytestmark = pytest.mark.slow
tokenizer = load_tokenizer("tiny-v3")
sync.expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    "A function that launches a page and opens it in tabs; at the end the console and the network are looked at."
    pages, tabs, said, asked = [], [], [], []
    def open_(page, count=1, **launch):
        _, url, _ = page.launch(inline=False, prevent_thread_lock=True, quiet=True, **launch)
        pages.append(page)
        for _ in range(count):
            tab = browser.new_page(viewport={"width": 900, "height": 700}, accept_downloads=True)
            tab.set_default_timeout(60_000)
            tab.on("console", lambda m: m.type in ("error", "warning") and said.append(m.text))
            tab.on("pageerror", lambda e: said.append(str(e)))
            tab.on("request", lambda r: r.url.startswith(("http", "ws")) and not r.url.startswith(url) and asked.append(r.url))
            tab.goto(url)
            tab.get_by_placeholder("Your message").wait_for()
            tabs.append(tab)
        return tabs[-count:] if count > 1 else tabs[-1]
    open_.said, open_.asked = said, asked
    yield open_
    for tab in tabs: tab.close()
    for page in pages: page.close(verbose=False)
    assert (said, asked) == ([], [])


def press(tab, name): tab.get_by_role("button", name=name, exact=True).last.click()  # the first Clear is a bin above the conversation


def send(tab, text):
    tab.get_by_placeholder("Your message").fill(text)
    press(tab, "Send")


def bot(tab): return tab.locator(".message.bot")


def saved(tab):
    with tab.expect_download() as found: press(tab, "Download")
    return json.load(open(found.value.path(), encoding="utf-8"))


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end: time.sleep(0.1)
    return found


watch = """() => { window.lengths = []; new MutationObserver(() => { const all = document.querySelectorAll(".message.bot");
if (all.length) { const n = all[all.length - 1].innerText.length; if (lengths.at(-1) !== n) lengths.push(n); } }).observe(
document.body, {subtree: true, childList: true, characterData: true}); }"""


def test_a_message_is_answered_while_it_grows(opened):
    model, text = load_model("tiny-v3"), "Hello <b>you</b>"
    tab = opened(web_demo(model, tokenizer, temperature=0, max_new_tokens=200))
    tab.evaluate(watch)
    _, history = chat(model, tokenizer, text, temperature=0, max_new_tokens=200)
    send(tab, text)
    assert until(lambda: saved(tab) == history), "what is saved is what `chat` says"
    lengths = tab.evaluate("lengths")
    assert len(lengths) > 3 and lengths[-1] > lengths[0], "the text has grown"
    assert tab.locator(".message.user").last.inner_text() == text and tab.get_by_placeholder("Your message").input_value() == ""
    if folder := os.environ.get("COOKBOOK_SCREENSHOTS"): tab.screenshot(path=f"{folder}/web.png")


def test_stop_retry_undo_clear_and_system(opened):
    words = "\n " + " ".join(f"word{n}" for n in range(80))
    played = Played(tokenizer, words, pause=0.05)
    tab = opened(web_demo(played, tokenizer))
    tab.get_by_label("System message").fill("Be brief.")
    send(tab, "Tell me")
    bot(tab).get_by_text("word5").wait_for()
    press(tab, "Stop")
    assert until(lambda: not played.running)
    kept = saved(tab)
    assert [m["role"] for m in kept] == ["system", "user", "assistant"] and kept[0]["content"] == "Be brief."
    assert words.strip().startswith(kept[2]["content"]) and len(kept[2]["content"]) < len(words) / 2
    assert "Be brief" in tokenizer.decode(played.prompts[0])
    played.pause = 0
    press(tab, "Retry")
    bot(tab).get_by_text("word79").wait_for()
    assert len(saved(tab)) == 3 and played.prompts[1] == played.prompts[0]
    press(tab, "Undo")
    sync.expect(tab.get_by_placeholder("Your message")).to_have_value("Tell me")
    sync.expect(bot(tab)).to_have_count(0)
    send(tab, "Again")
    bot(tab).get_by_text("word79").wait_for()
    press(tab, "Clear")
    sync.expect(bot(tab)).to_have_count(0)
    assert [m["role"] for m in saved(tab)] == ["system"]


def test_a_tool_is_called(opened):
    turns = "calculate\n```python\ntool_call(expression='(17+4)*2')\n```", "\n It is **42**."  # a stand-in's; all behind it is real
    tab = opened(web_demo(Played(tokenizer, *turns, pause=0.02), tokenizer, tools=[calculate, weekday]))
    tab.get_by_label("Tool", exact=True).check()
    send(tab, "What is (17+4)*2?")
    tab.get_by_text("Call of calculate").wait_for()
    bot(tab).get_by_text("It is 42.").wait_for()
    tab.get_by_text("Observation").click()
    sync.expect(tab.locator(".message.bot code").last).to_have_text("42")
    assert [m.get("metadata") or m["role"] for m in saved(tab)] == ["user", "calculate", "tool", "assistant"]
    if folder := os.environ.get("COOKBOOK_SCREENSHOTS"): tab.screenshot(path=f"{folder}/web_tool.png")


def test_the_interpreter_runs_a_program(opened):
    try: run_code("1")
    except RuntimeError as error: pytest.skip(str(error))
    tab = opened(web_demo(Played(tokenizer, program, "\n It is 5050."), tokenizer, interpreter=True))
    tab.get_by_label("Code Interpreter").check()
    send(tab, "Add 1 to 100.")
    bot(tab).get_by_text("It is 5050.").wait_for()
    assert saved(tab)[2] == {"role": "tool", "content": "```result\n5050\n```"}


attack = ("<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\n\n![p](http://elsewhere.invalid/p.png)\n\n"
          "[l](javascript:window.hacked=3) <iframe src=http://elsewhere.invalid></iframe><svg onload='window.hacked=4'>\n\n"
          "```html\n<img src=x onerror='window.hacked=5'>\n```\n\n```mermaid\ngraph TD; A[<img src=x onerror='window.hacked=6'>]\n```\n\n"
          "<style>body{display:none}</style><a href='http://elsewhere.invalid' onmouseover='window.hacked=7'>x</a> $$\\href{javascript:window.hacked=8}{y}$$ end")


def test_what_is_said_never_becomes_part_of_the_page(opened):
    def fetch_page(address: str) -> str:
        "Fetch a page."
        return attack
    turns = "fetch_page\n```python\ntool_call(address='<img src=x onerror=window.hacked=9>')\n```", "\n " + attack
    tab = opened(web_demo(Played(tokenizer, *turns), tokenizer, tools=[fetch_page]))
    tab.get_by_label("Tool", exact=True).check()
    send(tab, attack)
    sync.expect(bot(tab).get_by_text(re.compile("end$")).last).to_be_visible()
    for title in ("Call of fetch_page", "Observation"): tab.get_by_text(title).click()
    tab.wait_for_timeout(1500)
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.querySelectorAll('.message img, .message script, .message iframe, .message svg[onload], .message style').length") == 0
    assert tab.evaluate("[...document.querySelectorAll('.message a')].filter(a => a.href.startsWith('javascript')).length") == 0
    assert "<script>window.hacked = 1</script>" in tab.locator(".message.user").last.inner_text()


def test_the_policy_keeps_the_page_at_home(opened):
    tab = opened(web_demo(Played(tokenizer, "\n x"), tokenizer))
    tab.evaluate("window.blocked = []; document.addEventListener('securitypolicyviolation', e => blocked.push(e.blockedURI))")
    tab.evaluate("new Image().src = 'http://elsewhere.invalid/a.png'; fetch('http://elsewhere.invalid/b').catch(() => 0)")
    assert until(lambda: len(tab.evaluate("blocked")) == 2), tab.evaluate("blocked")
    assert all("elsewhere.invalid" in text for text in opened.said + opened.asked)
    opened.said.clear()
    opened.asked.clear()


def test_two_tabs_do_not_mix_and_wait_for_each_other(opened):
    played = Played(tokenizer, "\n " + "slow " * 40 + "first", "\n second", pause=0.05)
    one, two = opened(web_demo(played, tokenizer), 2)
    send(one, "I am one")
    bot(one).get_by_text("slow").wait_for()
    send(two, "I am two")
    sync.expect(two.locator(".message.user").last).to_have_text("I am two")
    two.get_by_text(re.compile("queue: ")).wait_for()
    sync.expect(bot(two).get_by_text("second")).to_have_count(0)
    bot(one).get_by_text("first").wait_for()
    bot(two).get_by_text("second").wait_for()
    assert played.most == 1, "one model, one answer at a time"
    assert [m["content"] for m in saved(one)][0] == "I am one" and [m["content"] for m in saved(two)] == ["I am two", "second"]
    assert "one" not in tokenizer.decode(played.prompts[1])
    one.get_by_role("button", name="Clear", exact=True).first.click()  # the bin
    sync.expect(bot(one)).to_have_count(0)
    assert saved(one) == [] and len(saved(two)) == 2


def test_a_closed_tab_frees_the_model(opened, browser):
    played = Played(tokenizer, "\n " + "slow " * 400, pause=0.05)
    tab, other = opened(web_demo(played, tokenizer), 2)
    send(tab, "a story")
    bot(tab).get_by_text("slow").wait_for()
    tab.close()
    assert until(lambda: not played.running, 15), "nobody listens any more"
    played.turns = [tokenizer.encode("\n hello", add_special_tokens=False)]
    send(other, "me")
    bot(other).get_by_text("hello").wait_for()


def test_an_error_is_a_message_and_the_page_goes_on(opened):
    played = Played(tokenizer, "\n fine")
    whole = played.generate
    def broken(**more): raise FloatingPointError("every logit is <b>nan</b>")
    played.generate = broken
    tab = opened(web_demo(played, tokenizer))
    send(tab, "hello")
    tab.get_by_text("Error", exact=True).last.click()
    bot(tab).get_by_text("FloatingPointError: every logit is <b>nan</b>").wait_for()
    played.generate = whole
    press(tab, "Retry")
    bot(tab).get_by_text("fine").wait_for()
    assert [m["content"] for m in saved(tab)] == ["hello", "fine"]


def test_the_sliders_reach_the_model(opened):
    model = load_model("tiny-v3")
    tab = opened(web_demo(model, tokenizer, temperature=1.0, top_p=1.0, max_new_tokens=300, seed=5))
    tab.get_by_text("Parameters").click()
    boxes = (tab.get_by_label("number input for max new tokens"), "10", "9"), (tab.get_by_label("seed"), "8", "7")
    def move():  # from another value: what is written while the box still opens is lost
        for box, *values in boxes:
            for value in values:
                box.fill(value)
                box.press("Tab")
                tab.wait_for_timeout(300)
    move()
    own = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    _, history = chat(model, tokenizer, "hello", seed=7, max_new_tokens=9, **own)  # before the page: threads share the random state
    send(tab, "hello")
    for _ in range(2):
        if until(lambda: saved(tab) == history, 20): return
        move()
        press(tab, "Retry")
    assert until(lambda: saved(tab) == history, 20), (saved(tab), history)
