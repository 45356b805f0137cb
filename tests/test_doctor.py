"""The doctor: each complaint is made where there is a reason, and only there."""
import json
import shutil

import pytest
import torch
from packaging.specifiers import SpecifierSet
from safetensors.torch import load_file, save_file

from chatglm_cookbook import cli, doctor
from chatglm_cookbook.checkpoints import load_model
from chatglm_cookbook.core import model_folder
from chatglm_cookbook.ptuning import add_prefix, save_prefix


def grave(name): return [f.what for f in doctor.doctor(name) if f.grave]


@pytest.fixture
def folder(tmp_path): return shutil.copytree(model_folder("tiny-v3"), tmp_path / "model")


@pytest.mark.parametrize("name", ("tiny-v1", "tiny-v3", None))
def test_what_is_whole_is_not_complained_about(name, capsys):
    assert grave(name) == [] and cli.main(["doctor", *([name] if name else [])]) == 0
    assert "0 errors" in capsys.readouterr().out


def weights(folder): return next(f for f in folder.iterdir() if f.suffix == ".safetensors" or f.name == "pytorch_model.bin")


def test_weights_that_are_cut_missing_or_pointers(folder):
    file = weights(folder)
    data = file.read_bytes()
    for broken, words in ((data[:-1], "cut off"), (data[:4], "cut off"), (b"\xff" * 50, "cut off"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer")):
        file.write_bytes(broken)
        assert [words in what for what in grave(folder)] == [True], broken[:20]
    file.unlink()
    assert any("holds no weights" in what for what in grave(folder))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert "2 of 2 weight files are missing, first model-1.safetensors" in grave(folder)


def test_a_pickled_file_that_is_cut(tmp_path):
    torch.save({"a": torch.ones(100)}, file := tmp_path / "pytorch_model.bin")
    assert doctor._cut(file) == ""
    file.write_bytes(file.read_bytes()[:-40])
    assert "cut off" in doctor._cut(file)


def test_files_that_are_missing_beside_the_weights(folder):
    (folder / "config.json").rename(folder / "x.json")
    assert any("no config.json" in what for what in grave(folder))
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in grave(folder)
    (folder / "x.json").replace(folder / "config.json")
    for name in ("tokenizer.model", "tokenizer.json"): (folder / name).unlink(missing_ok=True)
    assert "there is no tokenizer" in grave(folder)


@pytest.mark.parametrize("file", ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors.index.json",
                                  "adapter_config.json"))
@pytest.mark.parametrize("text", (b"[]", b"null", b"{", b"\xff"))
def test_a_broken_json_file_is_a_finding_and_names_it(folder, file, text, capsys):
    (folder / file).write_bytes(text)
    assert cli.main(["doctor", str(folder)]) == 1
    assert f"error: {file} cannot be read" in (told := capsys.readouterr().out) and "1 error," in told


@pytest.mark.parametrize("settings, told", [
    ({"padded_vocab_size": "65024"}, 'padded_vocab_size in config.json is "65024"'), ({"padded_vocab_size": [1]}, "the model cannot be loaded"),
    ({"hidden_size": 1}, "config.json asks for")])
def test_values_that_are_none_are_findings(folder, settings, told):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    assert [told in what for what in grave(folder)] == [True]


def test_odd_things_beside_the_weights(folder):
    (folder / "x.bin").mkdir()
    assert grave(folder) == []
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": [1]}))
    assert any("the weights cannot be read" in what for what in grave(folder))
    (folder / "config.json").write_text("{}")
    assert "config.json names no model_type" in grave(folder)


@pytest.mark.parametrize("name, told", [
    ("nosuch", "no folder 'nosuch'"), ("/nowhere", "no folder '/nowhere'"), ("foo/bar", "not in the hub's cache"), ("", "the name is empty"),
    (__file__, "no folder")])
def test_a_name_that_leads_nowhere(name, told, capsys):
    assert [told in what for what in grave(name)] == [True] and cli.main(["doctor", name]) == 1
    assert "1 error," in capsys.readouterr().out


@pytest.mark.parametrize("name, lost", [("tiny-v3", "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"),
                                        ("tiny-v1", "transformer.layers.1.mlp.dense_h_to_4h.bias")])
def test_a_whole_file_that_lacks_a_tensor(tmp_path, name, lost):
    file = shutil.copytree(model_folder(name), tmp_path / "model") / "model.safetensors"
    tensors = load_file(file)
    save_file({k: t for k, t in tensors.items() if k != lost}, file)
    assert [f"the first is {lost}" in what for what in grave(tmp_path / "model")] == [True]


@pytest.mark.parametrize("name", ("word_embeddings.weight", "final_layernorm.weight"))
@pytest.mark.parametrize("bad", (torch.nan, -torch.inf))
def test_weights_that_are_no_numbers(folder, name, bad):
    tensors = load_file(folder / "model.safetensors")
    next(t for k, t in tensors.items() if k.endswith(name)).view(-1)[-3] = bad
    save_file(tensors, folder / "model.safetensors")
    assert [f"{name} holds nan or inf" in what for what in grave(folder)] == [True]


@pytest.mark.parametrize("layout", ("original", "peft"))
def test_a_prefix_straight_from_save_prefix_is_whole(tmp_path, layout, capsys):
    save_prefix(add_prefix(load_model("tiny-v3"), 4), tmp_path, layout)
    assert cli.main(["doctor", str(tmp_path)]) == 0, capsys.readouterr().out
    if layout == "peft": return
    assert "load the base, then load_prefix" in capsys.readouterr().out
    torch.save({k: t * torch.nan for k, t in torch.load(tmp_path / "pytorch_model.bin").items()}, tmp_path / "pytorch_model.bin")
    assert ["holds nan" in what for what in grave(tmp_path)] == [True]


def test_notes_about_quantised_weights_and_prefixes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_bit": 4, "pre_seq_len": 8}))
    said = " ".join(str(f) for f in doctor._config(folder))
    assert "int4: they run, and cannot be trained" in said and "prefix of 8" in said


def test_adapters_that_do_nothing(tmp_path, capsys):
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(load_model("tiny-v3"), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path)
    assert grave(tmp_path) == ["every lora_B is zero: nothing was trained"]
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({k: torch.ones_like(t) for k, t in tensors.items()}, tmp_path / "adapter_model.safetensors")
    assert grave(tmp_path) == [] and cli.main(["doctor", str(tmp_path)]) == 0
    save_file({k: t * torch.nan for k, t in tensors.items()}, tmp_path / "adapter_model.safetensors")
    assert "holds nan or inf" in grave(tmp_path)[0] and cli.main(["doctor", str(tmp_path)]) == 1
    save_file({}, tmp_path / "adapter_model.safetensors")
    assert "holds no tensors" in grave(tmp_path)[0]
    (tmp_path / "adapter_model.safetensors").unlink()
    assert "there is no adapter_model.safetensors" in grave(tmp_path)
    assert "error: there is no adapter_model" in (cli.main(["doctor", str(tmp_path)]), capsys.readouterr().out)[1]


def test_versions_are_compared_with_what_is_asked():
    asked = [("trl", SpecifierSet(">=1.10,<2")), ("torch", SpecifierSet(">=2.6"))]
    found = list(doctor._versions({"trl": "2.1", "torch": "2.6.0+cpu"}, asked))
    assert [f.what for f in found] == ["trl 2.1 is installed, trl<2,>=1.10 is needed"] and 'pip install "trl' in found[0].cure
    assert list(doctor._versions({"trl": "1.16.0", "torch": "2.13"}, asked)) == []


def test_a_gpu_that_pytorch_cannot_use(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = list(doctor._device())
    assert found[0].grave and "cannot use it" in found[0].what and "pytorch.org" in found[0].cure
