"""`hf-fer push`, `push-metric`, `push-space` and `card`: from folders on this machine to repositories on the Hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_options import add_output, refuse_overwrite

if TYPE_CHECKING:
    from .hub.push import Plan

COMMANDS = ("push", "push-metric", "push-space", "card")


def run(options: argparse.Namespace) -> int:
    """Runs one of `COMMANDS`; returns the exit code.

    Raises:
        FerError: anything that the user can put right.
    """
    return _card(options) if options.command == "card" else _push(options)


def print_plan(plan: Plan) -> None:
    """What a push is about to do, file by file where something happens."""
    new = " (new)" if plan.new else ""
    print(
        f"{plan.url}{new}: {len(plan.upload)} to upload, {len(plan.delete)} to delete, {len(plan.same)} there already"
    )
    for name in (*plan.upload, *plan.delete):
        sign = "-" if name in plan.delete else "~" if name in plan.replace else "+"
        print(f"  {sign} {_shown(name)}{' (replaced)' * (sign == '~')}")
    if plan.foreign:
        print(f"not as an earlier push left them, and kept: {_listed(plan.foreign)}")
    if plan.keeps_card:
        print("the card there was edited, and is kept")
    if plan.left_out:
        print(f"not pushed: {_listed(plan.left_out)}")
    sys.stdout.flush()


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _listed(names: tuple[str, ...], limit: int = 10) -> str:
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(map(_shown, names[:limit])) + more


def _push(options: argparse.Namespace) -> int:
    from .hub import push

    names = ("private", "revision", "create_pr", "keep_card", "overwrite_card", "overwrite", "message", "dry_run")
    chosen = {name: getattr(options, name) for name in names}
    chosen["show"] = print_plan
    if options.command == "push":
        url = push.push_release(options.folder, options.repo, **chosen)
    elif options.command == "push-space":
        url = push.push_space(options.folder, options.repo, **chosen)
    else:
        url = push.push_metric(options.name, options.repo, **chosen)
    print(f"would be pushed to: {url}" if options.dry_run else f"pushed: {url}")
    return 0


def _card(options: argparse.Namespace) -> int:
    from .hub.card import build_card, write_card

    if options.output is None:
        print(build_card(options.folder, options.repo), end="")
        return 0
    refuse_overwrite(options.output, options.force)
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    print(f"written: {write_card(options.folder, options.repo, options.output)}")
    return 0


# --- arguments --------------------------------------------------------------------------------------------


def add_parsers(commands: Any) -> None:
    """Adds the commands to the subparsers of `hf-fer`."""
    push = commands.add_parser(
        "push",
        help="push a model to the Hub",
        description="Push a model to a repository on the Hub, in one commit: weights, configuration, processor, code,"
        " card, report and plots, and nothing else that lies in FOLDER. What is there already is not sent again. The"
        " token is that of `hf auth login` or HF_TOKEN.",
    )
    push.add_argument("folder", metavar="FOLDER", help="a run folder, or one that save_pretrained wrote, or a release")
    _add_push(push)

    metric = commands.add_parser(
        "push-metric",
        help="push a metric to the Hub",
        description="Push an evaluate module of hf-fer as a Space, for `evaluate.load(REPO)`.",
    )
    metric.add_argument("name", metavar="NAME", help="such as fer_metrics")
    _add_push(metric)

    space = commands.add_parser(
        "push-space",
        help="push a Gradio app to the Hub",
        description="Push the folder of a Gradio app as a Space.",
    )
    space.add_argument("folder", metavar="FOLDER", help="with app.py, and README.md whose metadata say sdk: gradio")
    _add_push(space)

    card = commands.add_parser(
        "card", help="write the card of a model", description="Print the card of a model, or write it to a file."
    )
    card.add_argument("folder", metavar="FOLDER", help="a run folder, or one that save_pretrained wrote")
    card.add_argument("--repo", metavar="OWNER/NAME", help="the repository it is for; default: the folder's name")
    add_output(card)


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help="owner/name; made, in private, where there is none")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--private", action="store_true", default=None, help="push to a private repository only")
    who.add_argument("--public", action="store_false", dest="private", default=None, help="make a new one in public")
    parser.add_argument("--revision", metavar="R", help="push to this branch; default: main")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    card = parser.add_mutually_exclusive_group()
    card.add_argument("--keep-card", action="store_true", help="keep a card there that somebody wrote or edited")
    card.add_argument("--overwrite-card", action="store_true", help="replace it")
    parser.add_argument("--overwrite", action="store_true", help="replace other files that somebody brought or edited")
    parser.add_argument("--message", metavar="T", help="of the commit")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded and deleted")
