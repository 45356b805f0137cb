"""RLHF as one recipe: three steps on one base, each kept once it is done, and recipes whose words are checked first."""
import functools
import json
import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from chatglm_cookbook import cli, rlhf
from chatglm_cookbook.checkpoints import load_model
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.rlhf import load_rlhf, read_rlhf, train_rlhf
from chatglm_cookbook.train import TrainingStopped

recipes = Path(__file__).resolve().parent.parent / "configs" / "recipes"
small = ["sft.data=instructions", "sft.steps=3", "sft.batch_size=4", "sft.length=256", "sft.learning_rate=1e-3", "sft.accumulate=1",
         "reward.data=preferences", "reward.steps=3", "reward.batch_size=4", "reward.accumulate=1", "reward.learning_rate=5e-3",
         "ppo.data=preferences", "ppo.steps=2", "ppo.batch_size=4", "ppo.minibatch=4", "ppo.accumulate=1", "ppo.max_new_tokens=6",
         "ppo.report=none", "sft.report=none", "ppo.kl_limit=50", "ppo.save_every=1", "ppo.learning_rate=5e-3", "dtype=float32"]


@pytest.fixture(scope="module", autouse=True)
def few_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf, "load_rows", lambda *a: load_rows(*a)[:40])
        yield


def run(folder, *more, resume=False, recipe="rlhf_smol", model="tiny-v3"):
    return train_rlhf(recipes / f"{recipe}.yaml", *small, f"model={model}", f"output={folder}", *more, resume=resume)


def weights(found): return {n: p.detach().clone() for n, p in found.model.named_parameters() if ".default." in n}


def equal(one, other): return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("recipe, model", [("rlhf_smol", "tiny-v3"), ("rlhf_chatglm", "tiny-v1")])
def test_three_steps_on_one_base(recipe, model, tmp_path):
    targets = ["sft.targets=attention", "reward.targets=attention", "ppo.targets=attention"]
    found = run(tmp_path, *targets, recipe=recipe, model=model)
    ids = torch.tensor([[70, 80, 90, 100]])
    logits = lambda m: m(input_ids=ids, use_cache=False).logits
    plain, whole = load_model(model, dtype="float32"), load_rlhf(tmp_path)
    assert torch.equal(logits(whole), logits(found.model))
    with found.model.disable_adapter(): reference = logits(found.model)
    assert not torch.allclose(reference, logits(plain), atol=1e-4)  # the reference is the tuned model
    assert not torch.allclose(reference, logits(whole), atol=1e-5)
    assert [row["step"] for row in found.history] == [1, 2] and all(math.isfinite(row["score"]) for row in found.history)
    for step in ("sft", "reward", "ppo"):
        assert json.loads((tmp_path / step / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])["event"] == "end"


def test_the_judge_of_ppo_scores_as_it_did_when_it_was_trained(tmp_path, monkeypatch):
    trained, used = [], []
    train, make = rlhf.train_reward_model, rlhf.PPOTrainer
    rows = load_rows("preferences")[:6]
    texts = [row["instruction"] for row in rows], [row["chosen"] for row in rows]
    @functools.wraps(train)
    def watched(*a, **kw):
        judge = train(*a, **kw)
        trained.extend(judge(*texts))
        return judge
    def made(*a, **kw):
        trainer = make(*a, **kw)
        used.extend(trainer.reward(*texts))
        return trainer
    monkeypatch.setattr(rlhf, "train_reward_model", watched)
    monkeypatch.setattr(rlhf, "PPOTrainer", made)
    run(tmp_path)
    assert used == pytest.approx(trained, abs=1e-5) and len({round(s, 4) for s in used}) > 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, run(folder)


@pytest.fixture
def moved(finished, tmp_path): return shutil.copytree(finished[0], tmp_path / "run")  # a folder may have another name later


@pytest.mark.parametrize("step", ["finetune", "train_reward_model", "PPOTrainer"])
def test_a_run_that_was_killed_goes_on_where_it_was(step, finished, tmp_path, monkeypatch):
    whole = finished[1]
    true = getattr(rlhf, step)
    @functools.wraps(true)
    def killed(*a, **kw):
        if step != "PPOTrainer":
            true(*a, **kw)
            log = Path(kw["output"]) / "log.jsonl"  # as if the end had not been reached
            log.write_text("".join(log.read_text(encoding="utf-8").splitlines(True)[:-1]), encoding="utf-8")
            raise KeyboardInterrupt
        trainer = true(*a, **kw)
        trainer.reward.scores = lambda rows, true=trainer.reward.scores: true(rows) if trainer.step == 0 else 1 / 0
        return trainer
    monkeypatch.setattr(rlhf, step, killed)
    with pytest.raises((KeyboardInterrupt, TrainingStopped)): run(tmp_path / "parts")
    monkeypatch.setattr(rlhf, step, true)
    again = run(tmp_path / "parts", resume=True)
    assert equal(weights(again), weights(whole)) and [r["score"] for r in again.history] == [r["score"] for r in whole.history]


def forbidden(monkeypatch, *names):
    for name in names:
        monkeypatch.setattr(rlhf, name, functools.wraps(getattr(rlhf, name))(lambda *a, **kw: pytest.fail("done again")))


def logged(folder, step="ppo"):
    return [line for line in (folder / step / "log.jsonl").read_text(encoding="utf-8").split("\n") if '"event": "log"' in line]


def test_what_is_done_is_not_done_again(finished, moved, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="holds an earlier run"):
        patch.setattr(rlhf, "load_model", lambda *a, **kw: pytest.fail("loaded"))
        run(moved, "sft.rank=4")
    forbidden(monkeypatch, "finetune", "train_reward_model")
    written = logged(moved)
    assert equal(weights(run(moved, "ppo.save_every=", resume=True)), weights(finished[1]))
    assert logged(moved) == written and len(written) == 2
    assert len(run(moved, "ppo.steps=3", resume=True).history) == 3


def test_a_run_whose_steps_save_every_does_not_divide_is_done_too(tmp_path, monkeypatch):
    first = run(tmp_path, "ppo.save_every=2", "ppo.steps=3")
    assert len(first.history) == 3
    monkeypatch.setattr(rlhf.PPOTrainer, "advance", lambda self: pytest.fail("done again"))
    assert equal(weights(run(tmp_path, "ppo.save_every=2", "ppo.steps=3", resume=True)), weights(first))


@pytest.mark.parametrize("change, told", [
    ("sft.learning_rate=0.002", "sft.learning_rate was 0.001 so far and is 0.002 now"), ("sft.steps=50", "sft.steps was 3"),
    ("sft.targets=mlp", "sft.targets was"), ("sft.data=self_cognition", "sft.data: these are not the rows"),
    ("sft.length=200", "sft.length was 256"), ("reward.steps=50", "reward.steps was 3"), ("reward.rank=4", "reward.rank was 8"),
    ("reward.data=preferences_heldout", "reward.data: these are not the rows"), ("dtype=bfloat16", "dtype was 'float32'"),
    ("model=tiny-v1", "tiny-v1 is not the base that the run began with, tiny-v3"),
    ("model=tiny-v2", "or the model has another tokenizer"), ("ppo.data=self_cognition", "prompts"),
    ("ppo.rank=4", "rank was 8")])
def test_a_run_does_not_go_on_with_steps_of_another_one(change, told, moved, monkeypatch):
    if change == "reward.data=preferences_heldout":
        change = f"reward.data={recipes.parent.parent / 'data' / 'preferences_heldout.jsonl'}"
    forbidden(monkeypatch, "finetune", "train_reward_model")
    before = (moved / "plan.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=f"resume: .*{told}"): run(moved, change, resume=True)
    if not change.startswith("ppo"): assert (moved / "plan.json").read_text(encoding="utf-8") == before


def test_what_changes_nothing_may_change(moved, monkeypatch):
    forbidden(monkeypatch, "finetune", "train_reward_model")
    data = recipes.parent.parent / "data"
    run(moved, "sft.save_every=7", "sft.log_every=2", "reward.epochs=1.0", "sft.rank=8", f"sft.data={data / 'instructions.jsonl'}",
        f"reward.data={data / 'preferences.jsonl'}", resume=True)


def cut(folder, step):
    "As if the step had been killed: without its end, and without what came later."
    log = folder / step / "log.jsonl"
    log.write_text("".join(log.read_text(encoding="utf-8").splitlines(True)[:-1]), encoding="utf-8")
    for later in {"sft": ("reward", "ppo"), "reward": ("ppo",)}[step]: shutil.rmtree(folder / later)


def test_a_step_that_has_not_ended_may_change(moved):
    cut(moved, "reward")
    with pytest.raises(ValueError, match="sft.learning_rate was"): run(moved, "sft.learning_rate=0.002", resume=True)
    run(moved, "reward.steps=2", "reward.rank=4", resume=True)
    assert [sum('"loss"' in line for line in logged(moved, step)) for step in ("sft", "reward")] == [3, 2]
    with pytest.raises(ValueError, match="reward.rank was 4"): run(moved, resume=True)


def test_a_step_that_has_begun_keeps_its_base_and_its_own_rules(tmp_path):
    run(tmp_path, "sft.save_every=1")
    cut(tmp_path, "sft")
    with pytest.raises(ValueError, match="tiny-v1 is not the base"): run(tmp_path, "sft.save_every=1", "model=tiny-v1", resume=True)
    with pytest.raises(ValueError, match="rank was 8"): run(tmp_path, "sft.save_every=1", "sft.rank=4", resume=True)
    assert len(run(tmp_path, "sft.save_every=1", resume=True).history) == 2


def test_steps_before_a_finished_one_are_held_to_the_plan(moved):
    shutil.rmtree(moved / "sft")
    with pytest.raises(ValueError, match="sft.learning_rate was"): run(moved, "sft.learning_rate=0.002", resume=True)
    (moved / "plan.json").unlink()
    with pytest.raises(ValueError, match="has no plan.json"): run(moved, resume=True)


def test_two_runs_do_not_share_a_folder(moved):
    with rlhf._claimed(moved, True), pytest.raises(ValueError, match="another run is writing"): run(moved, resume=True)


def test_what_was_learned_in_bfloat16_comes_back(tmp_path):
    found, ids = run(tmp_path, "dtype=bfloat16", "ppo.learning_rate=1e-5"), torch.tensor([[70, 80, 90, 100]])
    logits = lambda m: m(input_ids=ids, use_cache=False).logits.detach()
    whole, merged = load_rlhf(tmp_path), load_rlhf(tmp_path, merge=True)
    assert logits(whole).dtype == torch.bfloat16 and torch.equal(logits(whole), logits(found.model))
    with whole.disable_adapter(), found.model.disable_adapter(): assert torch.equal(logits(whole), logits(found.model))
    names = {n.removeprefix("base_model.model."): m for n, m in whole.named_modules() if hasattr(m, "get_delta_weight")}
    learned = {n: m.get_delta_weight("default").detach() for n, m in names.items()}
    assert names and all(d.abs().max() > 0 for d in learned.values())
    plain = {n: m.get_base_layer().weight.detach() for n, m in names.items()}
    for n, weight in ((n, merged.get_submodule(n).weight) for n in names):
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight - plain[n].float(), learned[n].float(), atol=1e-7, rtol=1e-3)
    assert not hasattr(merged, "peft_config")


def test_another_base_is_not_loaded(moved):
    plan = json.loads((moved / "plan.json").read_text(encoding="utf-8"))
    plan["base"]["model"] = "tiny-v1"
    (moved / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(ValueError, match="tiny-v1 is not the base that"): load_rlhf(moved)


@pytest.mark.parametrize("change, told", [
    ("ppo.gama=1", "ppo: no setting 'gama', did you mean gamma?"), ("sft.dtype=float16", "sft: no setting 'dtype'"),
    ("reward.lenght=9", "reward: no setting 'lenght', did you mean length?"), ("juggle.steps=1", "no section 'juggle'"),
    ("ppo.gamma=2", "gamma must be from 0 to 1"), ("ppo.value=group", "replies must be 2"), ("sft.rank=0", "rank must be at least 1"),
    ("sft.method=full", "method='full' cannot be merged"), ("model=", "model is missing"), ("ppo.data=", "ppo must have settings"),
    ("steps", "write key=value"), ("sft=3", "sft must have settings"), ("ppo.x.kl=1", "section.key=value"), ("=3", "section.key=value"),
    ("ppo.=3", "section.key=value"), ("model.x=1", "no section 'model'"), (".kl=1", "no section ''"), ("ppo.kl=[1", "is no YAML"),
    ("ppo.steps=0", "ppo: steps must be at least 1, not 0"), ("ppo.steps=-1", "ppo: steps must be at least 1, not -1"),
    ("ppo.rounds=0", "ppo: rounds must be above 0"), ("ppo.rounds=-1", "ppo: rounds must"), ("ppo.rounds=.nan", "ppo: rounds must"),
    ("ppo.rounds=.inf", "ppo: rounds must"), ("ppo.steps=1.5", "ppo.steps: needs int"), ("sft.rank=0", "sft: rank must"),
    ("reward.steps=0", "reward: steps must be"), ("reward.steps=-3", "reward: steps must be"), ("reward.rank=0", "reward: rank must be"),
    ("reward.batch_size=0", "reward: batch_size must be"), ("reward.accumulate=0", "reward: accumulate must be"),
    ("reward.learning_rate=0", "reward: learning_rate must be"), ("reward.epochs=-1", "reward: epochs must be")])
def test_wrong_settings_are_refused_before_anything_loads(change, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rlhf, "load_model", lambda *a, **kw: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=told): run(tmp_path, change)
    path = recipes / "rlhf_smol.yaml"
    assert cli.main(["rlhf", str(path), *small, f"output={tmp_path}", "model=tiny-v3", change]) == 2
    assert told.replace("\\", "") in capsys.readouterr().err


def test_a_section_without_a_line_is_one_without_settings(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model: tiny-v3\noutput: x\nsft:\nreward: {data: preferences}\nppo: {data: preferences}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="sft is missing"): read_rlhf(path)
    assert read_rlhf(path, "sft.data=instructions")["sft"] == {"data": "instructions"}
    with pytest.raises(ValueError, match="sft is 3, which has no settings"): read_rlhf(path, "sft=3", "sft.rank=4")


good = {"instruction": "a", "input": "", "output": "b"}
pair = {"instruction": "a", "input": "", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize("section, rows, told", [
    ("sft", [pair], "sft: .*rows.jsonl:1: a pair"), ("sft", [], "sft: .*rows.jsonl: the file is empty"),
    ("reward", [good], "reward: row 0 is no pair"), ("reward", [pair, good], "reward: .*rows.jsonl:2: chosen: missing"),
    ("reward", [pair, pair | {"chosen": "long " * 600}], "reward: row 1 has .* tokens, above length"),
    ("ppo", [{"messages": [{"role": "assistant", "content": "I begin"}]}], "ppo: .*rows.jsonl:1: nothing is asked"),
    ("ppo", [{"text": "no turns at all"}], "ppo: .*rows.jsonl:1: nothing is asked"),
    ("ppo", [good, good | {"instruction": " "}], "ppo: .*rows.jsonl:2: "),
    ("ppo", [good, good | {"instruction": "long " * 9000}], r"ppo: prompts\[1\] has .* tokens")])
def test_rows_that_do_not_suit_are_found_before_anything_trains(section, rows, told, tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    forbidden(monkeypatch, "finetune", "train_reward_model")
    with pytest.raises(ValueError, match=told): run(tmp_path / "run", f"{section}.data={tmp_path / 'rows.jsonl'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change, told", [
    ("sft.targets=nothing", "sft: targets: no layer 'nothing'"), ("reward.targets=nothing", "reward: targets: no layer 'nothing'"),
    ("ppo.targets=nothing", "ppo: targets: no layer 'nothing'"), ("reward.length=5", "reward: row 0 has .* above length=5"),
    ("ppo.report=nowhere", "ppo: report: no 'nowhere'"), ("ppo.max_new_tokens=9000", r"ppo: prompts\[0\] has"),
    ("sft.data=preferences", "sft: .*preferences.jsonl:1: a pair"), ("reward.data=instructions", "reward: row 0 is no pair")])
def test_settings_that_do_not_suit_the_model_are_found_before_anything_trains(change, told, tmp_path, monkeypatch):
    forbidden(monkeypatch, "finetune", "train_reward_model")
    with pytest.raises(ValueError, match=told): run(tmp_path / "run", change)
    assert not (tmp_path / "run").exists()


def test_rounds_say_how_often_each_prompt_is_used(tmp_path):
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in load_rows("preferences")[:6]), encoding="utf-8")
    found = run(tmp_path / "run", f"ppo.data={tmp_path / 'few.jsonl'}", "ppo.steps=", "ppo.rounds=2")
    assert len(found.history) == 3  # 2 × 6 prompts, 4 a step


def test_a_row_asks_up_to_its_first_answer():
    assert rlhf._asked({"instruction": "a", "input": "", "chosen": "b", "rejected": "c"}) == [{"role": "user", "content": "a"}]
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
             {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    assert [m["content"] for m in rlhf._asked({"messages": turns})] == ["s", "a"]


def test_the_command(tmp_path, capsys):
    words = ["rlhf", str(recipes / "rlhf_smol.yaml"), *small, f"output={tmp_path}", "model=tiny-v3"]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert cli.main(words) == 0
    assert not [w for w in heard if w.category is FutureWarning]  # of libraries about each other
    told = capsys.readouterr().out
    assert "saved in" in told and (tmp_path / "ppo" / "adapter").is_dir()
    steps = ("supervised tuning: 40 rows", "lora: loss of the answers: step 3 of 3", "reward model: 40 pairs",
             "reward model: loss of the pairs: step 3 of 3", "PPO: 40 prompts, 2 steps", "step 2 of 2: score")
    places = [told.find(words) for words in steps]
    assert -1 not in places and places == sorted(places), told
    assert cli.main([*words, "--resume"]) == 0
    assert capsys.readouterr().out.count("done before") == 2
    assert cli.main(["rlhf", "--help"]) == 0 and "RECIPE.yaml" in capsys.readouterr().out
    assert cli.main(["rlhf", str(recipes / "rlhf_smol.yaml"), "--fast"]) == 2


def test_the_bundled_recipe_finds_its_data_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = read_rlhf(recipes / "rlhf_smol.yaml")
    assert [len(load_rows(plan[step]["data"])) for step in ("sft", "reward", "ppo")] == [535, 728, 728]


@pytest.mark.parametrize("recipe, model, dtype", [("rlhf_smol", "tiny-v3", torch.float32), ("rlhf_chatglm", "tiny-v1", torch.bfloat16)])
def test_shipped_recipes_run_with_their_own_settings(recipe, model, dtype, tmp_path):
    changes = [f"model={model}", f"output={tmp_path / 'run'}", "sft.steps=2", "reward.steps=2", "ppo.steps=2", "ppo.max_new_tokens=24"]
    for step, name in (("sft", "instructions"), ("reward", "preferences"), ("ppo", "instructions")):
        (tmp_path / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in load_rows(name)[:40]), encoding="utf-8")
        changes.append(f"{step}.data={tmp_path / step}.jsonl")
    found, ids = train_rlhf(recipes / f"{recipe}.yaml", *changes, show=False), torch.tensor([[70, 80, 90, 100]])
    assert [row["step"] for row in found.history] == [1, 2] and all(math.isfinite(row["score"]) for row in found.history)
    logits = [m(input_ids=ids, use_cache=False).logits.detach() for m in (found.model, load_rlhf(tmp_path / "run"))]
    assert torch.equal(*logits) and logits[0].dtype == dtype


@pytest.mark.parametrize("path", sorted(recipes.glob("rlhf_*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes(path):
    plan = read_rlhf(path)
    registry = json.loads((recipes.parent.parent / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    assert plan["output"] == f"run/{path.stem}" and path.read_text(encoding="utf-8").startswith("# ")
    for step in ("sft", "reward", "ppo"):
        name = plan[step]["data"]
        assert name in registry or (recipes.parent.parent / name).is_file()


def test_the_recipe_of_the_literature_has_its_settings():
    plan = read_rlhf(recipes / "rlhf_chatglm.yaml")
    assert plan["model"] == "zai-org/chatglm-6b"
    want = {"sft": dict(batch_size=4, accumulate=4, schedule="cosine", learning_rate=5e-5, epochs=3, rank=8, alpha=32, dropout=0.1),
            "reward": dict(batch_size=4, accumulate=4, learning_rate=1e-5, epochs=1),
            "ppo": dict(minibatch=2, accumulate=4, batch_size=8, learning_rate=1e-5, rounds=1)}
    for step, settings in want.items(): assert {k: plan[step][k] for k in settings} == settings
