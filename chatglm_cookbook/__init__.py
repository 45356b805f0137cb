"""ChatGLM on today's stack, notebook by notebook. Importing it teaches transformers the original checkpoints."""
from importlib import import_module as _import

from .core import when_imported as _when_imported

__version__ = "0.1.0"

# transformers is lazy itself: nothing of it is imported before the caller needs one of its Auto classes.
_when_imported("transformers.models.auto.configuration_auto", "chatglm_cookbook.checkpoints:register")
_when_imported("transformers.models.auto.tokenization_auto", "chatglm_cookbook.tokens:register")
_when_imported("transformers.models.glm.modeling_glm", "chatglm_cookbook.checkpoints:_register_mapping")
_when_imported("chatglm_cookbook.glm", "chatglm_cookbook.checkpoints:_register_models")


def __getattr__(name):
    if name.startswith("_"): raise AttributeError(f"module 'chatglm_cookbook' has no attribute {name!r}")
    try: return _import(f"chatglm_cookbook.{name}")
    except ModuleNotFoundError as err:
        if err.name != f"chatglm_cookbook.{name}": raise
        raise AttributeError(f"module 'chatglm_cookbook' has no attribute {name!r}") from None


def __dir__():
    from pkgutil import iter_modules
    return sorted({*globals(), *(m.name for m in iter_modules(__path__) if not m.name.startswith("_"))})
