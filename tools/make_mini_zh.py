"""Pretrain mini-zh, the small Chinese GLM in data/mini-zh, by blank infilling on the bundled text.

    python tools/make_mini_zh.py            # vocabulary, training (about ten minutes of one core) and all files
    python tools/make_mini_zh.py --check    # exits 1 if vocabulary, texts or weights are not those that the log names

What it reads: data/text_zh.txt without every twelfth paragraph, the Chinese rows of data/instructions.jsonl, and from
data/adgen_train.jsonl the copy of all rows and the tables of every third one, each as a text of its own and never
together: mini-zh is the base of a lesson that teaches to write copy for a table.

The vocabulary comes out the same bytes every time. Weights depend on the machine: another processor adds the same numbers
in another order, and after some hundred steps the last digits have become other weights of the same quality. --check
therefore compares the weights with the sum in log.jsonl and measures the held-out loss again.
"""
from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parent))
data = here.parent / "data"
folder = data / "mini-zh"
seed, steps, tokens, rate = 7, 1500, 1536, 2e-3
weights = 0.3, 0.2, 0.5  # of short spans, sentences and documents: more documents than in the paper, they have most labels
symbols = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<n>", "▁"]
size = {"vocab_size": 4096, "hidden_size": 256, "num_layers": 4, "num_attention_heads": 4, "inner_hidden_size": 1024,
        "max_sequence_length": 512}


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]


def texts() -> dict[str, list[str]]:
    "The texts by kind; `held out` is for measuring."
    paragraphs = [p.strip() for p in (data / "text_zh.txt").read_text(encoding="utf-8").split("\n\n") if p.strip()]
    asked = [r for r in lines("instructions.jsonl") if r["language"] == "zh"]
    rows = lines("adgen_train.jsonl")
    return {"prose": [p for i, p in enumerate(paragraphs) if i % 12],
            "instructions": ["\n".join(filter(None, (r["instruction"], r["input"], r["output"]))) for r in asked],
            "copy": [r["summary"] for r in rows], "tables": [r["content"] for r in rows[::3]],
            "held out": paragraphs[::12]}


def vocabulary(found: dict[str, list[str]]) -> bytes:
    "A unigram vocabulary whose pieces never reach over the border of two words, as a SentencePiece file."
    import jieba
    import sentencepiece as spm
    jieba.setLogLevel(60)
    model = io.BytesIO()
    parts = 3 * found["prose"] + 3 * found["instructions"] + found["copy"] + 2 * found["tables"]
    cut = jieba.Tokenizer().cut  # its own dictionary, whatever words somebody has added to the common one
    words = (w for text in parts for line in text.splitlines() for w in cut(line) if w.strip())
    spm.SentencePieceTrainer.train(
        sentence_iterator=words, model_writer=model, model_type="unigram", vocab_size=size["vocab_size"], num_threads=1,
        max_sentencepiece_length=4, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=False, character_coverage=1.0, split_digits=True, user_defined_symbols=symbols, unk_id=0, bos_id=1,
        eos_id=2, pad_id=3, minloglevel=2)
    return model.getvalue()


def new_model(tokenizer):
    """The model before its first step. The residual of this architecture is multiplied by 7.5 in every block, made for 28
    of them; the two layers that add to it begin six times larger, or four blocks would hardly be noticed."""
    import torch
    from chatglm_cookbook.glm import ChatGLMConfig, ChatGLMForCausalLM
    mark, gmark = tokenizer.convert_tokens_to_ids(["[MASK]", "[gMASK]"])
    torch.manual_seed(seed)
    model = ChatGLMForCausalLM(ChatGLMConfig(
        **size, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, mask_token_id=mark,
        gmask_token_id=gmark, pad_token_id=tokenizer.pad_token_id))
    model.set_attn_implementation("eager")  # faster than sdpa for rows this short
    for name, p in model.named_parameters():
        if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")): p.data *= 6
    return model


def measured(model, tokenizer, held_out: list[list[int]]) -> dict[str, float]:
    "Mean loss of the held-out texts for each objective, with blanks that are always the same."
    import torch
    from chatglm_cookbook.pretrain import BlankCollator, blank_loss
    found = {}
    with torch.no_grad():
        for kind in ("short", "sentence", "document"):
            collate = BlankCollator(tokenizer, seed=3)
            losses = [blank_loss(model, collate([ids], kind)).item() for ids in held_out]
            found[kind] = round(sum(losses) / len(losses), 4)
    return found


def train(tokenizer, found: dict[str, list[list[int]]]) -> tuple:
    "The trained model and the lines of its log."
    from chatglm_cookbook.pretrain import BlankCollator, pretrain, text_batches
    rows = 3 * found["prose"] + 2 * found["instructions"] + found["copy"] + found["tables"]
    model, collate, losses, log, seen = new_model(tokenizer), BlankCollator(tokenizer, weights, seed=seed), [], [], 0

    def batches():
        nonlocal seen
        for some in text_batches(rows, tokens, seed):
            batch = collate(some)
            seen += batch["input_ids"].numel()
            yield batch

    def note(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 20: return
        log.append({"step": step, "tokens": seen, "loss": round(sum(losses[-20:]) / 20, 4)})
        print(json.dumps(log[-1]), flush=True)

    print(f"{model.num_parameters():,} parameters, {sum(map(len, rows)):,} tokens in an epoch", flush=True)
    pretrain(model, batches(), steps, rate, log=note)
    return model, log


def settings(model) -> dict[str, dict]:
    "config.json and tokenizer_config.json, with the keys of the original release."
    c, names = model.config, ("layernorm_epsilon", "position_encoding_2d", "bos_token_id", "eos_token_id", "mask_token_id",
                              "gmask_token_id", "pad_token_id", "use_cache")
    own = {"model_type": "chatglm", "architectures": ["ChatGLMModel"], **size, **{k: getattr(c, k) for k in names}}
    special = {"bos_token": "<sop>", "eos_token": "<eop>", "end_token": "</s>", "gmask_token": "[gMASK]", "mask_token": "[MASK]",
               "pad_token": "<pad>", "unk_token": "<unk>"}
    return {"config.json": own | {"torch_dtype": "float16"},
            "tokenizer_config.json": {"tokenizer_class": "ChatGLMTokenizer", **special, "num_image_tokens": 0}}


def digest(*parts: bytes) -> str: return hashlib.sha256(b"".join(parts)).hexdigest()


def card(last: dict) -> str:
    loss = last["held out"]
    return (here / "sources" / "mini_zh_card.md").read_text(encoding="utf-8").format(
        **last, loss=f"{loss['short']:.2f} (short spans), {loss['sentence']:.2f} (sentences), {loss['document']:.2f} (half "
        "of the text or more)", million=last["tokens"] / 1e6, seed=seed)


def make() -> None:
    from safetensors.torch import save_file
    from chatglm_cookbook.tokens import ChatGLM1Tokenizer
    begun, found = time.process_time(), texts()
    folder.mkdir(exist_ok=True)
    (folder / "ice_text.model").write_bytes(vocabulary(found))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}')
    tokenizer = ChatGLM1Tokenizer.from_pretrained(str(folder))
    ids = {kind: [i[:192] for i in tokenizer(some, add_special_tokens=False)["input_ids"]] for kind, some in found.items()}
    model, log = train(tokenizer, ids)
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    last = {"parameters": model.num_parameters(), "steps": steps, "tokens": log[-1]["tokens"],
            "minutes of one core": round((time.process_time() - begun) / 60, 1),
            "held out": measured(model, tokenizer, ids["held out"]), "texts": digest(json.dumps(found).encode()),
            "weights": digest((folder / "model.safetensors").read_bytes())}
    for name, content in settings(model).items(): (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*log, last]))
    (folder / "card.md").write_text(card(last), encoding="utf-8")
    print(json.dumps(last))


def check() -> int:
    "What is wrong with the bundled files; 0 when all is well."
    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    found, last = texts(), json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    tokenizer = load_tokenizer("mini-zh")
    ids = [i[:192] for i in tokenizer(found["held out"], add_special_tokens=False)["input_ids"]]
    again = measured(load_model("mini-zh"), tokenizer, ids)
    wrong = {"ice_text.model": (folder / "ice_text.model").read_bytes() != vocabulary(found),
             "the texts": digest(json.dumps(found).encode()) != last["texts"],
             "model.safetensors": digest((folder / "model.safetensors").read_bytes()) != last["weights"],
             "card.md": (folder / "card.md").read_text(encoding="utf-8") != card(last),
             "the held-out loss": any(abs(again[k] - v) > 0.01 for k, v in last["held out"].items())}
    named = [name for name, bad in wrong.items() if bad]
    print(f"{', '.join(named)} differ" if named else f"mini-zh is the model of its log, held-out loss {again}")
    return int(bool(named))


if __name__ == "__main__": raise SystemExit(check() if "--check" in sys.argv[1:] else make())
