"""What `import hf_fer` costs and leaves alone, and the registration in whichever order modules are imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import hf_fer
import hf_fer.models

HEAVY = ["timm", "datasets", "evaluate", "gradio", "cv2", "matplotlib", "sklearn", "accelerate"]

REGISTERED = """
from transformers import AutoConfig, AutoModelForImageClassification
config = AutoConfig.for_model("mek")
from hf_fer import MEKConfig, MEKForImageClassification, embedded_model_path
report["config"] = type(config) is MEKConfig
report["model"] = AutoModelForImageClassification._model_mapping[MEKConfig] is MEKForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY
task = PIPELINE_REGISTRY.check_task("facial-expression-recognition")[1]
report["pipeline"] = task["impl"].__name__ == "FacialExpressionPipeline"
report["pipeline"] &= task["default"]["model"][0] == embedded_model_path()
"""


def run_fresh(code: str, folder: Path) -> dict[str, Any]:
    """Runs `code` in a new interpreter; it fills `report`."""
    prologue = "import json, sys\nreport = {}\ndef loaded(*names): return [n for n in names if n in sys.modules]\n"
    run = subprocess.run(
        [sys.executable, "-c", f"{prologue}{code}\nprint(json.dumps(report))"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_import_is_cheap_after_torch_and_transformers(tmp_path: Path) -> None:
    """CPU time, so that a busy machine does not fail the test; there is nothing to wait for but the CPU.

    A fork, which spares importing both again, tries the registration after the Auto classes are there."""
    report = run_fresh(
        f"""
import os, time
import torch, transformers
if os.fork() == 0:
    import transformers.models.auto.configuration_auto, transformers.models.auto.modeling_auto, transformers.pipelines
    import hf_fer
{textwrap.indent(REGISTERED, "    ")}
    with open("late.json", "w") as file:
        json.dump(report, file)
    os._exit(0)
assert os.wait()[1] == 0
before = set(sys.modules)
start = time.process_time()
import hf_fer
report["seconds"] = time.process_time() - start
report["heavy"] = [n for n in {HEAVY} if n in sys.modules and n not in before]
report["auto_before"] = loaded("transformers.models.auto.modeling_auto")
{REGISTERED}
""",
        tmp_path,
    )
    assert report["seconds"] < 0.3
    assert report["heavy"] == []
    assert report["auto_before"] == []  # else this would not test the later registration
    assert report["config"] and report["model"] and report["pipeline"]
    late = json.loads((tmp_path / "late.json").read_text())
    assert late == {"config": True, "model": True, "pipeline": True}


def test_registration_waits_for_transformers(tmp_path: Path) -> None:
    """Imported first, the package loads neither torch nor transformers; a look-up is not taken for an import."""
    report = run_fresh(
        f"""
import hf_fer
report["early"] = loaded("torch", "transformers", "PIL", "numpy", *{HEAVY})
import importlib.util
for name in ("models.auto.configuration_auto", "models.auto.modeling_auto", "pipelines"):
    assert importlib.util.find_spec("transformers." + name) is not None
{REGISTERED}
""",
        tmp_path,
    )
    assert report == {"early": [], "config": True, "model": True, "pipeline": True}


@pytest.mark.parametrize("module", [hf_fer, hf_fer.models], ids=["hf_fer", "hf_fer.models"])
def test_every_public_name_is_there(module: Any) -> None:
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_ours'"):
        _ = module.nothing_of_ours
