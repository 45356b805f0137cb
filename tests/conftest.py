"""What every test shares: small models, no hub, and where the recorded numbers are."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("COOKBOOK_MODEL", "tiny")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

root = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    "Folder with what the original code computed."
    return root / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    "Folder with files of the original models that are not ours to bundle, such as ChatGLM3's tokenizer.model."
    folder = Path(os.environ.get("COOKBOOK_SHARED") or root.parent / "shared")
    if not folder.is_dir():
        pytest.skip("the original tokenizer.model is not here: set COOKBOOK_SHARED to the folder that holds it")
    return folder
