"""The command line of training: what every `recipes/train_<method>.py` and `hf-fer train` run."""

from __future__ import annotations

import argparse
import os
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
    except KeyboardInterrupt:
        print(f"train_{method}: interrupted; --resume goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def _finisher(recipe: Recipe) -> Callable[[Path], None]:
    """What writes the card of a finished run, and pushes the run where the recipe says so.

    Raises:
        FerError: it says so, and the Hub could not be pushed to: now rather than after the training.
    """
    if recipe.push is not None and int(os.environ.get("RANK") or 0) == 0:
        from ..hub.push import check_access

        check_access(recipe.push, private=recipe.push_private)

    def finish(folder: Path) -> None:
        from ..hub.card import write_card

        try:
            write_card(folder, recipe.push)
        except FerError as error:
            raise FerError(f"The run in {folder} is finished, but has no card yet: {error}") from error
        if recipe.push is None:
            return
        from ..hub.push import push_release

        try:
            url = push_release(folder, recipe.push, private=recipe.push_private)
        except FerError as error:
            public = "" if recipe.push_private else " --public"
            raise FerError(
                f"The run is finished, but not pushed: {error} Nothing of it is lost: "
                f"`hf-fer push {folder} {recipe.push}{public}` pushes it."
            ) from error
        print(f"pushed: {url}", flush=True)

    return finish
