"""The model card of a run: prose from `card_template.md`, every figure from the run's own `report.json`."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from ..checkpoints.loading import embedded_name
from ..errors import FerError
from ..evaluation.markdown import one_line, shorten
from .card_metadata import card_metadata
from .card_text import card_text
from .code import code_hashes
from .run_files import read_run_files

TEMPLATE = Path(__file__).with_name("card_template.md")
PLOTS = {
    "curves.png": "Training and validation curves",
    "confusion_matrix.png": "Confusion matrix on the test split",
    "resolution_curve.png": "Accuracy against resolution",
    "diagnostics.png": "The method's own figures on the test split, by class",
    "embeddings.png": "Embeddings of the test split (t-SNE)",
    "losses.png": "The loss's parts during training",
}


def write_card(run_or_report: str | Path, repo_id: str | None = None, output: str | Path | None = None) -> Path:
    """Writes the card, replacing one that is there, and returns its path.

    Args:
        run_or_report, repo_id: see `build_card`.
        output: the file; default: `README.md` of the folder. In another folder it links to the pictures where they are.

    Raises:
        FerError: see `build_card`; or the file cannot be written.
    """
    folder = read_run_files(run_or_report).folder
    path = folder / "README.md" if output is None else Path(output)
    pictures = ""
    try:
        if path.resolve().parent != folder.resolve():
            pictures = Path(os.path.relpath(folder.resolve(), path.resolve().parent)).as_posix() + "/"
        text = build_card(run_or_report, repo_id, pictures=pictures)
        temporary = path.with_name(f".writing-{path.name}")
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            return temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FerError(f"The card {path} cannot be written ({error}); choose another place, or make room.") from error


def build_card(run_or_report: str | Path, repo_id: str | None = None, *, pictures: str = "") -> str:
    """The card, metadata block and Markdown, of a run or of a model that came without one.

    Args:
        run_or_report: a run folder with `config.json`, `recipe.yaml`, `report.json` and perhaps `PLOTS`; or the path
            of the report in it; or a `save_pretrained` folder of one of our models, whose card then says that nothing
            is known of its training, and gives no figure.
        repo_id: where the folder will be pushed (`owner/name`), for the usage example; default: its name.
        pictures: what to put before the pictures' file names, such as `../hf_fer/assets/`.

    Raises:
        FerError: a file is missing or damaged, or a figure that the card shows is not in the report.
    """
    from huggingface_hub import ModelCard

    run = read_run_files(run_or_report)
    folder = run.folder
    inside = embedded_name(folder)
    title = one_line(repo_id or (f"hf-fer-{inside}" if inside else folder.resolve().name))
    try:
        context = card_text(title, run, code_hashes(folder))
        plots = {file: text for file, text in PLOTS.items() if run.report and (folder / file).is_file()}
        context["plots"] = [(f"{quote(pictures)}{file}", text) for file, text in plots.items()]
        card = ModelCard.from_template(card_metadata(title, run), template_path=str(TEMPLATE), **context)
    except FerError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has an unexpected form ({shorten(error, 200)})"
        raise FerError(
            f"No card can be written for {folder}: its report.json, recipe.yaml or config.json {what}; "
            "use the files of a finished training run."
        ) from error
    return f"{card}\n"
