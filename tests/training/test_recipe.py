from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from hf_fer import FerError, MEKConfig
from hf_fer._auto import METHODS, config_class
from hf_fer.training.recipe import Recipe, load_recipe, method_fields

NEEDED = ["--dataset", "synthetic", "--output_dir", "run"]
CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "configs").glob("*.yaml"))


def test_flags_override_the_file_and_reach_recipe_and_model(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("dataset: synthetic\noutput_dir: a\nepochs: 3\nsmoothing: 0.2\nlearning_rate: 1e-3\n")
    flags = ["--epochs", "5", "--output-dir=b", "--soft_targets", "--stem_pool", "false"]
    recipe = load_recipe(MEKConfig, file, flags)
    assert (recipe.epochs, recipe.output_dir, recipe.soft_targets) == (5, "b", True)
    assert recipe.learning_rate == 1e-3  # a string in YAML 1.1
    assert recipe.model == {"smoothing": 0.2, "stem_pool": False}


def test_the_written_recipe_reads_back_to_itself(tmp_path: Path) -> None:
    flags = [
        *NEEDED,
        "--backbone_kwargs",
        "{layers: [1, 1]}",
        "--eval_resolutions",
        "[1, 2]",
        "--mixed_precision",
        "no",
    ]
    recipe = load_recipe(MEKConfig, None, flags)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    text = (tmp_path / "recipe.yaml").read_text()
    assert "output_dir" not in text and "data_root" not in text  # a pushed recipe tells no paths
    assert load_recipe(MEKConfig, tmp_path / "recipe.yaml", ["--output_dir=run"]) == recipe


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    method = next(name for name in METHODS if path.stem.startswith(f"{name}_"))
    recipe = load_recipe(config_class(method), path, [])
    config_class(method)(**recipe.model)
    assert recipe.output_dir.startswith("runs/")


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--epocs", "3"], "'epocs'; did you mean epochs"),
        (["--smoothin", "3"], "did you mean smoothing"),
        (["--epochs", "many"], "epochs must be a whole number"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--epochs", "true"], "epochs must be a whole number"),
        (["--learning_rate", "-1"], "learning_rate must be positive"),
        (["--flip", "1.5"], r"flip must be in \[0, 1\]"),
        (["--optimizer", "lion"], "optimizer must be one of adam, adamw, sgd"),
        (["--eval_resolutions", "2"], "eval_resolutions must be a list"),
        (["--eval_resolutions", "[2, 4]"], "the first of them 1"),
        (["--eval_resolutions", "[1, 2, 2]"], "different factors"),
        (["--eval_resolutions", "[1, .inf]"], "different factors"),
        (["--learning_rate", ".inf"], "learning_rate must be positive"),
        (["--cpu_threads", "-1"], "cpu_threads must be at least 1"),
        (["--soft_targets", "maybe"], "soft_targets must be true or false"),
        (["--dataset_options", "x"], "dataset_options must be a mapping"),
        (["--dataset", ""], "dataset must be"),
        (["--epochs", "[3"], "no valid YAML"),
        (["epochs"], "Expected a flag"),
    ],
)
def test_mistakes_are_named(flags: list[str], said: str) -> None:
    with pytest.raises(FerError, match=said):
        load_recipe(MEKConfig, None, [*NEEDED, *flags])


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FerError, match="No recipe file"):
        load_recipe(MEKConfig, tmp_path / "absent.yaml", [])
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(FerError, match="key: value"):
        load_recipe(MEKConfig, tmp_path / "list.yaml", [])
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(FerError, match="cannot be read as YAML"):
        load_recipe(MEKConfig, tmp_path / "broken.yaml", [])
    (tmp_path / "typo.yaml").write_text("lerning_rate: 1\n")
    with pytest.raises(FerError, match=r"typo\.yaml; did you mean learning_rate"):
        load_recipe(MEKConfig, tmp_path / "typo.yaml", [])


def test_recipe_yaml_is_flat() -> None:
    flat = yaml.safe_load(load_recipe(MEKConfig, None, [*NEEDED, "--smoothing", "0.3"]).to_yaml())
    assert flat["smoothing"] == 0.3 and "model" not in flat and "resume" not in flat


def test_recipe_and_method_keys_do_not_collide_and_secrets_stay_out() -> None:
    own = {field.name for field in dataclasses.fields(Recipe)}
    assert not own & set(method_fields(MEKConfig))
    recipe = load_recipe(MEKConfig, None, [*NEEDED, "--dataset_options={token: hf_x, cache_dir: /y, classes: 7}"])
    assert yaml.safe_load(recipe.to_yaml())["dataset_options"] == {"classes": 7}


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody_of_that_name/faces", "a\0b", "owner/name", "synthetic"])
def test_names_that_are_no_paths_stay_as_they_are(name: str) -> None:
    recipe = load_recipe(MEKConfig, None, ["--output_dir=run", "--dataset=synthetic"])
    recipe.dataset = recipe.backbone_weights = name
    flat = yaml.safe_load(recipe.to_yaml())
    assert flat["dataset"] == flat["backbone_weights"] == name


def test_of_paths_the_name_alone_is_told(tmp_path: Path) -> None:
    (tmp_path / "ferplus").mkdir()  # not the data set of that name
    recipe = load_recipe(MEKConfig, None, ["--output_dir=run", f"--dataset={tmp_path / 'ferplus'}"])
    recipe.backbone_weights = str(tmp_path / "ferplus")
    flat = yaml.safe_load(recipe.to_yaml())
    assert (flat["dataset"], flat["backbone_weights"]) == ("./ferplus", "ferplus")


def test_a_licence_is_named_as_the_hub_names_it(tmp_path: Path) -> None:
    file = tmp_path / "mek_x.yaml"
    file.write_text("dataset: synthetic\noutput_dir: runs/x\nlicense: cc-by-nc-4.0\n")
    assert "license: cc-by-nc-4.0" in load_recipe(MEKConfig, file, []).to_yaml()
    for wrong in ("MIT license", "<b>", "''", "5"):
        with pytest.raises(FerError, match="license"):
            load_recipe(MEKConfig, file, [f"--license={wrong}"])
