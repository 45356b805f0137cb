"""Blank infilling: examples, masks, losses and uses, and the model that comes with the package."""
import itertools
import json
import math
import random
import sys
from pathlib import Path

import pytest
import torch
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file, demo_model, model_folder
from chatglm_cookbook.glm import ChatGLMConfig, ChatGLMForCausalLM, glm_mask, glm_positions
from chatglm_cookbook.pretrain import (
    BlankCollator, blank_example, blank_loss, cloze_scores, fill_blanks, pretrain, restored, sentence_spans, short_spans,
    text_batches,
)

M, G, S, E, P = 90, 91, 92, 93, 94  # [MASK], [gMASK], <sop>, <eop>, padding
STOP = 7                            # ends a sentence
tools = Path(__file__).resolve().parent.parent / "tools"


class Toy:
    "As much of a tokenizer as a collator asks for."
    generation, bos_token_id, eos_token_id, pad_token_id = 1, S, E, P
    def convert_tokens_to_ids(self, tokens): return [{"[MASK]": M, "[gMASK]": G}[t] for t in tokens]
    def get_vocab(self): return {"。": STOP, "好": 8, "[MASK]": M}


def small(layers=2, **more):
    torch.manual_seed(0)
    return ChatGLMForCausalLM(ChatGLMConfig(
        vocab_size=96, hidden_size=32, num_layers=layers, num_attention_heads=2, inner_hidden_size=64, bos_token_id=S,
        eos_token_id=E, mask_token_id=M, gmask_token_id=G, pad_token_id=P, initializer_range=0.2, **more)).eval()


def a_text(rng, least=1, most=40): return [rng.choice([STOP, *range(10, 80)]) for _ in range(rng.randint(least, most))]


def tensors(example): return {k: torch.tensor([v]) for k, v in example.items()}


@pytest.fixture(scope="module")
def bundled(): return load_model("mini-zh"), load_tokenizer("mini-zh")


# examples

def test_the_example_of_the_papers_figure_2():
    found = blank_example([1, 2, 3, 4, 5, 6], [(4, 6), (2, 3)], M, S, E)
    assert found["input_ids"] == [1, 2, M, 4, M, S, 5, 6, S, 3, E]
    assert found["labels"] == [-100] * 6 + [5, 6, E, 3, E]
    assert found["position_ids"] == [[0, 1, 2, 3, 4, 4, 4, 4, 2, 2, 2], [0, 0, 0, 0, 0, 1, 2, 3, 1, 2, 3]]


@pytest.mark.parametrize("kind", ["short", "sentence", "document", None])
def test_every_example_restores_its_text(kind):
    collate, rng = BlankCollator(Toy(), seed=4), random.Random(1)
    for _ in range(400):
        text = a_text(rng)
        e = collate.example(text, kind)
        assert restored(e, G if G in e["input_ids"] else M) == text


def test_labels_and_positions_follow_the_definition():
    collate, rng = BlankCollator(Toy(), seed=5), random.Random(2)
    for _ in range(300):
        text = a_text(rng)
        e = collate.example(text)
        ids, labels, (position, block) = e["input_ids"], e["labels"], e["position_ids"]
        size = block.index(1)
        marks = [i for i in range(size) if ids[i] in (M, G)]
        starts = [i for i in range(size, len(ids)) if ids[i] == S]
        assert len(marks) == len(starts) == block.count(1) and ids[size] == S
        assert position[:size] == list(range(size)) and set(block[:size]) == {0} and labels[:size + 1] == [-100] * (size + 1)
        assert sorted(position[i] for i in starts) == marks       # each mark has one span
        for a, b in zip(starts, [*starts[1:], len(ids) - 1]):
            assert set(position[a:b]) == {position[a]} and block[a:b] == list(range(1, b - a + 1))
            assert labels[a + 1:b + 1] == [*ids[a + 1:b], E]      # what follows each input, the end included
        assert len(text) == size - len(marks) + sum(label not in (-100, E) for label in labels)


def test_positions_are_those_of_inference():
    config = small().config
    for mark, (a, b) in ((G, (5, 9)), (M, (2, 4)), (M, (0, 1)), (G, (0, 9))):
        e = blank_example(list(range(20, 29)), [(a, b)], mark, S, E)
        assert glm_positions(torch.tensor([e["input_ids"]]), config)[0].tolist() == e["position_ids"]


@pytest.mark.parametrize("spans, reason", [([], "no spans"), ([(1, 1)], "is empty"), ([(0, 3), (2, 4)], "overlaps the next"),
                                           ([(3, 9)], "leaves the text of 6"), ([(-1, 2)], "leaves the text")])
def test_spans_that_are_refused(spans, reason):
    with pytest.raises(ValueError, match=reason): blank_example(list(range(20, 26)), spans, M, S, E)


def test_a_special_token_in_the_text_is_refused():
    for token in (M, S, E):
        with pytest.raises(ValueError, match=f"special token {token}"): blank_example([20, token, 21], [(0, 1)], M, S, E)


# spans

def test_short_spans_cover_their_share_and_keep_apart():
    rng = random.Random(0)
    for size, share in itertools.product((1, 2, 3, 7, 50, 300), (0.05, 0.15, 0.5)):
        for _ in range(60):
            spans = short_spans(size, rng, share)
            assert all(0 <= a < b <= size for a, b in spans) and all(b < c for (_, b), (c, _) in zip(spans, spans[1:]))
            covered = sum(b - a for a, b in spans)
            assert covered >= share * size or share == 0.5 or size < 8
    lengths = [b - a for _ in range(800) for a, b in short_spans(200, rng)]
    assert abs(sum(lengths) / len(lengths) - 3 / (1 - math.exp(-3))) < 0.1  # Poisson without 0


def test_every_place_is_as_likely():
    found = [short_spans(5, random.Random(i), share=0.4, mean=1e-9) for i in range(6000)]  # two spans of one token
    count = {pair: found.count([(pair[0], pair[0] + 1), (pair[1], pair[1] + 1)]) for pair in itertools.combinations(range(5), 2)}
    apart = {pair: n for pair, n in count.items() if pair[1] - pair[0] > 1}
    assert sum(apart.values()) == 6000 and all(850 < n < 1150 for n in apart.values()) and len(apart) == 6


def test_sentences_are_whole():
    rng = random.Random(3)
    for _ in range(300):
        text = a_text(rng)
        spans = sentence_spans(text, {STOP}, rng)
        for a, b in spans:
            assert (a == 0 or text[a - 1] == STOP) and (b == len(text) or text[b - 1] == STOP)
            assert STOP not in text[a:b - 1]
        assert sum(b - a for a, b in spans) >= 0.15 * len(text)


def test_document_spans_take_half_or_more():
    collate = BlankCollator(Toy(), seed=0)
    sizes = [sum(label not in (-100, E) for label in collate.example(list(range(20, 70)), "document")["labels"]) for _ in range(500)]
    assert min(sizes) >= 25 and max(sizes) == 50 and abs(sum(sizes) / 500 - 37.5) < 1


# batches

def test_the_collator_draws_anew_and_repeats_itself_by_seed():
    text = list(range(20, 60))
    one, two = BlankCollator(Toy(), seed=1), BlankCollator(Toy(), seed=1)
    first = [one.example(text) for _ in range(20)]
    assert first == [two.example(text) for _ in range(20)] and first != [one.example(text) for _ in range(20)]
    kinds = [BlankCollator(Toy(), (0, 0, 1), seed=i).example(text)["input_ids"].count(G) for i in range(9)]
    assert kinds == [1] * 9


def test_padding_is_seen_by_nobody_and_learned_by_nobody():
    collate, model, rng = BlankCollator(Toy(), seed=2), small(), random.Random(4)
    texts = [a_text(rng, 5, 30) for _ in range(6)]
    examples = [BlankCollator(Toy(), seed=9).example(ids, "short") for ids in texts]
    batch = collate(texts, "short")
    assert (batch["labels"][batch["input_ids"] == P] == -100).all()
    from chatglm_cookbook.pretrain import _padded
    alone = sum(blank_loss(model, tensors(e), "sum") for e in examples)
    assert torch.isclose(blank_loss(model, _padded(examples, P), "sum"), alone, rtol=1e-5)


def test_the_mask_of_a_batch():
    batch = BlankCollator(Toy(), seed=3)([list(range(20, 44)), list(range(50, 60))], "short")
    block, seen = batch["position_ids"][:, 1], ~glm_mask(batch["position_ids"][:, 1])[:, 0]
    width = block.shape[1]
    for r, i, j in itertools.product(range(2), range(width), range(width)):
        assert seen[r, i, j] == bool(block[r, j] == 0 or (block[r, i] > 0 and j <= i))
    one_way = BlankCollator(Toy(), bidirectional=False, seed=3)([list(range(20, 44)), list(range(50, 60))], "short")
    assert torch.equal(~one_way["attention_mask"][0, 0], torch.ones(width, width, dtype=torch.bool).tril())
    assert all(torch.equal(one_way[k], batch[k]) for k in batch)


def test_one_way_reads_nothing_from_the_right():
    model, text = small(), list(range(20, 40))
    for bidirectional in (True, False):
        collate = BlankCollator(Toy(), bidirectional=bidirectional, seed=3)
        batch = {k: v for k, v in collate([text], "short").items() if k != "labels"}
        changed = {**batch, "input_ids": batch["input_ids"].clone()}
        last = int((batch["position_ids"][0, 1] == 0).sum()) - 1
        changed["input_ids"][0, last] = 11
        with torch.no_grad(): moved = (model(**batch).logits - model(**changed).logits)[0, :last].abs().max()
        assert (moved > 1e-3) == bidirectional


def test_other_tokenizers_are_refused():
    with pytest.raises(ValueError, match="only ChatGLM-6B's model has"): BlankCollator(load_tokenizer("tiny-v3"))


def test_text_batches_show_every_text_once_a_round():
    texts = [[i] * (1 + i % 9) for i in range(100)]
    stream, seen, rounds = text_batches(texts, 20, seed=1), [], []
    while len(rounds) < 3:
        some = next(stream)
        assert len(some) * max(map(len, some)) <= 20
        seen += some
        if len(seen) == 100: rounds.append(seen); seen = []
    assert all(sorted(r) == sorted(texts) for r in rounds) and rounds[0] != rounds[1]
    assert [next(text_batches(texts, 20, 5)) for _ in range(2)] == [next(text_batches(texts, 20, 5))] * 2
    assert next(text_batches([[1] * 50], 20)) == [[1] * 50]
    for wrong in ([], [[1], []]):
        with pytest.raises(ValueError, match="no empty one"): next(text_batches(wrong, 20))


# the loss

def test_the_loss_is_the_mean_over_labels():
    model, batch = small(), BlankCollator(Toy(), seed=6)([list(range(20, 50)), list(range(30, 40))])
    with torch.no_grad():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        whole = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        assert torch.isclose(blank_loss(model, batch), whole, rtol=1e-5)
        each = blank_loss(model, batch, "none")
        assert torch.isclose(each.mean(), whole, rtol=1e-5) and torch.isclose(each.sum(), blank_loss(model, batch, "sum"), rtol=1e-5)


def test_a_span_knows_only_those_before_it():
    model, text = small(), list(range(20, 40))
    spans = [(12, 15), (3, 5), (8, 9)]
    whole = tensors(blank_example(text, spans, M, S, E))
    with torch.no_grad():
        each = blank_loss(model, whole, "none")
        for n in (1, 2):  # Part B cut after n spans: the same losses, whatever comes behind
            size = len(text) - 6 + 3 + sum(b - a + 1 for a, b in spans[:n])
            part = {"input_ids": whole["input_ids"][:, :size + 1], "labels": whole["labels"][:, :size + 1],
                    "position_ids": whole["position_ids"][..., :size + 1]}
            count = sum(b - a + 1 for a, b in spans[:n])
            assert torch.allclose(blank_loss(model, part, "none"), each[:count], atol=1e-5)
        swapped = blank_loss(model, tensors(blank_example(text, spans[::-1], M, S, E)), "none")
    assert not torch.isclose(each.sum(), swapped.sum(), rtol=1e-4)


# training

def test_pretraining_learns_a_text_by_heart():
    model, text = small(), [random.Random(0).randrange(10, 80) for _ in range(24)]
    batch = BlankCollator(Toy(), seed=1)([text] * 4, "short")
    losses = pretrain(model, itertools.repeat(batch), 60, 1e-2)
    assert len(losses) == 60 and losses[-1] < 0.2 * losses[0] and not model.training
    assert abs(blank_loss(model, batch).item() - losses[-1]) < 0.3


def test_the_rate_rises_and_falls():
    model = small()
    batches = itertools.repeat(BlankCollator(Toy(), seed=1)([list(range(20, 40))]))
    moves, before = [], model.lm_head.weight.detach().clone()

    def log(step, loss):
        nonlocal before
        now = model.lm_head.weight.detach().clone()
        moves.append((now - before).abs().max().item())
        before = now
    pretrain(model, batches, 40, 1e-3, warmup=0.25, log=log)
    assert moves[0] < 0.2 * max(moves) and moves[-1] < 0.2 * max(moves)
    assert max(moves) < 2.5e-3


def test_precision_changes_little_and_a_seed_repeats():
    def run(precision):
        model = small()
        return pretrain(model, map(BlankCollator(Toy(), seed=2), text_batches([list(range(20, 40))] * 4, 60)), 4, precision=precision)
    plain = run("fp32")
    assert plain == run("fp32")
    assert all(abs(a - b) < 0.05 * a for a, b in zip(plain, run("bf16")))


def test_what_pretrain_refuses():
    batch = BlankCollator(Toy())([list(range(20, 40))])
    with pytest.raises(ValueError, match="ended after 2 of 5 steps"): pretrain(small(), [batch] * 2, 5)
    with pytest.raises(ValueError, match="is nan|is inf"): pretrain(small(), itertools.repeat(batch), 9, 1e30)
    with pytest.raises(ValueError, match="steps must be at least 1"): pretrain(small(), [batch], 0)
    with pytest.raises(ValueError, match="bf16 or fp32"): pretrain(small(), [batch], 1, precision="fp8")


# uses

def test_filled_blanks_are_what_the_model_writes_step_by_step(bundled):
    model, tokenizer = bundled
    text = "妈妈把[MASK]放在桌子上，然后[MASK]。"
    found, written = fill_blanks(model, tokenizer, text, 6)
    ids, expected = tokenizer(text, add_special_tokens=False)["input_ids"], []
    mark, start, end = tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
    while mark in ids:
        new, place = [], ids.index(mark)
        while len(new) < 6:
            row = [*ids, start, *new]
            position = [*range(len(ids)), *[place] * (len(new) + 1)], [*[0] * len(ids), *range(1, len(new) + 2)]
            with torch.no_grad(): token = model(torch.tensor([row]), position_ids=torch.tensor([position])).logits[0, -1].argmax().item()
            if token == end: break
            new.append(token)
        ids[place:place + 1] = new
        expected.append(tokenizer.decode(new))
    assert (found, written) == (tokenizer.decode(ids), expected) and len(written) == 2


def test_a_text_without_a_blank_is_refused(bundled):
    with pytest.raises(ValueError, match="no blank to fill"): fill_blanks(*bundled, "没有空。")
    with pytest.raises(ValueError, match="exactly one"): cloze_scores(*bundled, "没有空。", ["一"])
    with pytest.raises(ValueError, match="exactly one"): cloze_scores(*bundled, "[MASK]", [])


def test_cloze_scores_are_log_probabilities(bundled):
    model, tokenizer = bundled
    words = ["白色", "红色的", "龘"]
    found = cloze_scores(model, tokenizer, "这件[MASK]毛衣。", words)
    before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("这件", "毛衣。"))
    for word in words:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        row = [*before, tokenizer.mask_token_id, *after, tokenizer.bos_token_id, *ids]
        with torch.no_grad(): scores = model(torch.tensor([row])).logits[0, -len(ids) - 1:].log_softmax(-1)
        expected = sum(s[i].item() for s, i in zip(scores, [*ids, tokenizer.eos_token_id]))
        assert abs(found[word] - expected) < 1e-3
    assert found["白色"] > found["龘"]


# mini-zh

def test_mini_zh_is_small_and_loads_by_name(bundled, monkeypatch):
    model, tokenizer = bundled
    files = [f for f in data_file("mini-zh/card.md").parent.iterdir()]
    assert sum(f.stat().st_size for f in files) <= 16e6 and model.num_parameters() <= 12e6
    assert type(model) is ChatGLMForCausalLM and model.dtype == torch.float32 and tokenizer.generation == 1
    monkeypatch.setenv("COOKBOOK_MODEL", "mini-zh")
    assert demo_model() == "mini-zh" and Path(model_folder("mini-zh")).is_dir()
    text = "雪从天亮就没有停过。\n“图纸放倒了。”T恤 3.5 abc 龘"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_mini_zh_has_learned(bundled):
    model, tokenizer = bundled
    last = json.loads(data_file("mini-zh/log.jsonl").read_text().splitlines()[-1])
    assert all(value < 0.55 * math.log(4096) for value in last["held out"].values())
    seen, odd = "要是今天是星期六，11天以后是星期几？", "期要星几是天今？六1星期1天以后是，"  # the same characters, shuffled
    one, other = (blank_loss(model, BlankCollator(tokenizer, seed=0)([tokenizer(t, add_special_tokens=False)["input_ids"]], "document"))
                  for t in (seen, odd))
    assert one < 0.6 * other


@pytest.mark.parametrize("kind, share", [("short", 47.8), ("document", 71.7)])
def test_first_guesses_of_mini_zh(bundled, kind, share):
    "The share of held-out tokens that the lesson names, mean over 43 texts."
    model, tokenizer = bundled
    texts = [p.strip() for p in data_file("text_zh.txt").read_text(encoding="utf-8").split("\n\n") if p.strip()][::12]
    collate, right = BlankCollator(tokenizer, seed=3), []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        batch = collate([ids[:192]], kind)
        labels = batch.pop("labels")[0, 1:]
        with torch.no_grad(): found = model(**batch).logits[0, :-1].argmax(-1) == labels
        right.append(100 * found[labels != -100].float().mean().item())
    assert len(right) == 43 and abs(sum(right) / 43 - share) < 1


def test_mini_zh_is_what_its_generator_and_log_say():
    pytest.importorskip("jieba"), pytest.importorskip("sentencepiece")
    sys.path.insert(0, str(tools))
    try: import make_mini_zh
    finally: sys.path.remove(str(tools))
    assert make_mini_zh.check() == 0
    found = make_mini_zh.texts()
    rows = [json.loads(line) for name in ("dev", "test") for line in data_file(f"adgen_{name}.jsonl").read_text().splitlines()]
    read = {text for kind, texts in found.items() if kind != "held out" for text in texts}
    assert not read & {row[key] for row in rows for key in row} and not read & set(found["held out"])
    assert not any("类型#" in text and len(text) > 150 for text in read)  # no table with its copy
