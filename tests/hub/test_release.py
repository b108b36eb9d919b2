"""A release folder holds the files of a model and no others, and loads anywhere; what is not right is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hf_fer import FerError
from hf_fer._auto import METHODS, config_class, model_class
from hf_fer.evaluation.systems import digest_of
from hf_fer.hub.card import PLOTS
from hf_fer.hub.release import build_release, link_release, listing, manifest, model_code, read_manifest
from hf_fer.inference.calibration import Calibration, read_calibration
from hf_fer.training.export import build_processor, save_release

ASSETS = Path(__file__).parents[2] / "hf_fer" / "assets"
NAMES = ["neutral", "happiness", "anger"]


def save_tiny(method: str, folder: Path) -> torch.nn.Module:
    """A model as a training run saves it, every tensor of which differs from its default."""
    torch.manual_seed(0)
    config = config_class(method)
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
    counts = {"class_counts": [9, 5, 2]} if "class_counts" in config.method_fields() else {}
    model = model_class(method)(config(**{**labels, **counts, **config.tiny})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_release(model, build_processor(model.config.image_size), folder)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a small model; not to be written to."""
    folder = tmp_path_factory.mktemp("saved") / "mek"
    save_tiny("mek", folder)
    return folder


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "source")


def listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_every_method_loads_from_a_copy_without_this_package(tmp_path: Path) -> None:
    """One interpreter in which importing hf_fer fails, offline; the folders that were copied are gone by then."""
    torch.manual_seed(1)
    images, expected, folders = {}, {}, {}
    for method in METHODS:
        model = save_tiny(method, tmp_path / "saved" / method)
        images[method] = torch.randn(2, 3, model.config.image_size, model.config.image_size)
        with torch.no_grad():
            expected[method] = model(images[method]).logits
        release = build_release(tmp_path / "saved" / method, tmp_path / "releases" / method)
        folders[method] = str(shutil.copytree(release, tmp_path / "copies" / f"{method} é"))
    shutil.rmtree(tmp_path / "saved")
    shutil.rmtree(tmp_path / "releases")
    torch.save(images, tmp_path / "images.pt")
    program = """
import json, sys, torch

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_fer":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

images, logits = torch.load(sys.argv[1]), {}
for method, folder in json.loads(sys.argv[2]).items():
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    with torch.no_grad():
        logits[method] = model(images[method]).logits
    answers = pipeline("image-classification", model=folder, trust_remote_code=True)(Image.new("RGB", (70, 60)))
    assert {answer["label"] for answer in answers} == {"neutral", "happiness", "anger"}, answers
torch.save(logits, sys.argv[3])
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    arguments = [str(tmp_path / "images.pt"), json.dumps(folders), str(tmp_path / "logits.pt")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logits = torch.load(tmp_path / "logits.pt")
    for method in METHODS:
        torch.testing.assert_close(logits[method], expected[method], rtol=0, atol=1e-6)


def test_a_run_folder_becomes_its_files_and_no_others(tmp_path: Path) -> None:
    """The embedded checkpoint is a run folder; what else lies there stays behind."""
    run = shutil.copytree(ASSETS, tmp_path / "run", ignore=shutil.ignore_patterns("__pycache__"))
    (run / "training_args.bin").write_bytes(pickle.dumps({}))
    (run / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (run / ".env").write_text("HF_TOKEN=hf_secretsecret")
    (run / "notes.txt").write_text("mine")
    (run / "best.safetensors").write_bytes(b"")
    for folder in ("checkpoints", "logs", ".git"):
        (run / folder).mkdir()
        (run / folder / "state.pkl").write_bytes(b"")
    release = build_release(run, tmp_path / "new" / "release", repo_id="me/faces")
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "release.json"}
    expected |= {"report.json", "recipe.yaml", "metrics.jsonl", "calibration.json", *model_code("mek")}
    expected |= {plot for plot in PLOTS if (ASSETS / plot).is_file()}
    assert listed(release) == sorted(expected)
    assert [path.name for path in release.parent.iterdir()] == ["release"]
    for name in expected - {"README.md", "release.json"}:
        assert (release / name).read_bytes() == (run / name).read_bytes(), name
    assert "me/faces" in (release / "README.md").read_text()
    files = json.loads((release / "release.json").read_text())["files"]
    assert sorted(files) == sorted(expected - {"release.json"})
    for name, entry in files.items():
        data = (release / name).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "git_sha1": git, "size": len(data)}, name


def test_a_calibration_goes_with_its_model_only(source: Path, tmp_path: Path) -> None:
    """Where the release's config.json is another file than the source's, the calibration names the new digest."""
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "_name_or_path": "/home/somebody"}))
    content = {"version": 1, "temperatures": {"1": 1.5, "4": 2}, "reference_side": 48, "dataset": "drawn"}
    path = source / "calibration.json"
    path.write_text(json.dumps({**content, "model_digest": digest_of(source)}))
    before = path.read_bytes()
    for number, build in enumerate((build_release, link_release)):
        release = build(source, tmp_path / f"release {number}")
        assert digest_of(release) != digest_of(source)
        assert json.loads((release / path.name).read_text()) == {**content, "model_digest": digest_of(release)}
        assert read_calibration(release) == Calibration({1: 1.5, 4: 2}, 48)
        assert path.read_bytes() == before
    again = build_release(release, tmp_path / "again")
    assert (again / path.name).read_bytes() == (release / path.name).read_bytes()

    for text, words in (
        (json.dumps({**content, "model_digest": "sha256:0"}), "made for another model"),
        (json.dumps({**content, "model_digest": digest_of(source), "temperatures": {"1": -1}}), "temperatures must be"),
        ("{", "cannot be used"),
    ):
        path.write_text(text)
        with pytest.raises(FerError, match=words):
            build_release(source, tmp_path / "refused")
    path.unlink()
    (tmp_path / "secret.json").write_text("{}")
    path.symlink_to(tmp_path / "secret.json")
    with pytest.raises(FerError, match="a link that leads out"):
        build_release(source, tmp_path / "refused")
    assert {p.name for p in tmp_path.iterdir()} == {"source", "release 0", "release 1", "again", "secret.json"}


def test_the_same_source_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    first = build_release(source, tmp_path / "first", repo_id="me/faces")
    again = link_release(source, tmp_path / "again", repo_id="me/faces")
    assert listed(first) == listed(again)
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in listed(first))


def test_a_plain_save_pretrained_folder_gets_code_and_a_card_that_claims_nothing(source: Path, tmp_path: Path) -> None:
    for path in source.glob("*.py"):
        path.unlink()
    config = json.loads((source / "config.json").read_text())
    del config["auto_map"]
    (source / "config.json").write_text(json.dumps(config))
    release = build_release(source, tmp_path / "release")
    assert json.loads((release / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_mek.MEKConfig",
        "AutoModelForImageClassification": "modeling_mek.MEKForImageClassification",
    }
    assert {path.name for path in release.glob("*.py")} == set(model_code("mek"))
    card = (release / "README.md").read_text()
    assert "# release" in card and "report" in card


def test_the_code_is_what_save_pretrained_copies(saved: Path) -> None:
    assert set(model_code("mek")) == {path.name for path in saved.glob("*.py")}


def test_shards_come_with_their_index(source: Path, tmp_path: Path) -> None:
    state = load_file(source / "model.safetensors")
    half = len(state) // 2
    shards = {f"model-{k:05d}-of-00002.safetensors": dict([*state.items()][s]) for k, s in
              ((1, slice(half)), (2, slice(half, None)))}  # fmt: skip
    for name, part in shards.items():
        save_file(part, source / name, metadata={"format": "pt"})
    (source / "model.safetensors").unlink()
    where = {key: name for name, part in shards.items() for key in part}
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    release = build_release(source, tmp_path / "release")
    assert {*shards, "model.safetensors.index.json"} <= {*listed(release)}
    model = model_class("mek").from_pretrained(release)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())

    for name in ("../model-00001-of-00002.safetensors", "/etc/passwd", "pytorch_model-00001-of-00002.bin"):
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(FerError, match="does not name shards"):
            build_release(source, tmp_path / "refused")


def test_code_that_is_not_the_installed_one_is_named(source: Path, tmp_path: Path) -> None:
    (source / "losses.py").write_text("print('another version')")
    with pytest.raises(FerError, match=r"not of the model's in hf_fer .* \(losses\.py\)"):
        build_release(source, tmp_path / "release")
    shutil.copy(model_code("mek")["losses.py"], source)
    (source / "evil.py").write_text("import os")
    with pytest.raises(FerError, match=r"\(evil\.py\)"):
        build_release(source, tmp_path / "release")
    (source / "evil.py").unlink()
    processor = source / "preprocessor_config.json"
    processor.write_text(
        json.dumps({**json.loads(processor.read_text()), "auto_map": {"AutoImageProcessor": "a--b.C"}})
    )
    with pytest.raises(FerError, match="auto_map"):
        build_release(source, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_links_out_of_the_folder_are_refused(source: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    for name in ("metrics.jsonl", "evil.py"):
        (source / name).symlink_to(secret)
        with pytest.raises(FerError, match=f"{name} is a link that leads out"):
            build_release(source, tmp_path / "release")
        (source / name).unlink()
    (source / "metrics.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FerError, match=r"metrics\.jsonl is a link that leads out"):
        build_release(source, tmp_path / "release")
    (source / "metrics.jsonl").unlink()
    (source / ".env").write_text("HF_TOKEN=hf_secretsecret")
    (source / "metrics.jsonl").symlink_to(".env")
    with pytest.raises(FerError, match=r"metrics\.jsonl is a link to a file that stays on this machine"):
        build_release(source, tmp_path / "release")
    (source / "metrics.jsonl").unlink()
    (source / "real.jsonl").write_text("{}\n")
    (source / "metrics.jsonl").symlink_to("real.jsonl")
    release = build_release(source, tmp_path / "release")
    assert (release / "metrics.jsonl").read_text() == "{}\n" and not (release / "metrics.jsonl").is_symlink()


def test_damage_is_named(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    weights = source / "model.safetensors"
    whole = weights.read_bytes()
    for data in (whole[:-10], b"", whole[:100], pickle.dumps({"a": 1})):
        weights.write_bytes(data)
        with pytest.raises(FerError, match=r"model\.safetensors is damaged"):
            build_release(source, out)
    weights.unlink()
    with pytest.raises(FerError, match=r"model\.safetensors is missing"):
        build_release(source, out)
    weights.write_bytes(whole)
    config = source / "config.json"
    for text, words in (
        ("{", "as JSON"),
        ("[]", "no JSON object"),
        ("[" * 100_000, "as JSON"),
        ('{"model_type": "vit"}', "vit"),
    ):
        config.write_text(text)
        with pytest.raises(FerError, match=words):
            build_release(source, out)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_model_that_lacks_weights_is_no_release(source: Path, tmp_path: Path, sharded: bool) -> None:
    """Also where it has another shape; counters of batches are no weights that anybody needs."""
    whole = load_file(source / "model.safetensors")
    counters = {name for name in whole if name.endswith("num_batches_tracked")}
    largest = max(whole, key=lambda name: whole[name].numel())
    lacking = {name: whole[name] for name in [*whole][:3] if name != largest}
    for state, words in (
        (lacking, rf"lacks {len({*whole} - {*lacking} - counters)} weights such as \w"),
        ({**whole, largest: whole[largest][:1]}, rf"lacks 1 weight such as {re.escape(largest)}"),
        ({name: whole[name] for name in {*whole} - counters}, None),
    ):
        name = "model-00001-of-00001.safetensors" if sharded else "model.safetensors"
        (source / "model.safetensors").unlink(missing_ok=True)
        save_file({key: value.contiguous() for key, value in state.items()}, source / name, metadata={"format": "pt"})
        if sharded:
            index = {"metadata": {}, "weight_map": dict.fromkeys(state, name)}
            (source / "model.safetensors.index.json").write_text(json.dumps(index))
        if words is None:
            build_release(source, tmp_path / "release")
        else:
            with pytest.raises(FerError, match=words):
                build_release(source, tmp_path / "release")
    assert counters


def test_nothing_is_overwritten(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    build_release(source, out)  # an empty folder is as good as none
    with pytest.raises(FerError, match="not empty"):
        build_release(source, out)
    with pytest.raises(FerError, match="itself"):
        build_release(source, source)
    with pytest.raises(FerError, match="no folder"):
        build_release(tmp_path / "nowhere", tmp_path / "new")


def relist(release: Path, change: Callable[[dict[str, Path]], object]) -> None:
    """Write a `release.json` that is true of the folder, as far as it goes."""
    files = {path.name: path for path in release.iterdir() if path.name != "release.json"}
    change(files)
    (release / "release.json").write_bytes(manifest(listing(files)))


def test_a_built_release_is_checked_before_it_is_used_again(source: Path, tmp_path: Path) -> None:
    release = build_release(source, tmp_path / "release", repo_id="me/faces")
    (release / "notes.txt").write_text("mine")
    again = build_release(release, tmp_path / "again", repo_id="me/other")
    assert listed(again) == sorted({*listed(release)} - {"notes.txt"})
    assert "me/other" in (again / "README.md").read_text() and "me/faces" not in (again / "README.md").read_text()
    (release / "README.md").write_text("edited by hand\n")
    assert (build_release(release, tmp_path / "edited") / "README.md").read_text() == "edited by hand\n"
    out = tmp_path / "refused"
    for name in ("modeling_mek.py", "model.safetensors"):
        whole = (release / name).read_bytes()
        (release / name).write_bytes(whole + b"\n")
        with pytest.raises(FerError, match=rf"not as its release\.json says \({name}\)|not of the model's.*\({name}\)"):
            build_release(release, out)
        (release / name).write_bytes(whole)
    for name in ("metrics.jsonl", "curves.png"):
        (release / name).write_text("")
        with pytest.raises(FerError, match=rf"not as its release\.json says \({name}\)"):
            build_release(release, out)
        (release / name).unlink()
    content = json.loads((release / "release.json").read_text())
    for name in ("../outside.txt", str(tmp_path / "outside.txt"), "notes.txt", "pytorch_model.bin", "x\n"):
        (release / "release.json").write_text(
            json.dumps({**content, "files": {**content["files"], name: content["files"]["config.json"]}})
        )
        with pytest.raises(FerError, match="not as its release") as caught:
            build_release(release, out)
        assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_built_release_is_not_believed_on_its_own_word(source: Path, tmp_path: Path) -> None:
    release = build_release(source, tmp_path / "release")
    (release / "notes.txt").unlink(missing_ok=True)
    weights = (release / "model.safetensors").read_bytes()
    relist(release, lambda files: files.pop("model.safetensors"))
    with pytest.raises(FerError, match=r"release\.json says \(model\.safetensors\)"):
        build_release(release, tmp_path / "out")
    (release / "model.safetensors").unlink()
    with pytest.raises(FerError, match=r"model\.safetensors is missing"):
        build_release(release, tmp_path / "out")
    (release / "model.safetensors").write_bytes(weights)
    losses = (release / "losses.py").read_bytes()
    (release / "losses.py").write_text("print('evil')")
    relist(release, lambda files: None)
    with pytest.raises(FerError, match=r"not of the model's in hf_fer .* \(losses\.py\)"):
        build_release(release, tmp_path / "out")
    (release / "losses.py").write_bytes(losses)
    processor = release / "preprocessor_config.json"
    processor.write_text(json.dumps({**json.loads(processor.read_text()), "auto_map": {"AutoImageProcessor": "a.B"}}))
    relist(release, lambda files: None)
    with pytest.raises(FerError, match="auto_map"):
        build_release(release, tmp_path / "out")


def test_nothing_tells_of_this_machine(tmp_path: Path) -> None:
    run = shutil.copytree(ASSETS, tmp_path / "run", ignore=shutil.ignore_patterns("__pycache__"))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    home = "/home/somebody/faces"
    options = {"token": "hf_secretsecret", "cache_dir": home, "classes": 8, "files": [f"{home}/a.csv"], "rule": "major"}
    private = {"output_dir": home, "data_root": home, "dataset_options": options, "push": "me/x", "dataset": home}
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **private, "backbone_weights": f"{home}/w.pth"}))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "_name_or_path": home}))
    release = build_release(run, tmp_path / "release")
    assert json.loads((release / "config.json").read_text()) == config
    kept = {"dataset_options": {"classes": 8, "files": ["a.csv"], "rule": "major"}, "dataset": "./faces"}
    assert yaml.safe_load((release / "recipe.yaml").read_text()) == {**recipe, **kept, "backbone_weights": "w.pth"}
    for path in release.iterdir():
        assert b"somebody" not in path.read_bytes() and b"hf_secretsecret" not in path.read_bytes(), path.name


def test_a_folder_of_somebody_else_is_not_removed(source: Path, tmp_path: Path) -> None:
    theirs = tmp_path / f".out.{os.getpid()}.tmp"
    theirs.mkdir()
    (theirs / "a.txt").write_text("a")
    with pytest.raises(FerError, match="No release can be written"):
        build_release(source, tmp_path / "out")
    assert (theirs / "a.txt").exists()


@pytest.mark.parametrize(
    "data",
    [
        b'{"hf_fer": "1", "files": []}',
        b'{"hf_fer": 1, "files": {}}',
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"files": 3}',
        b'{"files": {"a": 3}}',
        b'{"files": {"a": {}}}',
        b"[" * 100_000,
    ],
)
def test_a_manifest_that_is_none_of_ours(data: bytes) -> None:
    with pytest.raises(FerError, match=r"X has a release\.json that is none of hf-fer's"):
        read_manifest(data, "X")
