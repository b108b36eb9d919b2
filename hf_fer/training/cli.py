"""The command line of training: what every `recipes/train_<method>.py` and `hf-fer train` run."""

from __future__ import annotations

import argparse
import sys

from ..errors import FerError
from .stop import Stopped


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

        run_recipe(model_class(method), load_recipe(config_class(method), arguments.config, flags))
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
