"""The reward model: where it reads, what it learns, what it saves, and a labelling file that a dying kernel cannot hurt."""
import json
import math

import numpy as np
import pytest
import torch
from transformers.models.glm.modeling_glm import GlmModel

from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.labels import encode_example
from chatglm_cookbook.reward import (PairLabels, RewardModel, RewardReport, pairwise_loss, reward_report, sequence_classifier,
                                     train_reward_model)
from chatglm_cookbook.train import TrainingStopped

names = ("tiny-v1", "tiny-v2", "tiny-v3")
rows = load_rows(data_file("preferences.jsonl"))[:24]


def ids(tokenizer, side="chosen", some=rows): return [encode_example(tokenizer, row)[side]["input_ids"] for row in some]


@pytest.fixture(scope="module", params=names)
def trained(request, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp(request.param), load_tokenizer(request.param)
    rate = 2e-2 if request.param == "tiny-v1" else 5e-3  # whose blocks add little to the last token's own embedding
    judge = train_reward_model(load_model(request.param), tokenizer, rows, steps=16, learning_rate=rate, show=False, output=folder)
    return request.param, judge, tokenizer, folder


def test_it_learns_the_pairs_it_saw(trained):
    name, judge, _, folder = trained
    losses = [json.loads(line).get("loss") for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [loss for loss in losses if loss is not None]
    assert losses[0] == pytest.approx(math.log(2), abs=0.1) and np.mean(losses[-3:]) < losses[0] - 0.05
    assert float(reward_report(judge, rows).accuracy) > 65


def test_reload_is_identical_and_small(trained):
    name, judge, tokenizer, folder = trained
    again = RewardModel.load(load_model(name), tokenizer, folder / "reward")
    assert again.scores(ids(tokenizer)) == judge.scores(ids(tokenizer))
    assert sum(f.stat().st_size for f in (folder / "reward").glob("*.safetensors")) < 1e6
    third = RewardModel.load(load_model(name), tokenizer, again.save(folder / "second"))
    assert third.scores(ids(tokenizer)) == judge.scores(ids(tokenizer))


def test_batch_and_padding_side_do_not_change_a_score(trained):
    _, judge, tokenizer, _ = trained
    all_ = ids(tokenizer)[:6]
    want, width, pad = judge.scores(all_, batch_size=1), max(map(len, all_)), tokenizer.pad_token_id
    assert len({round(s, 5) for s in want}) > 3
    assert judge.scores(all_[::-1], batch_size=6)[::-1] == pytest.approx(want, abs=1e-4)
    for left in (True, False):
        fill = lambda row, p: [p] * (width - len(row)) * left + row + [p] * (width - len(row)) * (not left)
        batch = {"input_ids": torch.tensor([fill(r, pad) for r in all_]),
                 "attention_mask": torch.tensor([fill([1] * len(r), 0) for r in all_])}
        with torch.no_grad(): got = judge.model(**batch).logits[:, 0].tolist()
        assert got == pytest.approx(want, abs=1e-3)


def test_the_score_is_read_at_the_last_token(trained):
    _, judge, tokenizer, _ = trained
    row = ids(tokenizer)[0]
    inner = judge.model.get_base_model()
    state = getattr(inner, inner.base_model_prefix)(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0, -1]
    assert judge.scores([row])[0] == pytest.approx((state @ judge.head.weight[0]).item(), abs=1e-4)
    assert judge.scores([row[:-1]])[0] != pytest.approx(judge.scores([row])[0], abs=1e-4)


def test_called_with_texts_it_reads_what_it_was_trained_on(trained):
    _, judge, tokenizer, _ = trained
    prompts, replies = [row["instruction"] for row in rows[:4]], [row["chosen"] for row in rows[:4]]
    assert judge(prompts, replies) == judge.scores(ids(tokenizer)[:4])
    assert judge([[{"role": "user", "content": prompts[0]}]], replies[:1]) == [judge(prompts[:1], replies[:1])[0]]
    with pytest.raises(ValueError): judge(prompts, replies[:1])


def test_it_judges_on_the_base_that_ppo_trains(trained, tmp_path):
    from chatglm_cookbook.ppo import PPOTrainer
    name, judge, tokenizer, folder = trained
    asked = [row["instruction"] for row in rows[:4]]
    run = PPOTrainer(load_model(name), tokenizer, asked, folder / "reward", output=tmp_path, batch_size=4, minibatch=4,
                     max_new_tokens=6, learning_rate=1e-2, show=False, report="none", kl_limit=50)
    run.train(2)
    assert run.roll.scores.tolist() == pytest.approx(judge.scores([[*p, *r] for p, r in run.roll.rows]), abs=1e-3)
    assert run.model.active_adapter == "default" and all(".reward." not in n for n in run.trained)
    alone = PPOTrainer(load_model(name), tokenizer, asked, judge, output=tmp_path / "alone", batch_size=4, minibatch=4,
                       max_new_tokens=6, learning_rate=1e-2, show=False, report="none", kl_limit=50)
    alone.train(2)
    for n, p in run.trained.items(): assert torch.allclose(p, alone.trained[n], atol=1e-3)


@pytest.mark.parametrize("name", names)
def test_the_classifier_shares_the_weights(name):
    model = load_model(name)
    made = sequence_classifier(model, seed=3)
    assert made.config.num_labels == 1 and {p.data_ptr() for p in made.parameters()} - {p.data_ptr() for p in model.parameters()} == {
        made.score.weight.data_ptr()}
    assert torch.equal(made.score.weight, sequence_classifier(load_model(name), seed=3).score.weight)


def test_what_cannot_be_trained_is_refused_before(tmp_path):
    from chatglm_cookbook.memory import adapt
    model, tokenizer = load_model("tiny-v3"), load_tokenizer("tiny-v3")
    train = lambda rows, **kw: train_reward_model(model, tokenizer, rows, show=False, output=tmp_path, **kw)
    with pytest.raises(ValueError, match="no rows"): train([])
    with pytest.raises(ValueError, match="row 1 is no pair"): train([rows[0], {"instruction": "a", "input": "", "output": "b"}])
    with pytest.raises(ValueError, match="row 0 has .* above length=8: a cut answer"): train(rows, length=8)
    with pytest.raises(ValueError, match="both answers have the same tokens"): train([{**rows[0], "rejected": rows[0]["chosen"]}])
    with pytest.raises(ValueError, match="merge it, model.merge_and_unload"): sequence_classifier(adapt(load_model("tiny-v3"), "lora"))
    with pytest.raises(FileNotFoundError, match="score.safetensors"): RewardModel.load(model, tokenizer, tmp_path)
    for name in ("steps", "batch_size", "accumulate", "rank", "epochs", "length"):
        with pytest.raises(ValueError, match=f"{name} must be above 0, not 0"): train(rows, **{name: 0})
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_base_in_half_precision_is_trained_and_read_again(name, dtype, tmp_path):
    base, tokenizer = load_model(name, dtype=dtype), load_tokenizer(name)
    judge = train_reward_model(base, tokenizer, rows, steps=4, learning_rate=2e-2, show=False, output=tmp_path)
    assert judge.head.weight.dtype == torch.float32 and base.dtype == getattr(torch, dtype)
    again = RewardModel.load(load_model(name, dtype=dtype), tokenizer, tmp_path / "reward")
    assert again.scores(ids(tokenizer)[:4]) == judge.scores(ids(tokenizer)[:4]) and len(set(judge.scores(ids(tokenizer)[:4]))) > 1


def test_a_base_that_carries_another_judge_is_refused(tmp_path):
    model, tokenizer = load_model("tiny-v3"), load_tokenizer("tiny-v3")
    first = train_reward_model(model, tokenizer, rows, steps=1, show=False, output=tmp_path / "1")
    before = first.scores(ids(tokenizer)[:3])
    with pytest.raises(ValueError, match=r"adapter of another one.*other.model.unload\(\)"):
        train_reward_model(model, tokenizer, rows, steps=1, show=False, output=tmp_path / "2")
    with pytest.raises(ValueError, match="adapter of another one"): RewardModel.load(model, tokenizer, tmp_path / "1" / "reward")
    assert first.scores(ids(tokenizer)[:3]) == before
    first.model.unload()
    train_reward_model(model.requires_grad_(False), tokenizer, rows, steps=1, show=False, output=tmp_path / "3")


def test_two_judges_on_one_base_keep_their_scores_and_another_base_is_noticed(trained, tmp_path):
    name, judge, tokenizer, folder = trained
    other = train_reward_model(load_model(name), tokenizer, rows[:8], steps=2, learning_rate=3e-2, seed=5, show=False, output=tmp_path)
    a = RewardModel.load(load_model(name), tokenizer, folder / "reward")
    b = RewardModel.load(a.model, tokenizer, tmp_path / "reward")
    some = ids(tokenizer)[:4]
    for _ in range(2):
        assert a.scores(some) == pytest.approx(judge.scores(some), abs=1e-5)
        assert b.scores(some) == pytest.approx(other.scores(some), abs=1e-5) != a.scores(some)
    assert b.save(tmp_path / "b").joinpath("score.safetensors").exists() and a.adapter == "reward" and b.adapter == "reward2"
    changed = load_model(name)
    changed.get_input_embeddings().weight.data[0, 0] += 1
    with pytest.warns(UserWarning, match="trained on other weights"): RewardModel.load(changed, tokenizer, folder / "reward")


@pytest.mark.parametrize("error, code", [(torch.OutOfMemoryError("full. x"), "out_of_memory"), (RuntimeError("device"), "RuntimeError"),
                                         (SystemExit(2), "SystemExit"), (KeyboardInterrupt(), "interrupted")])
def test_whatever_ends_a_training_leaves_what_was_learned(error, code, tmp_path, monkeypatch):
    calls, forward = [], GlmModel.forward
    def breaks(self, *a, **kw):
        calls.append(1)
        if len(calls) == 3: raise error
        return forward(self, *a, **kw)
    monkeypatch.setattr(GlmModel, "forward", breaks)
    with pytest.raises((type(error), TrainingStopped)):
        train_reward_model(load_model("tiny-v3"), load_tokenizer("tiny-v3"), rows, steps=4, show=False, output=tmp_path)
    last = json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["event"] == "stop" and last["code"] == code and last["reason"] and (tmp_path / "reward" / "score.safetensors").exists()


def test_a_broken_base_stops_by_name_and_saves(tmp_path):
    model = load_model("tiny-v3")
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = math.nan
    with pytest.raises(TrainingStopped) as found:
        train_reward_model(model, load_tokenizer("tiny-v3"), rows, steps=4, show=False, output=tmp_path)
    assert found.value.code == "gradient_not_finite" and found.value.step == 1
    assert (tmp_path / "reward" / "score.safetensors").exists() and found.value.result.head.weight.isfinite().all()
    assert json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])["code"] == "gradient_not_finite"


def test_real_pairs_can_be_judged(shared):
    tokenizer = load_tokenizer("tiny-v3")
    judge = RewardModel(*_untrained(tokenizer))
    real = load_rows(shared / "data" / "dpo_en_demo.json")[:3]
    report = reward_report(judge, real)
    assert len(report.margins) == 3 and np.isfinite(report.margins).all()


def _untrained(tokenizer):
    from chatglm_cookbook.reward import _adapted
    model, head = _adapted(load_model("tiny-v3"), 8, "attention", 0)
    return model.eval(), tokenizer, head


def test_a_report_by_hand():
    report = RewardReport([3.0, -1.0, 0.0, 0.5], [5, -1, 0, 0], ["a", "a", "b", "b"])
    assert float(report.accuracy) == 62.5 and float(report.of(report.groups == "b")) == 75
    assert report.calibration(2)[1] == (pytest.approx(np.mean([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-1))])), 0.5, 2)
    text = report._repr_markdown_()
    assert "| rule: a | 50.0" in text and "| equally long | 75.0" in text and "Correlation of margin and length: +0.9" in text
    assert math.isnan(RewardReport([1, 2], [3, 3], ["", ""]).length_correlation)
    with pytest.raises(ValueError, match="pair 1 has the margin nan"): RewardReport([1.0, math.nan], [0, 0], ["", ""])
    one = RewardReport([1.0], [2], [""])._repr_markdown_()
    assert "| all pairs | 100.0 | 1 |" in one and "length: undefined." in one and "nan" not in one
    assert [axis.get_xlabel() for axis in report.plot().axes] == ["score of the better less that of the worse", "how sure it is"]


def test_a_calibration_error_is_held_against_chance():
    draw = np.random.default_rng(1)
    sure = draw.exponential(1.5, 2000)
    right = draw.random(2000) < 1 / (1 + np.exp(-sure))
    fair = RewardReport(np.where(right, sure, -sure), [0] * 2000, [""] * 2000)
    assert fair.calibration_error < 0.03 and fair.calibration_error_by_chance() == pytest.approx(0.018, abs=0.01)
    shy = RewardReport(np.where(right, sure / 10, -sure / 10), [0] * 2000, [""] * 2000)
    assert shy.calibration_error > 0.1 and shy.calibration_error_by_chance() < 0.05
    few = RewardReport(np.where(right, sure, -sure)[:40], [0] * 40, [""] * 40)
    assert few.calibration_error_by_chance() > 3 * fair.calibration_error_by_chance()
    by_hand = sum(n * abs(e - r) for e, r, n in few.calibration()) / 40
    assert few.calibration_error == pytest.approx(by_hand)


def test_the_loss_is_that_of_trl():
    chosen, rejected = torch.randn(9), torch.randn(9)
    assert pairwise_loss(chosen, rejected).item() == pytest.approx(torch.log1p((rejected - chosen).exp()).mean().item(), abs=1e-6)


to_label = [{"prompt": f"q{i}", "a": f"a{i}", "b": f"b{i}"} for i in range(6)]


@pytest.mark.parametrize("torn", ["", '{"pi', '{"pick": "a"}', "\n"])
def test_a_dying_kernel_loses_nothing(torn, tmp_path):
    labels = PairLabels(to_label, tmp_path / "labels.jsonl")
    for side in ("left", "right", "skip", "left"): labels.pick(side)
    labels.undo()
    before = list(labels.choices)
    with (tmp_path / "labels.jsonl").open("a", encoding="utf-8") as file: file.write(torn.strip("\n"))
    again = PairLabels(to_label, tmp_path / "labels.jsonl")
    assert again.choices == before and again.at == 3
    again.pick("right")
    assert PairLabels(to_label, tmp_path / "labels.jsonl").choices == again.choices == [*before, again.choices[-1]]


def test_the_file_only_grows(tmp_path):
    labels, sizes = PairLabels(to_label, tmp_path / "l.jsonl"), []
    for step in ("left", "undo", "undo", "skip", "right"):
        labels.undo() if step == "undo" else labels.pick(step)
        sizes.append((tmp_path / "l.jsonl").read_text(encoding="utf-8"))
    assert all(b.startswith(a) for a, b in zip(sizes, sizes[1:])) and labels.at == 2


def test_sides_are_mixed_and_choices_are_not(tmp_path):
    many = [{"prompt": str(i), "a": "A", "b": "B"} for i in range(60)]
    labels = PairLabels(many, tmp_path / "l.jsonl")
    shown = []
    for _ in many: shown.append(labels.sides()[0]); labels.pick("left")
    assert labels.choices == shown and 15 < shown.count("a") < 45
    assert [p["chosen"] for p in labels.export()] == [s.upper() for s in shown]
    with pytest.raises(ValueError, match="all rows are labelled"): labels.pick("left")


def test_an_export_can_be_trained_on(tmp_path):
    labels = PairLabels(to_label, tmp_path / "l.jsonl")
    for side in ("left", "skip", "right"): labels.pick(side)
    labels.export(tmp_path / "pairs.jsonl")
    pairs = load_rows(tmp_path / "pairs.jsonl")
    assert len(pairs) == 2 and {pairs[1]["chosen"], pairs[1]["rejected"]} == {"a2", "b2"}
    assert set(encode_example(load_tokenizer("tiny-v3"), pairs[0])) == {"chosen", "rejected"}


def test_the_buttons_do_what_they_say(tmp_path, monkeypatch):
    pytest.importorskip("ipywidgets")
    labels = PairLabels(to_label, tmp_path / "l.jsonl")
    plain = labels._repr_mimebundle_()
    assert "q0" in plain["text/html"] and labels.widgets is None
    monkeypatch.setenv("COOKBOOK_WIDGETS", "1")
    labels._repr_mimebundle_()
    for key in ("left", "skip", "undo", "right"): labels.widgets[key].click()
    assert labels.at == 2 and len(labels.export()) == 2 and "q2" in labels.widgets["said"].value
    for _ in range(9): labels.widgets["skip"].click()
    assert labels.at == 6 and "6 of 6 done" in labels.widgets["said"].value


def test_two_windows_on_one_file_label_no_row_unseen(tmp_path):
    one, two = (PairLabels(to_label, tmp_path / "l.jsonl") for _ in range(2))
    one.pick("left")
    with pytest.raises(ValueError, match="another window went on to row 1"): two.pick("left")
    two.pick("right")  # it has seen row 1 now
    with pytest.raises(ValueError, match="went on to row 2"): one.undo()
    one.undo()
    assert PairLabels(to_label, tmp_path / "l.jsonl").choices == one.choices and one.at == 1
    events = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
    assert [event["row"] for event in events] == [0, 1, 2] and "undo" in events[2]


def test_a_stale_display_shows_and_picks_nothing(tmp_path, monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.setenv("COOKBOOK_WIDGETS", "1")
    labels = PairLabels(to_label, tmp_path / "l.jsonl")
    labels._repr_mimebundle_()
    old = labels.widgets
    labels._repr_mimebundle_()
    labels.widgets["left"].click()
    old["left"].click()  # it still showed row 0
    assert labels.at == 1 and "q1" in old["said"].value
    old["right"].click()
    assert labels.at == 2
    PairLabels(to_label, tmp_path / "l.jsonl").pick("skip")
    old["left"].click()  # another kernel has gone on
    assert labels.at == 3 and "another window went on to row 3" in old["said"].value and "q3" in old["said"].value
    (tmp_path / "l.jsonl").write_text("something else", encoding="utf-8")
    old["left"].click()
    assert labels.at == 3 and "holds no labels" in old["said"].value


@pytest.mark.parametrize("text", ["important notes without newline", "{}\n[1]", '{"rows": 1}\n', "\n", "a,b\n1,2"])
def test_a_file_of_something_else_is_left_alone(text, tmp_path):
    (tmp_path / "l.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="holds no labels|belongs to other rows"): PairLabels(to_label, tmp_path / "l.jsonl")
    assert (tmp_path / "l.jsonl").read_text(encoding="utf-8") == text


def test_a_file_of_bytes_is_left_alone(tmp_path):
    (tmp_path / "l.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="holds no labels"): PairLabels(to_label, tmp_path / "l.jsonl")
    assert (tmp_path / "l.jsonl").read_bytes() == b"\xff\xfe\x00"


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"x": 1}', '{"row": 3, "pick": "a"}', '{"row": 1, "pick": "left"}'])
def test_a_damaged_line_is_named_and_nothing_is_changed(line, tmp_path):
    labels = PairLabels(to_label, tmp_path / "l.jsonl")
    labels.pick("left")
    with (tmp_path / "l.jsonl").open("a") as file: file.write(line + '\n{"pi')
    before = (tmp_path / "l.jsonl").read_bytes()
    with pytest.raises(ValueError, match="line 3 is no choice for row 1"): PairLabels(to_label, tmp_path / "l.jsonl")
    assert (tmp_path / "l.jsonl").read_bytes() == before


def test_what_another_window_chose_is_exported(tmp_path):
    one, two = (PairLabels(to_label, tmp_path / "l.jsonl") for _ in range(2))
    one.pick("left")
    assert two.export() == one.export() and len(two.export()) == 1


def test_a_first_line_that_was_cut_is_written_again(tmp_path):
    PairLabels(to_label, tmp_path / "l.jsonl")
    first = (tmp_path / "l.jsonl").read_text(encoding="utf-8")
    (tmp_path / "l.jsonl").write_text(first[:9], encoding="utf-8")
    PairLabels(to_label, tmp_path / "l.jsonl").pick("left")
    assert (tmp_path / "l.jsonl").read_text(encoding="utf-8").startswith(first)
    assert PairLabels(to_label, tmp_path / "l.jsonl").at == 1


def test_labels_refuse_what_they_cannot_keep(tmp_path):
    odd = lambda row: PairLabels([to_label[0], row], tmp_path / "l.jsonl")
    with pytest.raises(ValueError, match="row 1 lacks 'prompt'"): odd("text")
    with pytest.raises(ValueError, match="row 1 lacks 'b'"): odd({"prompt": "", "a": "", "b": None})
    with pytest.raises(ValueError, match="row 1: 'a' holds half a character"): odd({"prompt": "", "a": "\ud800", "b": ""})
    assert not (tmp_path / "l.jsonl").exists()
    labels = PairLabels([{"prompt": "\u2028", "a": "\x85", "b": ""}], tmp_path / "l.jsonl")
    labels.pick("left")
    with pytest.raises(ValueError, match="export to another file"): labels.export(tmp_path / "x" / ".." / "l.jsonl")
    assert PairLabels(labels.rows, tmp_path / "l.jsonl").at == 1 and len(labels.export(tmp_path / "out.jsonl")) == 1
