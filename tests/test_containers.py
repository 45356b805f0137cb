"""The Dockerfile and compose.yaml: what they start is what `chatglm serve` understands, and nothing is open to strangers."""
import json
import re
from pathlib import Path

import pytest
import yaml

from chatglm_cookbook.terminal import serve_command

root = Path(__file__).resolve().parent.parent
services = yaml.safe_load((root / "compose.yaml").read_text(encoding="utf-8"))["services"]
filled = lambda text: re.sub(r"\$\{\w+:?-?([^}]*)\}", r"\1", text)


def entrypoint():
    "Words of the Dockerfile's ENTRYPOINT."
    line = next(x for x in (root / "Dockerfile").read_text(encoding="utf-8").splitlines() if x.startswith("ENTRYPOINT"))
    return json.loads(line.removeprefix("ENTRYPOINT"))


@pytest.mark.parametrize("name", ("cpu", "cuda"))
def test_the_command_line_is_understood(name):
    words = [*entrypoint(), *map(filled, services[name]["command"])]
    assert words[:2] == ["chatglm", "serve"]
    given = serve_command.make_context("serve", words[2:]).params
    assert (given["model"], given["host"], given["port"]) == ("zai-org/chatglm3-6b", "0.0.0.0", 8000)
    assert given["quantize"] == {"cpu": "int8", "cuda": None}[name]


@pytest.mark.parametrize("name", services)
def test_only_this_machine_reaches_them_and_only_with_a_key(name):
    service = services[name]
    assert service["profiles"] == [name] and all(port.startswith("127.0.0.1:") and port.endswith(":8000") for port in service["ports"])
    told = json.dumps([service.get("environment"), service["command"]])
    assert "${CHATGLM_API_KEYS:?" in told, "compose refuses to start without a key"


def test_a_stop_lets_what_runs_finish():
    grace = next(o.default for o in serve_command.params if o.name == "grace")
    assert all(int(services[name]["stop_grace_period"].removesuffix("s")) > grace + 5 and services[name]["init"] for name in ("cpu", "cuda"))


def test_the_health_check_asks_the_server():
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    assert "HEALTHCHECK" in text and "/health" in text and "EXPOSE 8000" in text


def test_graphics_cards_are_asked_for_where_they_are_needed():
    cards = {name: bool(s.get("deploy")) for name, s in services.items()}
    assert cards == {"cpu": False, "cuda": True, "vllm": True}
    assert services["cuda"]["build"]["args"] == {"TORCH_INDEX": ""}, "not the build for CPUs"


def test_what_the_package_needs_is_in_the_image():
    ignored = (root / ".dockerignore").read_text().split()
    assert not {"data", "chatglm_cookbook", "pyproject.toml", "README.md", "LICENSE"} & set(ignored)
    assert {".git", ".venv", "models"} <= set(ignored)
