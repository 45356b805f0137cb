"""What TRL's SFTTrainer trains in each row format: the labels it produces, read token by token."""
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import chatglm_cookbook  # noqa: F401 (registers)
from chatglm_cookbook.core import model_folder
from chatglm_cookbook.tokens import encode_turns

user, assistant = {"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hello there!"}
talk = [user, assistant, {"role": "user", "content": "more"}, {"role": "assistant", "content": "No."}]
stops = {"tiny-v1": "<eop>", "tiny-v2": "</s>", "tiny-v3": "<|user|>"}


@pytest.fixture(scope="module", params=stops)
def loaded(request):
    folder = model_folder(request.param)
    return request.param, AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def trained_rows(loaded, tmp_path, rows, **options):
    "Ids and labels of the first rows, as a list of pairs without padding, after one step."
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    _, model, tokenizer = loaded
    config = SFTConfig(tmp_path, max_steps=1, per_device_train_batch_size=len(rows), bf16=False, use_cpu=True, report_to=[],
                       save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, learning_rate=0.0, **options)
    trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.train().training_loss > 0
    kept = [m.bool() for m in batch["attention_mask"]]
    pairs = [(ids[m].tolist(), labels[m].tolist()) for ids, labels, m in zip(batch["input_ids"], batch["labels"], kept)]
    return sorted(pairs, key=lambda pair: len(pair[0]))


rows = {"messages": ([{"messages": talk[:2]}, {"messages": talk}], {"assistant_only_loss": True}),
        "prompt and completion": ([{"prompt": talk[:1], "completion": talk[1:2]}, {"prompt": talk[:3], "completion": talk[3:]}], {})}


@pytest.mark.parametrize("kind", rows)
def test_the_answer_and_its_stop_are_trained_and_nothing_else(loaded, tmp_path, kind):
    name, _, tokenizer = loaded
    data, options = rows[kind]
    for messages, (ids, labels) in zip((talk[:2], talk), trained_rows(loaded, tmp_path, data, **options)):
        want, mask = encode_turns(tokenizer, messages)
        if kind != "messages":  # a completion alone is trained, earlier replies are prompt
            first = len(want) - 1 - mask[::-1].index(0) + 1
            mask = [0] * first + [1] * (len(want) - first)
        assert ids == want and labels == [i if m else -100 for i, m in zip(want, mask)]
        assert labels[-1] == tokenizer.convert_tokens_to_ids(stops[name])


def test_without_assistant_only_loss_the_prompt_is_trained_too(loaded, tmp_path):
    (ids, labels), = trained_rows(loaded, tmp_path, [{"messages": talk[:2]}])
    assert labels == ids


def test_plain_text_rows_end_with_a_stop_only_when_special_tokens_are_read(loaded, tmp_path):
    name, model, tokenizer = loaded
    data = [{"prompt": "Say hello. ", "completion": "Hello there!"}]
    (ids, labels), = trained_rows(loaded, tmp_path, data)
    if name == "tiny-v1":  # the frame stands behind the text, so the answer is in the part that sees itself
        assert labels[-2:] == tokenizer("").input_ids and tokenizer.bos_token_id not in ids[:-1]
        return
    assert tokenizer.eos_token_id not in labels and tokenizer.decode(ids).endswith("</s>")
    readable = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    readable.split_special_tokens = False
    (ids, labels), = trained_rows((name, model, readable), tmp_path, data)
    assert labels[-1] == tokenizer.eos_token_id and labels[0] == -100
    assert ids[:-1] == tokenizer("Say hello. Hello there!").input_ids


def test_packing(loaded, tmp_path):
    data, options = [{"messages": talk[:2]}] * 2, {"assistant_only_loss": True, "packing": True, "max_length": 128}
    if loaded[0] == "tiny-v1":
        with pytest.raises(ValueError, match="without packing"): packed_labels(loaded, tmp_path, data, options)
        return
    ids, labels = packed_labels(loaded, tmp_path, data, options)
    one, mask = encode_turns(loaded[2], talk[:2])
    assert ids == one * 2 and labels == [i if m else -100 for i, m in zip(one, mask)] * 2


def packed_labels(loaded, tmp_path, data, options):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    config = SFTConfig(tmp_path, max_steps=1, bf16=False, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
                       gradient_checkpointing=False, learning_rate=0.0, **options)
    trainer = SFTTrainer(loaded[1], config, train_dataset=Dataset.from_list(data), processing_class=loaded[2])
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    return batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
