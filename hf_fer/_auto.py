"""Registers the models with transformers' Auto classes, and the pipeline, without making anybody wait for them.

`AutoConfig.register` and its siblings want classes, and the classes need `transformers.PreTrainedModel`,
whose import takes seconds. So the registration runs right after transformers itself has loaded its Auto
modules (for the pipeline: `transformers.pipelines`): at once when it already has, else through an import hook on
exactly those modules.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

# A new method is one line here (and two files in models/).
METHODS: dict[str, tuple[str, str]] = {
    "hsac": ("HSACConfig", "HSACForImageClassification"),
    "mek": ("MEKConfig", "MEKForImageClassification"),
    "neural_resizer": ("NeuralResizerConfig", "NeuralResizerForImageClassification"),
    "multires": ("MultiResConfig", "MultiResForImageClassification"),
    "grefel": ("GReFELConfig", "GReFELForImageClassification"),
}


def config_class(method: str) -> type:
    """The `PreTrainedConfig` subclass of a method in `METHODS`."""
    module = importlib.import_module(f"{__package__}.models.configuration_{method}")
    return getattr(module, METHODS[method][0])


def model_class(method: str) -> type:
    """The `...ForImageClassification` of a method in `METHODS`."""
    module = importlib.import_module(f"{__package__}.models.modeling_{method}")
    return getattr(module, METHODS[method][1])


def _register_configs() -> None:
    from transformers import AutoConfig

    for method in METHODS:
        AutoConfig.register(method, config_class(method), exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModelForImageClassification

    for method in METHODS:
        AutoModelForImageClassification.register(config_class(method), model_class(method), exist_ok=True)


def _register_pipeline() -> None:
    # It registers itself at its end: it may be the very module that imports transformers' pipelines, half read yet.
    importlib.import_module(f"{__package__}.inference.pipeline")


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `callback` once, right after the module called `name` has been executed."""

    def __init__(self, name: str, callback: Callable[[], None]) -> None:
        self.name, self.callback, self.searching = name, callback, False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name or self.searching:
            return None
        self.searching = True  # the real finders answer the look-up below
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:  # not sooner: a look-up need not end in an import
                    sys.meta_path.remove(self)
                self.callback()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_auto_classes() -> None:
    """Registers configs with `AutoConfig`, models with `AutoModelForImageClassification`, and the pipeline's task."""
    for name, callback in (
        ("transformers.models.auto.configuration_auto", _register_configs),
        ("transformers.models.auto.modeling_auto", _register_models),
        ("transformers.pipelines", _register_pipeline),
    ):
        if name in sys.modules:
            callback()
        else:
            sys.meta_path.insert(0, _AfterImport(name, callback))
