"""A policy, its reference and its values on one base: what is trained is what was sampled, and no batch changes a number."""
import math

import pytest
import torch
from transformers import LogitsProcessorList

from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.deploy import _KnownIds, full_settings
from chatglm_cookbook.lora import _padded
from chatglm_cookbook.policy import (Policy, _base_sum, _check_prompts, _encoded, adapted_coefficient, chosen_logprobs, gae,
                                     kl_estimates, policy_loss, value_loss, whiten)

asked = ["你好", "What is the capital of Spain, please?", "a b"]


def chatglm(name, **settings):
    run = Policy(load_model(name), load_tokenizer(name), max_new_tokens=10, **settings)
    run.ids = _encoded(run.tokenizer, asked)
    return run


def grow(run, spread=0.05):  # an adapter that does something
    with torch.no_grad():
        for n, p in run.trained.items():
            if "lora_B" in n: p.normal_(0, spread)


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_trained_log_probabilities_are_those_of_generation(name, temperature):
    run = chatglm(name, temperature=temperature)
    grow(run)
    ids = run.ids * 2
    longest = max(map(len, ids))
    settings = full_settings(do_sample=True, temperature=temperature, top_p=1.0, top_k=0, max_new_tokens=10)
    out = run.model.generate(**_padded(ids, run.tokenizer.pad_token_id, "cpu"), **settings, eos_token_id=run.ends,
                             pad_token_id=run.ends[0], output_scores=True, return_dict_in_generate=True,
                             logits_processor=LogitsProcessorList([_KnownIds(run.tokenizer)]))
    replies = [run._until_end(row) for row in out.sequences[:, longest:].tolist()]
    replies[0] = replies[0][:4]  # lengths differ, so that there is padding on the right too
    drawn = torch.stack(out.scores, 1).float().log_softmax(-1)
    want = torch.cat([drawn[b, torch.arange(len(r)), torch.tensor(r)] for b, r in enumerate(replies)])
    got = run.read(list(zip(ids, replies)))[0]
    assert (got - want).abs().max() < 2e-4 and got.std() > 1e-3
    assert (run.reference(list(zip(ids, replies))) - want).abs().max() > 1e-3  # the reference is another model


def test_the_prompt_of_chatglm_6b_sees_itself_and_the_reply_does_not_see_ahead():
    run = chatglm("tiny-v1")
    assert run.ids[0][-1] == run.model.config.bos_token_id and run.model.config.gmask_token_id in run.ids[0]
    prompt, reply = run.ids[1], [20, 30, 40]
    row, longer = run.read([(prompt, reply)])[0], run.read([(prompt, [*reply, 50])])[0]
    assert torch.allclose(row, longer[:3], atol=1e-5)
    alone = run.model(input_ids=torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0, len(prompt) - 1:-1]
    alone = alone.masked_fill(run.shut, -1e30).log_softmax(-1)
    assert torch.allclose(row, alone[torch.arange(3), torch.tensor(reply)], atol=1e-5)


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
def test_a_reading_does_not_depend_on_its_batch(name):
    run = chatglm(name)
    rows = [(run.ids[0], [20, 30]), (run.ids[1], [40, 50, 60, 70]), (run.ids[2], [33])]
    torch.nn.init.normal_(run.value_head.weight)
    together, apart = run.read(rows), [run.read([row]) for row in rows]
    for k in range(3): assert torch.allclose(together[k], torch.cat([a[k] for a in apart]), atol=1e-4)


@pytest.mark.parametrize("value, reaches", [("head", False), ("adapter", False), ("shared", True)])
def test_the_error_of_the_values_reaches_the_policy_only_where_they_share(value, reaches):
    run = chatglm("tiny-v3", value=value)
    torch.nn.init.normal_(run.value_head.weight)
    grow(run, 0.1)
    values = run.read([(run.ids[0], [20, 30, 40])])[2]
    value_loss(values, values.detach(), torch.ones(3)).backward()
    hit = {n for n, p in run.trained.items() if p.grad is not None and p.grad.any()}
    assert any(".default." in n for n in hit) == reaches
    assert any(".value." in n for n in hit) == (value == "adapter") and "value_head.weight" in hit


def test_an_unclipped_ratio_runs_further():
    now, old, gain = torch.tensor([0.5]), torch.zeros(1), torch.ones(1)
    assert policy_loss(now, old, gain).item() == pytest.approx(-1.2)
    assert policy_loss(now, old, gain, None).item() == pytest.approx(-math.exp(0.5))
    assert kl_estimates(torch.tensor(-1.0), torch.tensor(0.0), "k3").item() == pytest.approx(math.e - 2)



@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
def test_the_reference_is_the_base_whatever_the_adapter_holds(name):
    run, plain = chatglm(name, value="adapter"), load_model(name)
    rows = [(run.ids[0], [20, 30, 25]), (run.ids[1], [40, 50])]
    before = run.reference(rows)
    grow(run)
    assert torch.equal(run.reference(rows), before) and not torch.allclose(run.read(rows)[0], before, atol=1e-4)
    for (prompt, reply), part in zip(rows, before.split([3, 2])):
        logs = plain(input_ids=torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0, len(prompt) - 1:-1]
        logs = logs.masked_fill(run.shut, -1e30).log_softmax(-1)
        assert torch.allclose(part, logs[torch.arange(len(reply)), torch.tensor(reply)], atol=1e-4)
    assert all(p.requires_grad for p in run.trained.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_some_rows_at_a_time_are_those_at_once(dtype, monkeypatch):
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(50, 8).to(dtype).requires_grad_(), torch.randn(30, 8).to(dtype), torch.randint(0, 29, (50,))
    shut, pull = torch.arange(30) == 29, torch.randn(50)
    whole = [x.detach() for x in chosen_logprobs(hidden, weight, labels, shut, 0.7)]
    monkeypatch.setattr("chatglm_cookbook.policy._scores_at_once", 16 * 30)  # four pieces
    logprobs, entropies = chosen_logprobs(hidden, weight, labels, shut, 0.7)
    assert torch.allclose(logprobs, whole[0]) and torch.allclose(entropies, whole[1])
    (logprobs * pull).sum().backward()
    grad, hidden.grad = hidden.grad.float(), None
    logs = ((hidden @ weight.T).float() / 0.7).masked_fill(shut, -1e30).log_softmax(-1)
    (logs.gather(1, labels[:, None])[:, 0] * pull).sum().backward()
    assert torch.allclose(grad, hidden.grad.float(), atol=1e-5 if dtype == torch.float32 else 0.1)


def test_a_base_with_an_adapter_is_refused():
    run = chatglm("tiny-v3")
    with pytest.raises(ValueError, match="merge it"): Policy(run.model, run.tokenizer)


def test_prompts_are_strings_messages_or_ids():
    tokenizer = load_tokenizer("tiny-v3")
    text, messages, ids = _encoded(tokenizer, ["a b", [{"role": "user", "content": "a b"}], [5, 6]])
    assert text == messages and ids == [5, 6]
    with pytest.raises((TypeError, ValueError)): _encoded(tokenizer, [[]])


def test_a_reply_ends_at_its_first_end():
    run = chatglm("tiny-v3")
    end = run.ends[0]
    assert run._until_end([3, end, 4, end]) == [3, end] and run._until_end([3, 4]) == [3, 4]
    torch.manual_seed(0)
    roll = run.write(asked * 8, run.ids * 8)
    assert all((r[-1] in run.ends) == e and not {*run.ends} & {*r[:-1]} for (_, r), e in zip(roll.rows, roll.ended.tolist()))
    flat = torch.arange(1.0, int(roll.mask.sum()) + 1)
    laid = roll.laid_out(flat)
    assert torch.equal(laid[roll.mask], flat) and not laid[~roll.mask].any() and roll.mean(laid) == pytest.approx(flat.mean().item())


def test_advantages_do_not_see_what_stands_behind_a_reply():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    rewards, values = torch.randn(2, 3), torch.randn(2, 3)
    want = gae(rewards, values, mask, 0.9, 0.7)
    rewards[0, 2], values[0, 2] = 99.0, -99.0
    assert all(torch.equal(a, b) for a, b in zip(want, gae(rewards, values, mask, 0.9, 0.7)))
    white = whiten(want[0], mask)
    want[0][0, 2] = 99.0
    assert torch.equal(white, whiten(want[0], mask)) and white[0, 2] == 0


def test_replies_are_drawn_from_the_very_distribution_that_is_read():
    model = load_model("tiny-v3")
    model.lm_head.weight.data *= 8  # so that temperature matters
    run = Policy(model, load_tokenizer("tiny-v3"), max_new_tokens=1, temperature=0.7, seed=0)
    ids = _encoded(run.tokenizer, ["你好"]) * 2000
    torch.manual_seed(0)
    roll = run.write(["你好"] * 2000, ids)
    with torch.no_grad():
        logs = model(input_ids=torch.tensor(ids[:1]), use_cache=False).logits[0, -1].div(0.7).masked_fill(run.shut, -1e30).log_softmax(-1)
        logprobs, entropies, _ = run.read(roll.rows)
    drawn = torch.tensor([reply[0] for _, reply in roll.rows])
    assert torch.allclose(logprobs, logs[drawn], atol=1e-4) and not run.shut[drawn].any()
    spread = lambda p: (p * (1 - p) / 2000) ** 0.5
    rare = logs.exp().sort().values[:-50].sum().item()  # what a cut at 50 would never draw
    seen = (logs[drawn] < logs.topk(50).values[-1]).float().mean().item()
    assert rare > 0.02 and abs(seen - rare) < 5 * spread(rare)
    deviation = ((logs.exp() * logs.clamp(min=-100) ** 2).sum() - entropies[0] ** 2).sqrt().item() / 2000**0.5
    assert abs(logprobs.mean().item() + entropies[0].item()) < 5 * deviation  # the mean of log π is minus the entropy


def test_prompts_that_cannot_be_read_are_refused_by_number():
    tokenizer = load_tokenizer("tiny-v1")
    assert _encoded(tokenizer, [[5, 6], (7,)]) == [[5, 6], [7]]
    with pytest.raises(ValueError, match="no prompts"): _encoded(tokenizer, [])
    with pytest.raises(TypeError, match="must be a list of prompts, not one dict"): _encoded(tokenizer, {"role": "user"})
    with pytest.raises(TypeError, match=r"prompts\[1\] must be a string, messages or ids, not dict"): _encoded(tokenizer, ["a", {"prompt": "b"}])
    with pytest.raises(ValueError, match=r"prompts\[0\] has 2040 tokens, and with 9 more"):
        _check_prompts(load_model("tiny-v1"), [[5] * 2040], 9)


def test_layers_of_another_adapter_are_refused():
    from chatglm_cookbook.reward import _adapted
    model = load_model("tiny-v3")
    before = _base_sum(model)
    other, _ = _adapted(model, 8, "attention", 0)
    assert _base_sum(model) == before == _base_sum(load_model("tiny-v3")) != _base_sum(load_model("tiny-v1"))
    with pytest.raises(ValueError, match="layers of this model have the adapter of another one"): Policy(model, load_tokenizer("tiny-v3"))
    other.unload()
    Policy(model, load_tokenizer("tiny-v3"))


def test_small_numbers_are_whitened_too():
    mask = torch.tensor([[True, True, False]])
    assert whiten(torch.tensor([[1e-5, -1e-5, 3.0]]), mask).tolist() == [[pytest.approx(1, abs=1e-3), pytest.approx(-1, abs=1e-3), 0.0]]


def test_the_coefficient_moves_by_one_horizon_at_most():
    assert adapted_coefficient(0.1, kl=5.0, target=0.01, share=7.0) == pytest.approx(0.12)
