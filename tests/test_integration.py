"""The libraries around transformers take our models without special handling."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch

import chatglm_cookbook  # noqa: F401
from chatglm_cookbook.core import model_folder

TINY = ["tiny-v1", "tiny-v3"]
messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello, I am a model."}]


def loaded(name):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    return (load.from_pretrained(model_folder(name)) for load in (AutoModelForCausalLM, AutoTokenizer))


@pytest.mark.parametrize("name", TINY)
def test_generate(name):
    model, tokenizer = loaded(name)
    inputs = tokenizer(["Hello", "Hello, how are you?"], padding=True, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert out.shape == (2, inputs["input_ids"].shape[1] + 4) and isinstance(tokenizer.batch_decode(out)[0], str)


@pytest.mark.parametrize("name", TINY)
def test_trl_sft_trainer_with_lora(name, tmp_path):
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from trl import SFTConfig, SFTTrainer
    model, tokenizer = loaded(name)
    options = SFTConfig(tmp_path / "run", max_steps=2, per_device_train_batch_size=2, bf16=False, use_cpu=True,
                        report_to=[], save_strategy="no", learning_rate=1e-2, gradient_checkpointing=False)
    trainer = SFTTrainer(model, options, train_dataset=Dataset.from_list([{"messages": messages}] * 4),
                         processing_class=tokenizer, peft_config=LoraConfig(r=4, target_modules="all-linear"))
    before = {k: v.detach().clone() for k, v in trainer.model.state_dict().items() if "lora_B" in k}
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
    assert any((trainer.model.state_dict()[k] - v).abs().max() > 0 for k, v in before.items())

    trainer.save_model(adapter := tmp_path / "adapter")
    from safetensors.torch import load_file
    assert all("lora_" in k for k in load_file(adapter / "adapter_model.safetensors"))  # no embedding beside it
    ids = torch.tensor([[5, 6, 7, 8]])
    trained = trainer.model.eval()(ids).logits
    again = PeftModel.from_pretrained(next(loaded(name)), adapter).eval()
    assert (again(ids).logits - trained).abs().max() < 1e-5
    merged = again.merge_and_unload()
    assert (merged(ids).logits - trained).abs().max() < 1e-4
    merged.save_pretrained(tmp_path / "merged")
    from transformers import AutoModelForCausalLM
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits, merged(ids).logits)


@pytest.mark.parametrize("name", TINY)
def test_trl_sft_trainer_trains_all_weights(name, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer
    model, tokenizer = loaded(name)
    options = SFTConfig(tmp_path, max_steps=2, save_steps=2, per_device_train_batch_size=2, bf16=False, use_cpu=True,
                        report_to=[], gradient_checkpointing=True)
    rows = Dataset.from_list([{"prompt": "Hello ", "completion": "world"}, {"prompt": "Hello, ", "completion": "you"}])
    SFTTrainer(model, options, train_dataset=rows, processing_class=tokenizer).train()
    model.eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2", dtype=model.dtype)
    assert (again(ids).logits - model(ids).logits).abs().max() < 1e-5


# --- transformers serve --------------------------------------------------------------------------------------------

@pytest.fixture
def server():
    "Base address of `transformers serve` with this package imported."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    code = "import sys, chatglm_cookbook; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    command = [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    for _ in range(180):
        assert process.poll() is None, process.stdout.read().decode()[-3000:]
        try: urllib.request.urlopen(address + "/health", timeout=1); break
        except OSError: time.sleep(0.5)
    yield address
    process.send_signal(signal.SIGTERM)
    try: process.wait(10)
    except subprocess.TimeoutExpired: process.kill()
    process.stdout.close()


@pytest.mark.slow
def test_transformers_serve_streams(server):
    pytest.importorskip("fastapi")
    for name in TINY:
        body = dict(model=model_folder(name), messages=messages[:1], stream=True, max_tokens=8)
        request = urllib.request.Request(server + "/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            lines = [line.decode() for line in answer if line.startswith(b"data: {")]
        chunks = [json.loads(line[6:]) for line in lines]
        assert len(chunks) > 2 and all(c["object"] == "chat.completion.chunk" for c in chunks)
        assert any(c["choices"] and c["choices"][0].get("finish_reason") for c in chunks)
