"""The command line of training: what every `recipes/train_<method>.py` and `hf-fer train` run."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FerError
from .stop import Stopped

if TYPE_CHECKING:
    from .recipe import Recipe


def main(method: str, argv: list[str] | None = None) -> int:
    """Trains `method` from `--config FILE [--key value]…`; returns the exit status.

    0: done; 2: the user's turn, one sentence says why; 130: interrupted; 143: stopped by SIGTERM, with a checkpoint.
    """
    parser = argparse.ArgumentParser(
        description=f"Train {method}. Every key of the YAML file is a flag of the same name.",
        epilog="Keys are documented in hf_fer.training.recipe.Recipe and in the method's configuration.",
    )
    parser.add_argument("--config", help="recipe file; flags override its values")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments, flags = parser.parse_known_args(argv)
    try:
        from .._auto import config_class, model_class
        from .recipe import load_recipe
        from .run import run_recipe

        recipe = load_recipe(config_class(method), arguments.config, flags)
        run_recipe(model_class(method), recipe, _finisher(recipe))
    except FerError as error:
        if arguments.debug:
            raise
        print(f"train_{method}: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"train_{method}: {stopped}.", file=sys.stderr)
        return 143
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or "interrupted; --resume goes on from the last checkpoint"
        print(f"train_{method}: {said}.", file=sys.stderr)
        return 130
    return 0


def _finisher(recipe: Recipe) -> Callable[[Path], None]:
    """What writes the card of a finished run, and pushes the run where the recipe says so.

    Raises:
        FerError: it says so, and the Hub could not be pushed to: now rather than after the training.
    """
    repo = recipe.push
    if repo is not None and int(os.environ.get("RANK") or 0) == 0:
        from ..hub.push import check_access

        repo = check_access(repo, private=recipe.push_private)

    def finish(folder: Path) -> None:
        from ..hub.card import write_card
        from ..hub.push import push_release

        if repo is not None:
            left, way_out = "not pushed", f"`{recipe.push_command()}` pushes it"
        else:
            command = shlex.join(["hf-fer", "card", str(folder), "--output", str(folder / "README.md")])
            left, way_out = "has no card yet", f"`{command}` writes it"
        try:
            write_card(folder, repo)
            if repo is not None:
                print(f"pushed: {push_release(folder, repo, private=recipe.push_private)}", flush=True)
        except (FerError, OSError) as error:
            raise FerError(
                f"The run is finished, but {left}: {str(error).rstrip('.')}. When that is put right, {way_out}."
            ) from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; the run is finished, but {left}: {way_out}") from None

    return finish
