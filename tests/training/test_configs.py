"""The recipes that are shipped: each says what it is, and is what its paper says."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_fer._auto import METHODS, config_class, model_class
from hf_fer.data import DATASETS
from hf_fer.labels import label_names
from hf_fer.training.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("*.yaml"))
# Ours: the drawn faces, the model inside the package, and the scales of benchmarks/reproduce.py.
OURS = [path for path in CONFIGS if path.stem.endswith(("_synthetic", "_embedded", "_tuned", "_small", "_cpu", "_gpu"))]
PAPERS = [path for path in CONFIGS if path not in OURS]
LAUNCH = sorted((RECIPES / "accelerate").glob("*.yaml"))
README = (RECIPES / "README.md").read_text(encoding="utf-8")

# What the papers print. A baseline's own switches are compared with `ablations` below.
NUMBERS: dict[str, dict[str, Any]] = {
    "hsac": {
        "backbone": "resnet50", "image_size": 224, "max_downsampling": 8.0, "optimizer": "adam", "learning_rate": 1e-4,
        "batch_size": 32, "epochs": 60, "flip": 0.5, "combined_attention_weight": 3.0,
        "label_distribution_weight": 1e-2, "adversarial_weight": 1e-5, "difficulty_criterion": "both",
        "eval_resolutions": [1.0, 2.0, 4.0, 8.0],
    },
    "mek": {
        "backbone": "resnet18", "image_size": 224, "optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 1e-4,
        "schedule": "exponential", "lr_decay": 0.9, "epochs": 60, "consistency_weight": 2.0, "smoothing": 0.1,
        "effective_number_beta": 0.9999, "transform": "flip", "attention_weighting": "inside", "smooth_target": "all",
    },
    "neural_resizer": {
        "upsampled_size": 384, "backbone_image_size": 224, "optimizer": "adam", "learning_rate": 1e-4,
        "schedule": "step", "batch_size": 64, "epochs": 100, "scale": 0.2, "brightness": 0.4, "contrast": 0.4,
        "prior_alpha": 0.8, "focal_gamma": 2.0, "upsampler": "learned", "downsizer": "learned",
        "spatial_transformer": True, "resizer_channels": 16, "resizer_blocks": 1,
    },
    "multires": {
        "backbone": "legacy_seresnet50", "resize_size": 256, "image_size": 224, "random_grayscale": 0.2,
        "optimizer": "adam", "weight_decay": 1e-4, "learning_rate": 1e-4, "head_lr_multiplier": 10.0,
        "batch_size": 128, "min_side": 8, "max_side": 256, "reference_side": 256,
        "class_weighting": "inverse_frequency",
    },
    "grefel": {
        "backbone": "ir50", "resize_size": 256, "image_size": 224, "optimizer": "adam", "learning_rate": 3e-4,
        "schedule": "exponential", "num_anchors": 10, "anchor_temperature": 1.0, "classification_weight": 1.0,
        "anchor_weight": 1.0, "center_weight": 1.0, "label_smoothing": 0.11, "head_width": 64, "head_dropout": 0.5,
    },
}  # fmt: skip
BASELINES = {
    "hsac_rafdb_baseline_ce": ("hsac_rafdb", "Table 1, row 1: L_ce"),
    "mek_ferplus_baseline_ce": ("mek_ferplus", "Table 6: baseline"),
    "mek_ferplus_baseline_cb": ("mek_ferplus", "baseline: class-balanced loss"),
    "mek_ferplus_baseline_eac": ("mek_ferplus", "baseline: EAC"),
}

by_name = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def method_of(path: Path) -> str:
    return next(name for name in METHODS if path.stem.startswith(f"{name}_"))


def read(path: Path, *flags: str) -> Recipe:
    return load_recipe(config_class(method_of(path)), path, [*flags])


def classes_of(recipe: Recipe) -> int:
    return len(label_names(recipe.dataset, recipe.dataset_options.get("classes")))


def configuration(recipe: Recipe, method: str) -> Any:
    return config_class(method)(num_labels=classes_of(recipe), **recipe.model)


def head(path: Path) -> str:
    """The comment at the top, a command on several lines in one."""
    lines = path.read_text(encoding="utf-8").splitlines()
    length = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return re.sub(r" \\\n\s*", " ", "\n".join(line.removeprefix("#").strip() for line in lines[:length]))


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("accelerate launch ")]


# --- what a file is called, and says -----------------------------------------------------------------------------


@by_name
def test_the_name_states_method_and_dataset(path: Path) -> None:
    recipe, start = read(path), f"{method_of(path)}_"
    assert re.fullmatch(rf"{recipe.dataset}(_.+)?", path.stem.removeprefix(start))
    assert recipe.output_dir == f"runs/{path.stem}"


@by_name
def test_the_head_has_the_command_that_runs_it(path: Path) -> None:
    (command,) = commands(head(path))
    _, _, script, flag, config, *flags = shlex.split(command)
    assert (script, flag) == (f"recipes/train_{method_of(path)}.py", "--config")
    assert (ROOT / script).is_file() and ROOT / config == path
    load_recipe(config_class(method_of(path)), path, flags)
    needs_root = read(path).dataset != "synthetic"
    assert ("--data_root" in flags) == needs_root


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_recipe_at_the_papers_scale_says_that_it_was_not_run_and_starts_from_nothing(path: Path) -> None:
    recipe, text = read(path), " ".join(head(path).split())
    assert "Not run by us yet: no figures." in text
    assert re.search(r"\b(Sections?|Tables?) \d|Zhang et al\.|Cui et al\.", text)
    assert recipe.backbone_weights is None and "--backbone_weights" in text
    assert "class_counts" not in recipe.model and "label_prior" not in recipe.model  # of the split in hand


def test_the_weights_named_of_timm_exist() -> None:
    timm = pytest.importorskip("timm")
    for path in PAPERS:
        for backbone in re.findall(r"--backbone_weights ([a-z0-9_]+\.[a-z0-9_]+)", head(path)):
            if not backbone.endswith(".pth"):
                model = read(path).model["backbone"]
                assert backbone in timm.list_pretrained(f"{model}.*")


@by_name
def test_no_file_of_this_or_another_machine_is_named(path: Path) -> None:
    assert not re.search(r"(^|[\s\"'=])[/~]\w", path.read_text(encoding="utf-8"))


# --- data -------------------------------------------------------------------------------------------------------


@by_name
def test_the_dataset_has_these_options(path: Path) -> None:
    recipe = read(path)
    assert recipe.dataset in DATASETS
    loader = getattr(importlib.import_module(f"hf_fer.data.{recipe.dataset}"), f"load_{recipe.dataset}")
    assert {*recipe.dataset_options} <= {*inspect.signature(loader).parameters} - {"root"}
    classes_of(recipe)  # raises if the data set is not used with so many


def test_the_groups_that_are_tested_on_exist() -> None:
    from hf_fer.data.ferg import CHARACTERS
    from hf_fer.data.jaffe import OFFICIAL_SUBJECTS

    jaffe, ferg = (read(RECIPES / "configs" / f"grefel_{name}.yaml").dataset_options for name in ("jaffe", "ferg"))
    assert {*jaffe["test_subjects"]} < {*OFFICIAL_SUBJECTS} and {*ferg["test_characters"]} < {*CHARACTERS}


@by_name
def test_no_epoch_is_chosen_on_the_split_that_is_reported(path: Path) -> None:
    recipe = read(path)
    only = {"rafdb": {"train", "test"}, "affectnet": {"train", "validation"}, "sfew": {"train", "validation"},
            "affwild2": {"train", "validation"}, "jaffe": {"train", "test"}, "ferg": {"train", "test"}}  # fmt: skip
    splits = only.get(recipe.dataset, {"train", "validation", "test"})
    assert recipe.train_split == "train"
    selected = "held out" if recipe.validation_share else recipe.validation_split
    reported = "held out" if recipe.test_share else recipe.test_split
    assert recipe.validation_share or selected in splits - {"train"}
    assert recipe.test_share or reported in splits - {"train"}
    assert selected != reported
    if recipe.dataset in ("sfew", "affwild2", "jaffe", "ferg") and recipe.validation_share:
        assert recipe.hold_out_by == "group"  # or frames of one video would be on both sides


# --- methods ----------------------------------------------------------------------------------------------------


@by_name
def test_the_model_can_be_built(path: Path) -> None:
    method, recipe = method_of(path), read(path)
    config = configuration(recipe, method)
    with torch.device("meta"):
        model = model_class(method)(config)
    assert model.config.num_labels == classes_of(recipe)
    if recipe.resize_size is not None:
        assert recipe.resize_size >= config.image_size


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_papers_numbers(path: Path) -> None:
    method, recipe = method_of(path), read(path)
    config, expected = configuration(recipe, method), dict(NUMBERS[method])
    if path.stem in BASELINES:
        expected.update(config_class(method).ablations[BASELINES[path.stem][1]])
    if method == "hsac":
        assert recipe.select_by.endswith("_over_resolutions")
    found = {name: getattr(recipe if hasattr(recipe, name) else config, name) for name in expected}
    assert found == expected


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_is_the_method_but_for_its_row(baseline: str) -> None:
    of, row = BASELINES[baseline]
    path, full = (RECIPES / "configs" / f"{name}.yaml" for name in (baseline, of))
    method, own, theirs = method_of(path), read(path), read(full)
    override = config_class(method).ablations[row]
    expected = config_class(method)(num_labels=classes_of(theirs), **{**theirs.model, **override})
    assert configuration(own, method).to_dict() == expected.to_dict()
    own.model = theirs.model = {}
    own.output_dir = theirs.output_dir
    assert own == theirs


def test_every_baseline_is_listed_here() -> None:
    assert {path.stem for path in CONFIGS if "_baseline_" in path.stem} == {*BASELINES}


def test_the_rows_of_the_neural_resizer_are_the_flags_in_its_head() -> None:
    path = RECIPES / "configs" / "neural_resizer_ferplus.yaml"
    config = config_class("neural_resizer")
    rows = dict(re.findall(r"^([a-d]): (--.+)$", head(path), re.M))
    assert [*rows] == [*"abcd"]
    names = {name.removeprefix("Table 2 ")[0]: name for name in config.ablations if name.startswith("Table 2 ")}
    for row, flags in rows.items():
        built = configuration(read(path, *shlex.split(flags)), "neural_resizer")
        assert built.to_dict() == config(num_labels=8, **config.ablations[names[row]]).to_dict()
    e = configuration(read(path), "neural_resizer")
    assert e.to_dict() == config(num_labels=8, **config.ablations[names["e"]]).to_dict()
    losses = {"CE": ["--prior_alpha=1", "--focal_gamma=0"], "PDLS": ["--focal_gamma=0"]}
    for name, flags in losses.items():
        built = configuration(read(path, *flags), "neural_resizer")
        assert built.to_dict() == config(num_labels=8, **config.ablations[f"Table 3: {name}, proposed"]).to_dict()
    assert 15 <= read(path).rotation <= 45


@pytest.mark.parametrize("name", ["affwild2", "jaffe", "ferg", "rafdb", "affectnet", "ferplus"])
def test_grefel_refines_its_data_as_in_the_paper(name: str) -> None:
    recipe = read(RECIPES / "configs" / f"grefel_{name}.yaml")
    assert (recipe.sampling, recipe.images_per_group, recipe.images_per_class) == ("group_balanced", 512, 500)
    assert (recipe.epochs, recipe.lr_decay) == (1000, 0.995)


def test_the_class_weights_of_multires_are_those_of_its_table() -> None:
    from hf_fer.data.affwild2 import OFFICIAL_COUNTS
    from hf_fer.models import inverse_frequency_weights

    counts = [OFFICIAL_COUNTS["train"][name] for name in label_names("affwild2", 7)]
    weights = inverse_frequency_weights(counts)
    assert [round(w, 3) for w in weights.tolist()] == [0.365, 0.975, 0.986, 0.988, 0.837, 0.891, 0.958]
    recipe = read(RECIPES / "configs" / "multires_affwild2.yaml")
    assert recipe.learning_rate * recipe.head_lr_multiplier == pytest.approx(1e-3)
    assert recipe.flip == 0 and recipe.degrade == 0  # the paper names no flip; its degradation is the model's


# --- scripts, launch files, README ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_script_and_a_recipe(method: str) -> None:
    script = RECIPES / f"train_{method}.py"
    tree = ast.parse(script.read_text(encoding="utf-8"))
    assert f"main({method!r})" in ast.unparse(tree)
    text = re.sub(r" \\\n\s*", " ", ast.get_docstring(tree) or "")
    (command,) = commands("\n".join(line.strip() for line in text.splitlines()))
    _, _, named, flag, config, *flags = shlex.split(command)
    assert (ROOT / named, flag) == (script, "--config")
    load_recipe(config_class(method), ROOT / config, flags)
    assert any(method_of(path) == method for path in PAPERS)
    assert len(tree.body) == 3  # docstring, import, call: what is special is in the model


@pytest.mark.parametrize("path", LAUNCH, ids=lambda path: path.stem)
def test_accelerate_reads_the_launch_files(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    loaded = load_config_from_file(str(path))
    gpus = "gpu" in path.stem or "node" in path.stem
    assert loaded.use_cpu is not gpus
    kind = {"one": "NO", "several": "MULTI_GPU" if gpus else "MULTI_CPU"}[path.stem.split("_")[0]]
    assert loaded.distributed_type.value == kind
    assert (loaded.num_processes > 1) == path.stem.startswith("several")
    assert loaded.mixed_precision == "no"  # a bare `no` would be false
    found = commands(head(path))
    assert found
    for command in found:
        arguments = launch_command_parser().parse_args(shlex.split(command)[2:])
        assert ROOT / arguments.config_file == path
        check_training(arguments.training_script, arguments.training_script_args, loaded.num_processes)
    if "nodes" in path.stem:
        ranks = [launch_command_parser().parse_args(shlex.split(c)[2:]).machine_rank for c in found]
        assert ranks == [*range(loaded.num_machines)]
        assert loaded.num_processes % loaded.num_machines == 0 and loaded.main_process_port


def check_training(script: str, arguments: list[str], processes: int) -> None:
    """A training's command is valid, and its global batch that of the recipe."""
    flag, config, *flags = arguments
    method = Path(script).stem.removeprefix("train_")
    assert (ROOT / script).is_file() and flag == "--config"
    recipe, alone = (load_recipe(config_class(method), ROOT / config, f) for f in (flags, []))
    assert recipe.batch_size * processes == alone.batch_size


def test_the_table_has_every_recipe() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", README, re.M)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(listed) == len({*listed})
    assert {path.stem for path in PAPERS} <= {*listed} <= {path.stem for path in CONFIGS}


def test_the_launches_in_the_readme_are_valid() -> None:
    from accelerate.commands.launch import launch_command_parser

    found = re.findall(r"`((?:\w+=\w+ )?(?:accelerate launch|torchrun) [^`]+ CONFIG)`", README)
    used = set()
    for command in found:
        if "torchrun" in command:
            assert command.startswith("ACCELERATE_USE_CPU=true torchrun --nproc_per_node=")
            continue
        words = shlex.split(command.replace("RANK", "1"))[2:]
        arguments = launch_command_parser().parse_args(words)
        used.add(ROOT / arguments.config_file)
        assert (ROOT / arguments.training_script).is_file()
    assert used == {*LAUNCH} and len(found) == len(LAUNCH) + 1
    first, *_ = commands(README)
    check_training(shlex.split(first)[2], shlex.split(first)[3:], 1)
