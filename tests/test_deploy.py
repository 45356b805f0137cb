"""Chatting: what the lesson does not show. Every generation, refusals, streams that stop and fail, tools."""
import threading
import time
import warnings

import pytest
import torch

from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.deploy import (ChatWidget, _without_oldest, as_messages, chat, context_window, full_settings,
                                     running_cost, stop_ids, stream_chat)

names = ("tiny-v1", "tiny-v2", "tiny-v3")


@pytest.fixture(scope="module")
def loaded():
    return {name: (load_model(name), load_tokenizer(name)) for name in names}


class Said:
    "A model that writes what it is told: `ids`, one after the other, by putting all weight on the next."
    def __init__(self, model, ids): self.model, self.ids, self.end = model, ids, None

    def __enter__(self):
        self.old = self.model.forward

        def forward(*args, **kwargs):
            out = self.old(*args, **kwargs)
            out.logits = torch.full_like(out.logits, -100.0)
            out.logits[..., self.ids.pop(0)] = 100.0
            return out
        self.model.forward = forward

    def __exit__(self, *error): self.model.forward = self.old


@pytest.mark.parametrize("name", names)
def test_stream_ends_with_what_chat_returns(loaded, name):
    model, tokenizer = loaded[name]
    history = [("你好", "Hello 👋"), ("one", "two")]
    for options in ({"temperature": 0}, {"seed": 3, "temperature": 1.5, "top_p": 1.0}):
        whole = chat(model, tokenizer, "测试 test", history, max_new_tokens=24, **options)
        parts = list(stream_chat(model, tokenizer, "测试 test", history, max_new_tokens=24, **options))
        assert parts[-1] == whole
        assert [m["role"] for m in whole[1]] == ["user", "assistant"] * 3
    assert history == [("你好", "Hello 👋"), ("one", "two")]


@pytest.mark.parametrize("name", names)
def test_beams_and_the_caller_s_random_state(loaded, name):
    model, tokenizer = loaded[name]
    state = torch.random.get_rng_state()
    assert chat(model, tokenizer, "x", num_beams=2, max_new_tokens=4) == chat(model, tokenizer, "x", num_beams=2, max_new_tokens=4)
    assert chat(model, tokenizer, "x", seed=5, max_new_tokens=9) == chat(model, tokenizer, "x", seed=5, max_new_tokens=9)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", names)
def test_padded_rows_are_never_sampled(loaded, name):
    model, tokenizer = loaded[name]
    known = set(tokenizer.get_vocab().values())
    size = model.config.vocab_size
    unknown = [i for i in range(size) if i not in known]
    assert unknown, "the tiny models have padded rows, as the real ones do"
    old = model.forward

    def forward(*args, **kwargs):
        out = old(*args, **kwargs)
        out.logits[..., unknown] += 1000.0
        out.logits[..., 7] = float("nan")
        return out
    model.forward = forward
    ids = []
    watch = [lambda seen, scores: ids.append(int(seen[0, -1])) or scores]
    try: chat(model, tokenizer, "x", max_new_tokens=8, min_new_tokens=8, seed=0, temperature=1.0, logits_processor=watch)
    finally: model.forward = old
    assert len(ids) == 8 and not set(ids) & {*unknown, 7}


def test_training_mode_is_kept(loaded):
    model, tokenizer = loaded["tiny-v3"]
    model.train()
    try:
        chat(model, tokenizer, "x", max_new_tokens=2)
        assert model.training
    finally: model.eval()


def test_stops_at_the_next_role_and_not_before(loaded):
    model, tokenizer = loaded["tiny-v3"]
    vocabulary = tokenizer.get_vocab()
    assert {vocabulary["<|user|>"], vocabulary["<|observation|>"], tokenizer.eos_token_id} <= set(stop_ids(model, tokenizer))
    words = tokenizer.encode("the model", add_special_tokens=False)
    for stop in ("<|user|>", "<|observation|>"):
        with Said(model, [*words, vocabulary[stop], 20, 20]):
            assert chat(model, tokenizer, "x", temperature=0)[0] == "the model"
    with Said(model, [*words, 20]):  # cut by the limit: the last token belongs to the reply
        assert chat(model, tokenizer, "x", temperature=0, max_new_tokens=len(words))[0] == "the model"


@pytest.mark.parametrize("name", names)
def test_half_a_character_is_never_shown(loaded, name):
    model, tokenizer = loaded[name]
    text = "好👋🏽龘!"
    ids = tokenizer.encode(text, add_special_tokens=False)
    with Said(model, [*ids, stop_ids(model, tokenizer)[0]]):
        parts = [part for part, _ in stream_chat(model, tokenizer, "x", temperature=0, max_new_tokens=len(ids) + 1)]
    assert "\ufffd" not in "".join(parts)
    cut = len(ids) - 2
    with Said(model, list(ids)):
        assert "\ufffd" not in chat(model, tokenizer, "x", temperature=0, max_new_tokens=cut)[0]


tools = [{"name": "weather", "description": "Weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]


def test_a_tool_call_becomes_a_dict_and_a_broken_one_stays_text(loaded):
    model, tokenizer = loaded["tiny-v3"]
    end = tokenizer.get_vocab()["<|observation|>"]
    call = "weather\n ```python\ntool_call(city='Paris')\n```"
    ids = tokenizer.encode(call, add_special_tokens=False)
    with Said(model, [*ids, end]):
        reply, history = chat(model, tokenizer, "Weather?", tools=tools, temperature=0, max_new_tokens=200)
    assert reply == {"name": "weather", "parameters": {"city": "Paris"}}
    assert [m["role"] for m in history] == ["user", "assistant"] and history[-1]["metadata"].strip() == "weather"
    with Said(model, [*ids, end]):
        *_, last = stream_chat(model, tokenizer, "Weather?", tools=tools, temperature=0, max_new_tokens=200)
    assert last == (reply, history)
    reply, _ = chat(model, tokenizer, '{"celsius": 21}', history, role="observation", tools=tools, max_new_tokens=3)
    broken = tokenizer.encode("weather\nimport os", add_special_tokens=False)
    with Said(model, [*broken, end]), pytest.warns(UserWarning, match="cannot be read"):
        reply, _ = chat(model, tokenizer, "Weather?", tools=tools, temperature=0, max_new_tokens=200)
    assert reply["name"] == "weather" and "import os" in reply["content"]


def test_window(loaded):
    model, tokenizer = loaded["tiny-v3"]
    window = context_window(model)
    long = [("word " * (window // 6), "yes")] * 4
    with pytest.raises(ValueError, match="window has"): chat(model, tokenizer, "x", long)
    with pytest.warns(UserWarning, match="oldest messages left out"):
        _, history = chat(model, tokenizer, "x", long, on_overflow="drop_oldest", max_new_tokens=2)
    assert len(history) == 10  # what the model did not see is still in the history
    with pytest.raises(ValueError, match="window has"):
        chat(model, tokenizer, "word " * window, on_overflow="drop_oldest")
    with pytest.raises(ValueError, match="window has"): chat(model, tokenizer, "x", max_new_tokens=window)
    with pytest.raises(ValueError, match="on_overflow"): chat(model, tokenizer, "x", on_overflow="slide")
    with pytest.raises(ValueError, match="no longer than the prompt"): chat(model, tokenizer, "a long prompt", max_length=2)


def test_oldest_turn_takes_its_tool_messages_along():
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
             {"role": "observation", "content": "c"}, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e"}]
    assert [m["content"] for m in _without_oldest(turns)] == ["s", "e"]


@pytest.mark.parametrize("given, message", [
    ({"top_p": 0}, "top_p"), ({"top_p": True}, "top_p"), ({"top_k": -1}, "top_k"), ({"temperature": -0.1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"), ({"temperature": "hot"}, "temperature"), ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"repetition_penalty": 0}, "repetition_penalty"), ({"num_beams": 0}, "num_beams"), ({"seed": -1}, "seed"),
    ({"do_sample": "yes"}, "do_sample"), ({"num_return_sequences": 2}, "num_return_sequences"),
    ({"max_length": 9, "max_new_tokens": 9}, "not both")])
def test_bad_settings_are_named(given, message):
    with pytest.raises(ValueError, match=message): full_settings(**given)


def test_unknown_settings_and_other_types(loaded):
    model, tokenizer = loaded["tiny-v3"]
    with pytest.raises(TypeError, match="did you mean 'top_p'"): chat(model, tokenizer, "x", topp=1)
    with pytest.raises(TypeError, match="query must be"): chat(model, tokenizer, None)
    with pytest.raises(TypeError, match="history must be a list"): as_messages("hello")
    for swapped in (chat, stream_chat):
        with pytest.raises(TypeError, match="model and tokenizer seem swapped"): swapped(tokenizer, model, "x")
    for swapped in (ChatWidget, running_cost):
        with pytest.raises(TypeError, match="seem swapped"): swapped(tokenizer, model)
    with pytest.raises(TypeError, match="model cannot generate.*Linear"): chat(torch.nn.Linear(1, 1), tokenizer, "x")
    with pytest.raises(TypeError, match="system must be"): as_messages([], 3)
    with pytest.raises(ValueError, match="role must be"): stream_chat(model, tokenizer, "x", role="assistant")
    with pytest.raises(ValueError, match="beams cannot stream"): stream_chat(model, tokenizer, "x", num_beams=2)


@pytest.mark.parametrize("message, error, words", [
    ({"role": "human", "content": "Hi"}, ValueError, "role must be one of system, user.*'human'"),
    ({"content": "Hi"}, ValueError, "role must be"), ({"role": ["user"], "content": "Hi"}, ValueError, "role must be"),
    ({"role": "user"}, TypeError, "content must be"), ({"role": "assistant", "content": None}, TypeError, "content must be"),
    ({"role": "assistant", "content": None, "tool_calls": []}, TypeError, "content must be"),
    ({"role": "user", "content": 3}, TypeError, "content must be"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, TypeError, "content must be.*image_url"),
    ({"role": "user", "content": ["text", {"type": "image_url"}]}, TypeError, "content must be.*image_url"),
    (("a", None), TypeError, "must be a message with a role or a pair")])
def test_a_bad_message_is_named(loaded, message, error, words):
    history = [{"role": "user", "content": "fine"}, message]
    with pytest.raises(error, match=r"history\[1\].*" + words): chat(*loaded["tiny-v3"], "x", history)


def test_the_other_forms_of_a_message():
    call = {"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    given = [{"role": "user", "content": [{"type": "text", "text": "What "}, "now?"]},
             {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "21"},
             {"role": "assistant", "metadata": "weather", "content": ""}]
    messages = as_messages(given)
    assert [m["content"] for m in messages] == ["What now?", "", "21", ""]
    assert messages[1]["tool_calls"] == [call] and messages[3]["metadata"] == "weather"
    messages[1]["tool_calls"][0]["function"]["name"] = "other"
    assert call["function"]["name"] == "weather" and given[1]["content"] is None  # the caller's are left alone


def test_no_warning_from_generate(loaded):
    model, tokenizer = loaded["tiny-v2"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat(model, tokenizer, "x", temperature=0, max_new_tokens=2)


def test_an_error_in_the_thread_surfaces(loaded):
    model, tokenizer = loaded["tiny-v3"]

    def broken(*_): raise RuntimeError("boom")
    with pytest.raises(RuntimeError, match="boom"):
        list(stream_chat(model, tokenizer, "x", logits_processor=[broken]))
    with pytest.raises(FloatingPointError, match="every logit is nan"):
        old, model.forward = model.forward, lambda *a, **k: _all_nan(old(*a, **k))
        try: list(stream_chat(model, tokenizer, "x"))
        finally: model.forward = old


def _all_nan(out):
    out.logits = out.logits * float("nan")
    return out


def test_stop_and_close_end_the_thread(loaded):
    model, tokenizer = loaded["tiny-v3"]
    before, stop = threading.active_count(), threading.Event()
    steps = 0
    for _ in stream_chat(model, tokenizer, "x", stop=stop, max_new_tokens=100, min_new_tokens=100, seed=0):
        steps += 1
        if steps == 3: stop.set()
    assert 3 <= steps < 20 and threading.active_count() == before
    own = threading.Event()
    list(stream_chat(model, tokenizer, "x", stop=own, max_new_tokens=2))
    assert not own.is_set()  # the caller's event is the caller's
    stream = stream_chat(model, tokenizer, "x", max_new_tokens=100, min_new_tokens=100)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_widget_logic(loaded, capsys, monkeypatch):
    model, tokenizer = loaded["tiny-v3"]
    widget = ChatWidget(model, tokenizer, system="Be brief.", temperature=0, max_new_tokens=8)
    reply = widget.ask("Hello")
    assert capsys.readouterr().out.strip() == reply.strip()
    assert [m["role"] for m in widget.history] == ["system", "user", "assistant"]
    assert "Be brief." in widget._repr_mimebundle_()["text/html"]
    monkeypatch.setenv("COOKBOOK_WIDGETS", "1")
    assert "application/vnd.jupyter.widget-view+json" in widget._repr_mimebundle_()
    panel = widget.widgets
    assert panel["temperature"].value == 0 and panel["max_new_tokens"].value == 8
    panel["text"].value = "<b>Again</b>\nplease"
    panel["Send"].click()
    widget.thread.join(30)
    assert panel["text"].value == "" and "&lt;b&gt;Again&lt;/b&gt;\nplease" in panel["said"].value
    assert len(widget.history) == 5
    assert "stopped" not in panel["said"].value
    assert widget.send("x", top_p=0)  # the error is shown, the history stays
    widget.thread.join(30)
    assert "ValueError" in panel["said"].value and len(widget.history) == 5
    panel["Clear"].click()
    assert [m["role"] for m in widget.history] == ["system"]
    with pytest.raises(ValueError, match="temperature"): ChatWidget(model, tokenizer, temperature=-1)


def test_without_ipywidgets(loaded, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setenv("COOKBOOK_WIDGETS", "1")
    widget = ChatWidget(*loaded["tiny-v3"], max_new_tokens=2)
    widget.ask("x")
    assert "pip install ipywidgets" in widget._repr_mimebundle_()["text/html"]


def test_running_cost(loaded):
    for model, tokenizer in loaded.values():
        cost = running_cost(model, tokenizer, prompt_tokens=32, new_tokens=4, repeats=1)
        assert cost.weight_bytes >= 4 * cost.parameters > 0 and cost.prefill > 0 and cost.decode > 0
        assert "tokens/s" in str(cost)
    with pytest.raises(ValueError, match="at least 1"): running_cost(model, tokenizer, repeats=0)
    with pytest.raises(ValueError, match="window"): running_cost(model, tokenizer, prompt_tokens=10**7)


@pytest.mark.parametrize("pauses", [(0.12, 0.0), (0.0, 0.03)])
def test_each_speed_is_timed_by_itself(loaded, pauses):
    "A pause in one of the two phases shows in that phase, exactly, and never makes the other negative or endless."
    model, tokenizer = loaded["tiny-v3"]
    old, seen = model.forward, []

    def forward(*args, **kwargs):
        seen.append((args[0] if args else kwargs["input_ids"]).shape[1])
        time.sleep(1.5 if len(seen) == 1 else pauses[0] if seen[-1] > 1 else pauses[1])  # the first run warms up
        return old(*args, **kwargs)
    model.forward = forward
    try: cost = running_cost(model, tokenizer, prompt_tokens=240, new_tokens=2, repeats=2)
    finally: model.forward = old
    assert seen == [240, 1, 1] * 3
    short = running_cost(model, tokenizer, prompt_tokens=8, new_tokens=2, repeats=1)
    assert cost.cache_bytes_per_token == short.cache_bytes_per_token
    assert 240 / 1.5 < cost.prefill <= 240 / max(pauses[0], 1e-6)
    assert 0 < cost.decode <= 1 / max(pauses[1], 1e-6)


def test_peft_model_chats(loaded):
    peft = pytest.importorskip("peft")
    model, tokenizer = load_model("tiny-v3"), loaded["tiny-v3"][1]
    plain = chat(model, tokenizer, "x", temperature=0, max_new_tokens=6)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert chat(adapted, tokenizer, "x", temperature=0, max_new_tokens=6) == plain  # fresh adapters change nothing


def test_the_generation_config_of_the_model_is_the_default(loaded, monkeypatch):
    model, tokenizer = loaded["tiny-v3"]
    question = "Tell me something"
    greedy = chat(model, tokenizer, question, temperature=0, max_new_tokens=12)[0]
    assert len({str(chat(model, tokenizer, question, max_new_tokens=12, seed=s)[0]) for s in range(4)}) > 1
    monkeypatch.setattr(model.generation_config, "do_sample", False)
    assert {str(chat(model, tokenizer, question, max_new_tokens=12, seed=s)[0]) for s in range(4)} == {str(greedy)}
    replies = {str(chat(model, tokenizer, question, max_new_tokens=12, seed=s, temperature=1.2)[0]) for s in range(4)}
    assert len(replies) > 1  # a sampling argument brings sampling back
