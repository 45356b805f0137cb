"""PPO on one base: the update is what it should be, resume is exact, and every named stop leaves good weights."""
import json
import math
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.policy import adapted_coefficient, gae, kl_estimates, policy_loss, token_rewards, value_loss, whiten
from chatglm_cookbook.ppo import PPOTrainer, _told
from chatglm_cookbook.train import TrainingStopped

words = ["<end>", *"abcdefg"]
backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<end>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
reader = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")


def small(seed=0):
    torch.manual_seed(seed)
    config = GlmConfig(vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
                       num_key_value_heads=2, initializer_range=0.4, pad_token_id=0, eos_token_id=0, bos_token_id=0)
    return GlmForCausalLM(config).eval()


def letters(prompts, replies): return [reply.count("b") - 0.5 * reply.count("c") for reply in replies]


def trainer(folder, reward=letters, model=None, **settings):
    usual = dict(batch_size=8, minibatch=8, epochs=2, max_new_tokens=4, learning_rate=3e-3, kl_limit=50, targets="all-linear",
                 report="none", show=False)
    return PPOTrainer(model or small(), reader, [[1], [2, 3], [4, 5, 6]], reward, output=folder, **{**usual, **settings})


def weights(found): return {n: p.detach().clone() for n, p in found.trained.items()}


def equal(one, other): return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def chatglm(name, folder, **settings):
    usual = dict(batch_size=6, minibatch=4, max_new_tokens=10, learning_rate=5e-3, report="none", show=False, kl_limit=50)
    prompts = ["你好", "What is the capital of Spain, please?", "a b"]
    return PPOTrainer(load_model(name), load_tokenizer(name), prompts, lambda p, r: [float(len(x)) for x in r], output=folder,
                      **{**usual, **settings})


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
@pytest.mark.parametrize("value", ["head", "shared", "adapter"])
def test_the_reference_stays_the_base(name, value, tmp_path):
    plain, rows = load_model(name), None
    run = chatglm(name, tmp_path, value=value)
    rows = [(run.ids[0], [20, 30, 25]), (run.ids[1], [40, 50])]
    before = run.reference(rows)
    run.train(2)
    assert torch.equal(run.reference(rows), before)
    for (prompt, reply), part in zip(rows, before.split([3, 2])):
        logs = plain(input_ids=torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0, len(prompt) - 1:-1]
        logs = logs.masked_fill(run.shut, -1e30).log_softmax(-1)
        assert torch.allclose(part, logs[torch.arange(len(reply)), torch.tensor(reply)], atol=1e-4)
    assert not torch.allclose(run.read(rows)[0], before, atol=1e-4)
    grown = {n.split(".lora_")[0].split(".")[-1]: p for n, p in run.trained.items() if ".value.weight" in n and "lora_B" in n}
    assert bool(grown) == (value == "adapter") and all(p.any() for p in grown.values())


def test_the_first_ratio_is_one_and_the_first_loss_is_minus_the_advantage(tmp_path):
    run = trainer(tmp_path, whiten=False)
    roll = run.write([[1]] * 4, [[1]] * 4)
    run.judge(roll)
    run.measure(roll)
    run._advantages(roll)
    items = roll.mask.sum().item()
    _, parts = run._loss(roll, [0, 1, 2, 3], items)
    assert parts["policy_loss"] == pytest.approx(-roll.advantages[roll.mask].mean().item(), abs=1e-5) and parts["clipped"] == 0
    assert torch.equal(roll.logprobs[roll.mask], roll.reference[roll.mask])  # B is zero: KL is zero, exactly


def test_accumulated_minibatches_make_the_same_update(tmp_path):
    runs = [trainer(tmp_path / str(m), minibatch=m, accumulate=8 // m, epochs=1) for m in (8, 4, 2)]
    for run in runs: run.train(1)
    first = weights(runs[0])
    moved = max((p - q).abs().max() for p, q in zip(first.values(), weights(trainer(tmp_path / "fresh")).values()))
    for run in runs[1:]:
        for n, p in weights(run).items(): assert (p - first[n]).abs().max() < 0.02 * moved


def test_a_reply_ends_at_its_first_end_and_a_missing_end_is_fined(tmp_path):
    run = trainer(tmp_path, missing_eos=3.0, length_penalty=0.5, score_clip=1.0)
    assert run._until_end([3, 0, 4, 0]) == [3, 0] and run._until_end([3, 4]) == [3, 4]
    roll = run.write([[1]] * 32, [[1]] * 32)
    assert roll.ended.any() and not roll.ended.all()
    assert all((r[-1] == 0) == e and 0 not in r[:-1] for (_, r), e in zip(roll.rows, roll.ended.tolist()))
    roll.scores = torch.full((32,), 9.0)
    run.measure(roll)
    want = [1.0 - 0.5 * len(r) - 3.0 * (r[-1] != 0) for _, r in roll.rows]
    assert run._advantages(roll).tolist() == pytest.approx(want)


def test_groups_compare_each_reply_with_the_others(tmp_path):
    run = trainer(tmp_path, value="group", replies=3, batch_size=2, whiten=False, kl=0.0)
    roll = run.write([[1]] * 3 + [[2, 3]] * 3, [[1]] * 3 + [[2, 3]] * 3)
    roll.scores = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    run.measure(roll)
    run._advantages(roll)
    first = roll.advantages[:, 0].tolist()
    assert first == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5, 0 - 1.5, 0 - 1.5, 3])
    for row, mask in zip(roll.advantages, roll.mask): assert row[mask].unique().numel() == 1


def test_prompts_come_once_in_each_round(tmp_path):
    run = trainer(tmp_path, batch_size=2)
    drawn = []
    for run.step in range(6): drawn += run._drawn()
    assert [sorted(drawn[i:i + 3]) for i in range(0, 12, 3)] == [[0, 1, 2]] * 4 and len({*map(str, zip(*[iter(drawn)] * 3))}) > 1


@pytest.mark.parametrize("value", ["head", "adapter"])
def test_resume_is_exact(value, tmp_path):
    whole = trainer(tmp_path / "whole", value=value, kl_target=0.05, kl_horizon=100)
    end = whole.train(5)
    trainer(tmp_path / "parts", value=value, kl_target=0.05, kl_horizon=100, save_every=1).train(3)
    (tmp_path / "parts" / "checkpoint-3" / "complete").unlink()  # killed while it wrote
    torch.manual_seed(99)
    again = trainer(tmp_path / "parts", value=value, kl_target=0.05, kl_horizon=100, resume=True, model=small())
    found = again.train(5)
    assert equal(weights(again), weights(whole)) and again.beta == whole.beta
    strip = lambda rows: [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
    assert strip(found.history) == strip(end.history) and [row["step"] for row in found.history] == [1, 2, 3, 4, 5]
    logged = [json.loads(line) for line in found.log.read_text(encoding="utf-8").splitlines()]
    assert [row["event"] for row in logged].count("start") == 1 and logged[-1]["event"] == "end"


def test_resume_refuses_another_run(tmp_path):
    trainer(tmp_path, save_every=1).train(1)
    with pytest.raises(ValueError, match="holds an earlier run"): trainer(tmp_path).train(1)
    with pytest.raises(ValueError, match="resume: gamma was 1.0 so far and is 0.5 now"): trainer(tmp_path, resume=True, gamma=0.5).train(2)
    with pytest.raises(ValueError, match="resume: the weights of the base differ"): trainer(tmp_path, resume=True, model=small(5)).train(2)
    other = PPOTrainer(small(), reader, [[1], [2, 3], [4, 5]], letters, output=tmp_path, resume=True, max_new_tokens=4, report="none",
                       targets="all-linear", show=False)
    with pytest.raises(ValueError, match="resume: the prompts differ"): other.train(2)
    changed = trainer(tmp_path, resume=True, learning_rate=1e-5)  # a cure, and allowed
    changed.train(2)
    assert changed.optimizer.param_groups[0]["lr"] == 1e-5 and changed.step == 2


def stopped(run, steps=6):
    with pytest.raises(TrainingStopped) as found: run.train(steps)
    last = json.loads(found.value.result.log.read_text(encoding="utf-8").splitlines()[-1])
    assert last["event"] == "stop" and last["code"] == found.value.code == found.value.result.stopped
    assert (found.value.result.folder / "adapter_model.safetensors").exists()
    assert all(p.isfinite().all() for p in run.trained.values())
    return found.value


def test_a_reward_that_raises_stops_and_nothing_is_lost(tmp_path):
    calls = []
    def breaks(prompts, replies):
        calls.append(1)
        if len(calls) == 3: raise KeyError("reward")
        return letters(prompts, replies)
    run = trainer(tmp_path / "run", breaks, save_every=1)
    error = stopped(run)
    assert error.code == "reward_failed" and error.step == 3 and "KeyError: 'reward'" in str(error)
    assert isinstance(error.__cause__, KeyError) and len(error.result.history) == 2
    two = trainer(tmp_path / "two")
    two.train(2)
    assert equal(weights(two), weights(run))
    four = trainer(tmp_path / "four")
    four.train(4)
    again = trainer(tmp_path / "run", breaks, resume=True)  # mended: its fourth call is fine
    again.train(4)
    assert equal(weights(again), weights(four))


@pytest.mark.parametrize("scores, code, words", [
    (lambda p, r: [1.0] * len(r), "reward_constant", "in each of 3 steps all replies got one score, 1"),
    (lambda p, r: [math.nan] * len(r), "reward_not_finite", "is nan"),
    (lambda p, r: [-math.inf] * len(r), "reward_not_finite", "is -inf"),
    (lambda p, r: [1.0], "reward_failed", "gave 1 scores for 8 replies"),
    (lambda p, r: [1e39] * len(r), "reward_not_finite", "is inf"),
    (lambda p, r: ["good"] * len(r), "reward_failed", "could not convert string to float"),
    (lambda p, r: None, "reward_failed", "TypeError")])
def test_rewards_that_teach_nothing_stop_by_name(scores, code, words, tmp_path):
    error = stopped(trainer(tmp_path, scores, patience=3))
    assert error.code == code and words in error.reason


def test_one_reply_a_step_is_no_constant(tmp_path):
    assert trainer(tmp_path, batch_size=1, patience=3).train(8).stopped is None


def test_a_reward_that_becomes_constant_later_is_no_fault(tmp_path):
    calls = []
    def settles(prompts, replies):
        calls.append(1)
        return letters(prompts, replies) if len(calls) == 1 else [1.0] * len(replies)
    assert trainer(tmp_path, settles, patience=2).train(5).stopped is None


@pytest.mark.parametrize("step", [1, 3])
def test_empty_replies_stop_and_take_the_update_back(step, tmp_path):
    run = trainer(tmp_path / "run")
    write = run.write
    def silent(prompts, ids):
        roll = write(prompts, ids)
        if run.step + 1 == step: roll.texts = ["", " "] * (len(roll.texts) // 2)
        return roll
    run.write = silent
    error = stopped(run)
    assert error.code == "replies_empty" and error.step == step and "all 8 replies are empty" in str(error)
    held = trainer(tmp_path / "held")
    if step == 3: held.train(1)  # the second update made it silent, and is gone
    assert equal(weights(run), weights(held)) and run.step == held.step == len(error.result.history)


wild = dict(learning_rate=0.05, kl=0.0, epochs=4)


@pytest.mark.parametrize("judge", ["letters", "one that fails"])
def test_exploding_kl_takes_the_update_back(judge, tmp_path):
    fails = lambda p, r: letters(p, r) if run.step < 2 else 1 / 0
    run = trainer(tmp_path / "run", letters if judge == "letters" else fails, **wild, kl_limit=0.2, save_every=1, keep=1)
    error = stopped(run, 30)
    assert error.code == "kl_exploded" and "above kl_limit=0.2" in str(error) and error.step == run.step + 2
    assert [f.name for f in (tmp_path / "run").glob("checkpoint-*")] == [f"checkpoint-{run.step}"] * bool(run.step)
    held = trainer(tmp_path / "held", **wild)
    if run.step: held.train(run.step)
    assert equal(weights(run), weights(held)) and len(error.result.history) == run.step
    calm = trainer(tmp_path / "run", resume=True, kl_limit=50, learning_rate=1e-4, kl=0.5)  # the cures, all of them allowed
    assert [row["step"] for row in calm.train(run.step + 2).history] == [*range(1, run.step + 3)] and calm.history[-1]["beta"] == 0.5


def test_the_last_update_is_looked_at_too(tmp_path):
    run = trainer(tmp_path / "run", learning_rate=0.3, kl=0.0, kl_limit=0.2, epochs=4)
    error = stopped(run, 1)
    assert error.code == "kl_exploded" and run.step == 0 and equal(weights(run), weights(trainer(tmp_path / "fresh")))


def test_a_stop_leaves_a_checkpoint_without_being_asked(tmp_path, capsys):
    calls = []
    def breaks(prompts, replies):
        calls.append(1)
        return letters(prompts, replies) if len(calls) != 4 else 1 / 0
    assert stopped(trainer(tmp_path / "run", breaks)).step == 4
    again, whole = trainer(tmp_path / "run", breaks, resume=True), trainer(tmp_path / "whole")
    again.train(5)
    whole.train(5)
    assert len(calls) == 6 and equal(weights(again), weights(whole))
    more = trainer(tmp_path / "whole", resume=True)
    assert len(more.train(6).history) == 6
    trainer(tmp_path / "new", resume=True, show=True).train(1)
    assert "no checkpoint in" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("index out of range"), SystemExit(3), KeyboardInterrupt(), torch.OutOfMemoryError("full. x")])
def test_whatever_ends_an_update_leaves_the_step_before(error, tmp_path):
    run, plain = trainer(tmp_path / "run", minibatch=4), trainer(tmp_path / "plain", minibatch=4)
    loss, calls = run._loss, []
    def breaks(*given):
        calls.append(1)
        if len(calls) == 7: raise error  # the third minibatch of the second step: two updates were made
        return loss(*given)
    run._loss = breaks
    with pytest.raises((type(error), TrainingStopped)): run.train(4)
    plain.train(1)
    assert equal(weights(run), weights(plain)) and run.step == 1 and (tmp_path / "run" / "adapter").is_dir()
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["event"] == "stop" and last["code"] in ("RuntimeError", "SystemExit", "interrupted", "out_of_memory")
    run.train(3)
    plain.train(3)
    assert equal(weights(run), weights(plain))  # the optimizer went back as well


def test_a_broken_gradient_never_reaches_the_weights(tmp_path):
    run = trainer(tmp_path, lambda p, r: [1e38 * (i % 3 - 1) for i in range(len(r))], whiten=False)
    before = weights(run)
    error = stopped(run)
    assert error.code == "gradient_not_finite" and equal(weights(run), before)


@pytest.mark.parametrize("where", ["written", "read"])
def test_numbers_that_are_none_stop_before_they_teach(where, tmp_path):
    run = trainer(tmp_path)
    run.train(1)
    good = run.good
    with torch.no_grad(): next(p for n, p in run.trained.items() if "v_proj.lora_B" in n).fill_(math.nan)
    if where == "read": run.write = lambda prompts, ids, write=run.write: _without_nan(run, write, prompts, ids)
    error = stopped(run)
    assert error.code == "logprobs_not_finite" and error.step == 2 and equal(weights(run), good[1])


def _without_nan(run, write, prompts, ids):
    with run.model.disable_adapter(): return write(prompts, ids)


def test_an_interruption_saves_what_was_learned(tmp_path):
    calls = []
    def stops(prompts, replies):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return letters(prompts, replies)
    error = stopped(trainer(tmp_path, stops))
    assert error.code == "interrupted" and len(error.result.history) == 2


def test_wrong_calls_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="no setting 'beta'"): trainer(tmp_path, beta=1)
    asked = lambda prompts, **more: PPOTrainer(small(), reader, prompts, letters, output=tmp_path, targets="all-linear", **more)
    with pytest.raises(ValueError, match="no prompts"): asked([])
    with pytest.raises(TypeError, match="prompts must be a list of prompts, not one str"): asked("hello")
    with pytest.raises(ValueError, match=r"prompts\[1\] has ids from 3 to 8, and the model those from 0 to 7"): asked([[1], [3, 8]])
    with pytest.raises(TypeError, match=r"prompts\[1\] must be a string, messages or ids, not float"): asked([[1], 5.0])
    with pytest.raises(ValueError, match=r"prompts\[1\]: .*role"): asked([[1], [{"content": "a"}]])
    asked([torch.tensor([1, 2]), [3]])
    with pytest.raises(ValueError, match=r"prompts\[0\] has 8190 tokens, and with 32 more .* window of 8192 is too short"):
        PPOTrainer(load_model("tiny-v3"), load_tokenizer("tiny-v3"), [[20] * 8190], letters, output=tmp_path)
    with pytest.raises(ValueError, match="with kl_target it must be above 0"): trainer(tmp_path, kl=0.0, kl_target=0.1)
    run = trainer(tmp_path)
    with pytest.raises(ValueError, match="merge it"): trainer(tmp_path, model=run.model)
    with pytest.raises(ValueError, match="max_new_tokens must be above 0"): trainer(tmp_path, max_new_tokens=0)


def test_the_saved_adapter_is_the_policy(tmp_path):
    from peft import PeftModel
    run = trainer(tmp_path, value="adapter")
    found = run.train(2)
    again = PeftModel.from_pretrained(small(), found.folder).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(again(input_ids=ids).logits, run.model(input_ids=ids).logits)
    assert not torch.allclose(again(input_ids=ids).logits, small()(input_ids=ids).logits)


def test_the_boards_of_the_engine_get_the_numbers(tmp_path, monkeypatch):
    import transformers.integrations as integrations
    told = []
    class Board:
        def __getattr__(self, event):
            return lambda args, state, control, logs=None, **kw: told.append((event, state.global_step, logs))
    monkeypatch.setattr(integrations, "get_reporting_integration_callbacks", lambda names: [Board])
    trainer(tmp_path).train(2)
    assert [(event, step) for event, step, _ in told] == [("on_train_begin", 0), ("on_log", 1), ("on_log", 2), ("on_train_end", 2)]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{k: v for k, v in row.items() if k not in ("event", "step", "seconds")} for row in logged if row["event"] == "log"]
    assert [logs for _, _, logs in told[1:3]] == rows and {"score", "kl", "entropy", "length", "clipped"} <= rows[0].keys()


def test_a_wanted_letter_becomes_usual(tmp_path):
    run = trainer(tmp_path, lambda p, r: [x.count("b") / 4 for x in r], batch_size=32, minibatch=32, epochs=4, learning_rate=1e-2)
    found = run.train(25).history
    assert found[-1]["score"] > found[0]["score"] + 0.4 and found[-1]["kl"] > 0.1


def test_a_logged_reply_with_a_line_separator_does_not_stop_a_resume(tmp_path):
    run = trainer(tmp_path)
    write = run.write
    def odd(prompts, ids):
        roll = write(prompts, ids)
        roll.texts[0] += "\u2028\x85"
        return roll
    run.write = odd
    run.train(2)
    assert len(trainer(tmp_path, resume=True).train(3).history) == 3


def measured(folder, **settings):
    "A trainer after a step, and measured replies with scores."
    run = trainer(folder, **settings)
    run.train(1)
    roll = run.write([[1]] * 6 + [[2, 3]] * 6, [[1]] * 6 + [[2, 3]] * 6)
    run.measure(roll)
    roll.scores = torch.linspace(-1, 2, 12)
    return run, roll


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_advantages_are_those_of_the_settings(kind, tmp_path):
    run, roll = measured(tmp_path, gamma=0.9, lam=0.8, kl=0.3, kl_kind=kind, whiten=False, value_rate=0.1)
    run._advantages(roll)
    rewards = token_rewards(roll.scores, kl_estimates(roll.logprobs, roll.reference, kind), roll.mask, 0.3)
    advantages, returns = gae(rewards, roll.values, roll.mask, 0.9, 0.8)
    assert torch.allclose(roll.advantages, advantages) and torch.allclose(roll.returns, returns) and roll.values.any()
    missed, spread = (returns - roll.values)[roll.mask], returns[roll.mask]
    told = _told(roll, roll.scores)
    assert told["explained"] == pytest.approx(1 - missed.var(correction=0).item() / spread.var(correction=0).item(), abs=1e-5)
    run.settings = replace(run.settings, whiten=True)
    run._advantages(roll)
    assert torch.allclose(roll.advantages, whiten(advantages, roll.mask), atol=1e-6)


def test_the_loss_is_that_of_the_settings(tmp_path):
    run, roll = measured(tmp_path, clip=0.1, value_clip=0.05, value_weight=0.25)
    run._advantages(roll)
    with torch.no_grad():  # an update later: ratios and values have moved
        for n, p in run.trained.items(): p += 0.3 if n == "value_head.bias" else 0.1 * ("lora_B" in n)
    some = [0, 3, 7]
    loss, parts = run._loss(roll, some, 5)
    logprobs, _, values = run.read([roll.rows[i] for i in some])
    old, before, gain, returns = (x[some][roll.mask[some]] for x in (roll.logprobs, roll.values, roll.advantages, roll.returns))
    policy, value = policy_loss(logprobs, old, gain, 0.1, 5), value_loss(values, before, returns, 0.05, 5)
    assert parts["policy_loss"] == pytest.approx(policy.item(), abs=1e-5) and parts["value_loss"] == pytest.approx(value.item(), abs=1e-5)
    assert loss.item() == pytest.approx(policy.item() + 0.25 * value.item(), abs=1e-5) and 0 < parts["clipped"]
    assert value.item() > value_loss(values, before, returns, None, 5).item()  # the clip matters here


def test_minibatches_are_drawn_anew_in_each_epoch_and_gradients_are_clipped(tmp_path):
    run, roll = measured(tmp_path, minibatch=4, epochs=3, max_norm=0.01)
    run._advantages(roll)
    loss, step, used, norms = run._loss, run.optimizer.step, [], []
    run._loss = lambda roll, some, items: used.append(some) or loss(roll, some, items)
    def stepped(*a, **kw):
        norms.append(torch.cat([p.grad.flatten() for p in run.trained.values() if p.grad is not None]).norm().item())
        return step(*a, **kw)
    run.optimizer.step = stepped
    run._improve(roll)
    epochs = [sum(used[i:i + 3], []) for i in range(0, 9, 3)]
    assert all(sorted(e) == list(range(12)) for e in epochs) and len({*map(tuple, epochs)}) == 3
    assert len(norms) == 9 and max(norms) <= 0.0101


def test_the_kl_of_the_limit_is_that_of_the_tokens(tmp_path):
    run, roll = measured(tmp_path, learning_rate=0.03)
    kl = (roll.logprobs - roll.reference)[roll.mask].mean().item()
    assert not roll.mask.all() and kl > 0
    run.settings = replace(run.settings, kl_limit=kl * 1.01)
    run.measure(roll)
    run.settings = replace(run.settings, kl_limit=kl * 0.99)
    with pytest.raises(TrainingStopped, match="kl_exploded"): run.measure(roll)


def test_the_coefficient_follows_its_target(tmp_path):
    history = trainer(tmp_path, kl=0.2, kl_target=0.01, kl_horizon=100, learning_rate=1e-2).train(4).history
    want = [0.2]
    for row in history: want.append(adapted_coefficient(want[-1], row["kl"], 0.01, row["length"] * 8 / 100))
    assert [row["beta"] for row in history] == pytest.approx(want[:-1]) and len({*want}) == 5


def test_equal_scores_in_a_group_are_no_advantage(tmp_path):
    run = trainer(tmp_path, value="group", replies=3, batch_size=4, kl=0.0)
    roll = run.write([[1]] * 12, [[1]] * 12)
    run.measure(roll)
    roll.scores = torch.tensor([5.3] * 6 + [6.2] * 6)
    run._advantages(roll)
    assert roll.advantages.abs().max() < 1e-3


def test_a_judge_reads_what_was_sampled(tmp_path):
    from chatglm_cookbook.reward import RewardModel, train_reward_model
    tokenizer, rows = load_tokenizer("tiny-v3"), load_rows("preferences")[:8]
    train_reward_model(load_model("tiny-v3"), tokenizer, rows, steps=1, show=False, output=tmp_path / "judge")
    run = PPOTrainer(load_model("tiny-v3"), tokenizer, ["one", "two"], tmp_path / "judge" / "reward", output=tmp_path / "ppo",
                     batch_size=4, max_new_tokens=3, show=False, report="none")
    run.train(1)
    assert not run.roll.ended.any() and isinstance(run.reward, RewardModel)
    want = run.reward.scores([[*p, *r] for p, r in run.roll.rows])
    assert run.roll.scores.tolist() == pytest.approx(want, abs=1e-5)
    assert run.reward(run.roll.prompts, run.roll.texts) != pytest.approx(want, abs=1e-5)  # with an end that nobody wrote
