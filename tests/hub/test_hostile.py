"""Repositories and folders from strangers: refused in one sentence or harmless, nothing run, memory bounded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile_cases
import pytest
from hostile_cases import CASES, CODE, TRAP
from hub_server import HubServer

import hf_fer
from hf_fer.checkpoints import checks
from hf_fer.inference.images import MAX_PIXELS
from hf_fer.models.configuration_base import MAX_LABELS

if sys.platform != "linux":
    pytest.skip("what bounds the memory of a process is Linux's", allow_module_level=True)

KEPT = ("config.json", "model.safetensors", "preprocessor_config.json")
# Wherever a client may lay them: up from a snapshot's folder, from the Hub's cache, absolute, by the other separator.
LEADING_OUT = ["../evil.py", "../../../evil.py", "../" * 7 + "evil.py", "a/../../evil.py", "..\\..\\evil.py"]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each case, in one process with little memory."""
    place = tmp_path_factory.mktemp("hostile")
    home, work, trap = place / "a" / "b" / "home", place / "work", place / "work" / "trap"
    work.mkdir()
    with HubServer() as hub:
        assets = Path(hf_fer.embedded_model_path())
        files = {name: (assets / name).read_bytes() for name in KEPT}
        bare = {name: data for name, data in files.items() if name != "model.safetensors"}
        index = {"metadata": {}, "weight_map": {"a": "../../../x.safetensors"}}
        code = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.X"}}
        absolute = {str(place / "evil.py"): CODE.encode()}
        for name, content in {
            "good": {**files, "README.md": b"<script>alert(1)</script>"},
            "names": {**files, **dict.fromkeys(LEADING_OUT, CODE.encode()), **absolute},
            "bin": {**bare, "pytorch_model.bin": b"x" * 100},
            "code": {**files, "evil.py": CODE.encode(), "config.json": json.dumps(code).encode()},
            "shards": {**bare, "model.safetensors.index.json": json.dumps(index).encode()},
            "large": {**files, "config.json": files["config.json"] + b" " * (8 << 20)},
            "empty": {"README.md": b"nothing else"},
        }.items():
            hub.commit("model", f"evil/{name}", content)
        hub.commit("dataset", "evil/script", {"script.py": CODE.encode()})
        hub.commit("dataset", "evil/pickle", {"train.pkl": b"x"})
        hub.commit("dataset", "evil/tar", {"train.tar": hostile_cases.pickle_in_a_tar()})
        before = {path for path in place.rglob("*") if not path.is_relative_to(work)}
        environment = {**os.environ, **hub.environment(home), TRAP: str(trap), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, hostile_cases.__file__, work / "found.json"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-3000:]
        found = json.loads((work / "found.json").read_text())
        found["calls"] = hub.calls
    after = {path for path in place.rglob("*") if not path.is_relative_to(work) and not path.is_relative_to(home)}
    found["outside"] = sorted(map(str, after - before - {*home.parents}))
    return found


def sentence(result: dict[str, str]) -> str:
    """The message of a refusal, which is one readable line."""
    assert result.get("error") == "FerError", result
    says = result["says"]
    assert says.isprintable() and len(says) < 700, says
    return says


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_from_strangers(name: str, tried: dict[str, Any]) -> None:
    result, expected = tried[name], CASES[name][2]
    assert not result["sprung"]
    if expected is None:
        assert result.get("loaded", "").endswith("ForImageClassification"), result
    else:
        assert re.search(expected, sentence(result)), result


def test_nothing_runs_and_the_memory_is_bounded(tried: dict[str, Any]) -> None:
    assert not tried["sprung"]
    assert tried["grown"] < 400  # MiB
    assert tried["springs by a pickle"] and tried["springs by trust"]  # the trap is one
    assert tried["ours, trusted"] == {"loaded": "MEKForImageClassification", "sprung": False}  # where hf_fer is
    assert not any("elsewhere" in call for call in tried["calls"])


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("name", "says"),
    [("escapes", "control characters"), ("pickle alone", "pickles"), ("a config of 1 GB", "and the limit is")],
)
def test_the_command_line_says_one_line(command: str, name: str, says: str, tried: dict[str, Any]) -> None:
    result = tried[f"{command}: {name}"]
    assert result["code"] == 2 and not result["out"]
    (line,) = result["err"].splitlines()
    assert line.startswith("hf-fer: ") and says in line and line.isprintable()


def test_labels_are_printed_as_text(tried: dict[str, Any]) -> None:
    result = tried["predict: labels of the world"]
    assert result["code"] == 0 and not result["err"]
    assert len(result["out"].splitlines()) == 2 and len(result["out"]) < 1000


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mek: 10^12 labels", "num_labels must be an integer of at most 10000"),
        ("mek: image_size", "image_size must be an integer from 8 to 2048"),
        ("many layers", "'layers' holds finite numbers of at most 256"),
        ("too large dims", "dims must be 3 integers from 1 to 2048"),
        ("pickle by timm", "without 'checkpoint_path'"),
    ],
)
def test_our_configurations_have_limits_of_their_own(name: str, says: str, tried: dict[str, Any]) -> None:
    result = tried[f"transformers: {name}"]
    assert result["error"] == "ValueError" and says in result["says"] and len(result["says"]) < 700


def test_weights_and_facts_beside(tried: dict[str, Any]) -> None:
    assert tried["backbone weights"]["error"] == "ValueError"
    assert "would execute code" in tried["backbone weights"]["says"]
    assert "no metric '../../evil'" in sentence(tried["a metric's name"])
    for name in ("deep", "script", "huge", "1 GB"):
        assert tried[f"facts: {name}"] == {"loaded": "NoneType"}, name


def test_from_the_hub(tried: dict[str, Any]) -> None:
    assert tried["hub: good"] == {"loaded": "MEKForImageClassification"}
    for name, says in {
        "bin": "pickles such as pytorch_model.bin can run code and are never read",
        "code": "brings its own Python code; read it",
        "shards": "which is no safetensors file beside it",
        "large": "bytes, and the limit is",
        "empty": "config.json: No such file",
        "missing": "none has that name, or it is private",
        "revision": "no such model",
    }.items():
        assert says in sentence(tried[f"hub: {name}"])


def test_names_lead_nowhere(tried: dict[str, Any]) -> None:
    # Those files are not asked for; where all are, the client refuses the whole repository.
    assert tried["hub: names"] == {"loaded": "MEKForImageClassification"}
    assert "evil.py" in sentence(tried["hub: names, with code"])
    assert tried["hub: names, all of it"]["error"] == "ValueError"
    assert tried["outside"] == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("script", "scripts are no longer supported"),
        ("pickle", "No (supported) data files"),
        ("tar", "cannot be loaded: Weights only load failed"),
    ],
)
def test_data_sets_run_nothing(name: str, says: str, tried: dict[str, Any]) -> None:
    assert says in sentence(tried[f"data: {name}"])


def test_the_policy_says_the_limits_there_are() -> None:
    text = " ".join((Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8").split())
    for limit in (
        f"JSON files up to {checks.MAX_JSON_BYTES >> 20} MiB",
        f"{checks.MAX_LABELS:,} labels ({MAX_LABELS:,} of our own methods)",
        f"whole numbers up to {checks.MAX_SIZE:,}",
        f"headers of weights up to {checks.MAX_HEADER_BYTES >> 20} MiB",
        f"{checks.MAX_SHARDS:,} shards",
        f"images up to {checks.MAX_SIDE} px a side",
        f"at most {checks.MAX_LABEL_CHARACTERS} characters",
        f"images over {MAX_PIXELS // 10**6} megapixels",
    ):
        assert limit in text
