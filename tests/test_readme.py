"""The README is run, not only read."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ASSETS = ROOT / "hf_fer" / "assets"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
COMMANDS = [line for block in re.findall(r"^```bash\n(.*?)^```$", README, re.M | re.S) for line in block.splitlines()]

# Who runs what. The installs are what CI itself does before the tests; the long trainings have tests or cards of
# their own, and here only their recipe and flags are checked.
INSTALLS, TRAININGS = COMMANDS[:2], [c for c in COMMANDS if c.startswith("accelerate launch")]
EVALUATIONS = [c for c in COMMANDS if c.startswith("hf-fer evaluate")]  # run in test_embedded.py
SWEEPS = [c for c in COMMANDS if c.startswith("hf-fer sweep")]  # such ones are run in training/test_sweep.py
PUSHES = [c for c in COMMANDS if c.startswith("hf-fer push")]  # such ones are run in hub/test_end_to_end.py
# Such ones are run in test_predict_command.py, test_model_commands.py and space/: they need photos, or never end.
SHOWS = [c for c in COMMANDS if re.match(r"hf-fer (predict photo|explain|demo)", c)]
OTHERS = [c for c in COMMANDS if c not in SHOWS + INSTALLS + TRAININGS + EVALUATIONS + SWEEPS + PUSHES]


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout but takes what the commands write."""
    for name in ("space", "recipes", "hf_fer"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "leaderboard", tmp_path / "leaderboard")  # a command writes into it
    return tmp_path


def test_the_first_two_commands_install() -> None:
    assert [c.split(" && ")[0] for c in INSTALLS] == ["pip install .", 'pip install -e ".[test]"']


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet: str, checkout: Path) -> None:
    assert run([sys.executable, "-c", snippet], checkout).strip()


@pytest.mark.parametrize("command", [INSTALLS[0].split(" && ")[1], *OTHERS])
def test_commands_run(command: str, checkout: Path) -> None:
    program, *arguments = shlex.split(command)
    assert program == "hf-fer"
    assert run([sys.executable, "-m", "hf_fer.cli", *arguments], checkout).strip()


@pytest.mark.parametrize("command", TRAININGS)
def test_training_commands_name_valid_recipes(command: str) -> None:
    from hf_fer._auto import config_class
    from hf_fer.training.recipe import load_recipe

    _, _, script, flag, config, *flags = shlex.split(command)
    assert (ROOT / script).is_file() and flag == "--config"
    load_recipe(config_class(Path(script).stem.removeprefix("train_")), ROOT / config, flags)


@pytest.mark.parametrize("command", SHOWS)
def test_commands_on_photos_are_understood(command: str) -> None:
    from hf_fer.cli import _parser

    assert _parser().parse_args(shlex.split(command)[1:]).command == command.split()[1]


@pytest.mark.parametrize("command", SWEEPS)
def test_sweep_commands_are_valid_sweeps(command: str) -> None:
    from hf_fer.cli import _parser
    from hf_fer.training.sweep_plan import plan

    options, flags = _parser().parse_known_args(shlex.split(command)[1:])
    method = Path(options.config).name.split("_")[0]
    assert len(plan(method, str(ROOT / options.config), options.grid, options.seeds, flags)) == 6


@pytest.mark.parametrize("command", PUSHES)
def test_push_commands_are_understood(command: str) -> None:
    from hf_fer.cli import _parser

    options = _parser().parse_args(shlex.split(command)[1:])
    assert options.folder in " ".join(TRAININGS)  # what a training above has made


def test_the_evaluation_command_is_the_one_that_is_tested() -> None:
    assert [c.split(" --root ")[0] for c in EVALUATIONS] == ["hf-fer evaluate default --data ferplus"]
    assert "--split test --resolutions 1,2,4,8" in EVALUATIONS[0]


def test_tables_are_those_of_their_records() -> None:
    from hf_fer.evaluation import fill_tables

    assert README.count("<!-- table: ") >= 1
    assert fill_tables(ROOT / "README.md", check=True)


def test_the_record_of_the_embedded_model_is_of_what_is_in_the_package() -> None:
    from hf_fer.evaluation import read_record
    from hf_fer.evaluation.systems import digest_of

    record = read_record(ROOT / "leaderboard" / "records" / "default.json")
    assert record["revision"] == digest_of(ASSETS)
    assert f"{record['n']:,} images" in README
    reported = json.loads((ASSETS / "report.json").read_text())["selected"]
    for factor, figures in reported["resolutions"].items():
        # Another version of torch may tip an image over.
        assert record["resolutions"][factor]["accuracy"] == pytest.approx(figures["accuracy"], abs=2e-3)


def test_the_leaderboard_is_that_of_its_records(tmp_path: Path) -> None:
    from hf_fer.evaluation import write_leaderboard

    shutil.copytree(ROOT / "leaderboard" / "records", tmp_path / "records")
    for file in write_leaderboard(tmp_path / "records", tmp_path):
        committed = ROOT / "leaderboard" / file.name
        assert committed.is_file(), f"{file.name} is missing: run `hf-fer leaderboard build` as the README says"
        if file.suffix != ".png":  # another version of matplotlib draws other pixels
            assert file.read_bytes() == committed.read_bytes(), file.name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
