"""From a recipe to a run folder that is ready to push: data, model, training, reports, export."""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import load_fer_dataset
from ..errors import FerError
from ..labels import id2label, label2id
from .batches import EpochBatches, FaceImages
from .checkpoints import list_checkpoints
from .export import build_processor, save_release
from .loop import Progress, fit
from .recipe import Recipe

# What may differ between a run and its continuation without changing a weight.
_FREE_ON_RESUME = {
    "num_workers", "in_memory", "log_every", "tracker", "eval_batch_size", "keep_checkpoints", "checkpoint_every",
    "half_precision_export",
}  # fmt: skip
_BEST = "best.safetensors"
_MEMORY = 4 * 2**30  # bytes of decoded images a split may take before it is decoded at every visit instead


def run_recipe(model_class: type, recipe: Recipe) -> Path:
    """Runs a recipe to its end and returns the run folder.

    The folder then holds the selected model with its processor and card, `recipe.yaml`, `metrics.jsonl`,
    `report.json`, the plots and the tracker's logs; the checkpoints to resume from are gone.

    Args:
        model_class: one of the package's `...ForImageClassification`.
        recipe: see `load_recipe`.

    Raises:
        FerError: anything wrong with recipe, data or run folder.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

    folder = Path(recipe.output_dir)
    _check_folder(folder, recipe)
    try:
        accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            gradient_accumulation_steps=recipe.gradient_accumulation,
            log_with=None if recipe.tracker == "none" else recipe.tracker,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
            # The first process prepares the data and tests the model while the others wait.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
        )
    except ValueError as error:  # an unknown tracker, fp16 without a GPU
        raise FerError(f"Accelerate cannot run this recipe: {error}") from error
    if recipe.tracker != "none" and not accelerator.log_with:
        raise FerError(f"Tracker {recipe.tracker} is not installed; install it, or choose another (or none).")
    if accelerator.gradient_accumulation_steps != recipe.gradient_accumulation:
        raise FerError(
            f"The launcher sets gradient accumulation to {accelerator.gradient_accumulation_steps}, the recipe to "
            f"{recipe.gradient_accumulation}; set it in the recipe alone."
        )
    if accelerator.device.type == "cpu":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(recipe.cpu_threads or max(1, cores // here))
    with accelerator.main_process_first():  # one process fills the datasets cache, the others read it
        splits = load_fer_dataset(recipe.dataset, recipe.data_root, **recipe.dataset_options)
    world = accelerator.num_processes
    for name, least in ((recipe.train_split, 1), (recipe.validation_split, world), (recipe.test_split, 1)):
        if name not in splits:
            raise FerError(f"Dataset {recipe.dataset} has no split {name!r}; it has {', '.join(splits)}.")
        if len(splits[name]) < least:
            raise FerError(f"Split {name!r} of {recipe.dataset} has {len(splits[name])} images; it needs {least}.")
    torch.manual_seed(recipe.seed)
    try:
        config = _build_config(model_class.config_class, recipe, splits[recipe.train_split])
        model = model_class(config)
    except ValueError as error:
        raise FerError(str(error)) from error
    channels = 1 if getattr(config, "grayscale", False) else 3

    def images(split: str, soft: bool) -> FaceImages:
        data = splits[split]
        targets = _soft_targets(data, recipe) if soft else torch.tensor(data["label"][:])
        in_memory = recipe.in_memory
        if in_memory is None:
            in_memory = len(data) * channels * config.image_size**2 <= _MEMORY
        return FaceImages(
            data, targets, config.image_size, channels, in_memory, progress=accelerator.is_local_main_process
        )

    train, validation = images(recipe.train_split, recipe.soft_targets), images(recipe.validation_split, False)
    EpochBatches(  # raises if there are too few images
        train.labels, recipe.batch_size, recipe.seed, 0, world_size=world, multiple_of=recipe.gradient_accumulation
    )
    # Only now: a recipe that fails before leaves no folder behind that would be in the corrected one's way.
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    if recipe.tracker != "none":
        accelerator.init_trackers("hf_fer", config=_flat(recipe))
    model, progress, history = fit(
        model,
        recipe,
        train,
        validation,
        accelerator,
        folder,
        on_best=lambda best: _save_weights(best, folder / _BEST),
    )
    if accelerator.is_main_process:
        _finish(model, recipe, progress, history, splits[recipe.test_split], accelerator, folder)
    accelerator.wait_for_everyone()
    accelerator.end_training()  # closes the tracker and the process group, so nothing may come after it
    return folder


def _check_folder(folder: Path, recipe: Recipe) -> None:
    import yaml

    if not recipe.resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FerError(f"Output folder {folder} is not empty; choose a new output_dir, or --resume to go on there.")
        return
    if (folder / "report.json").is_file() and not (folder / _BEST).is_file():
        raise FerError(f"The run in {folder} is finished; there is nothing to resume.")
    if not list_checkpoints(folder / "checkpoints"):
        raise FerError(f"Nothing to resume: {folder} holds no whole checkpoint; start anew in another output_dir.")
    try:
        before = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise FerError(f"Cannot resume: {folder / 'recipe.yaml'} cannot be read ({error}).") from error
    now = yaml.safe_load(recipe.to_yaml())
    changed = sorted(k for k in {*before, *now} - _FREE_ON_RESUME if before.get(k) != now.get(k))
    if changed:
        raise FerError(
            f"Cannot resume {folder} with another recipe: {', '.join(changed)} changed; "
            "resume with the run's own recipe.yaml, or start a new output_dir."
        )


def _build_config(config_class: type, recipe: Recipe, train: Any) -> Any:
    names = train.features["label"].names
    values = {
        "id2label": id2label(names),
        "label2id": label2id(names),
        **recipe.model,
    }
    fields = config_class.method_fields()
    if "class_counts" in fields and values.get("class_counts") is None:
        counts = torch.bincount(torch.tensor(train["label"][:]), minlength=len(names))
        absent = ", ".join(name for name, count in zip(names, counts.tolist(), strict=True) if count == 0)
        if absent:
            print(f"warning: no training image of {absent}; class weights count each as one image", file=sys.stderr)
        values["class_counts"] = counts.clamp(min=1).tolist()
    if "label_prior" in fields and values.get("label_prior") is None and values.get("prior_alpha") != 1:
        values["label_prior"] = _label_prior(train, names, recipe).tolist()
    return config_class(**values)


def _label_prior(train: Any, names: list[str], recipe: Recipe) -> Tensor:
    """(K, K), of the training images' own votes where they have some, else FERPlus'."""
    from ..data.label_prior import ferplus_label_prior
    from ..models.losses import prior_label_distribution

    if {"votes", "label_distribution"} & {*train.column_names}:
        return prior_label_distribution(_soft_targets(train, recipe), torch.tensor(train["label"][:]))
    print("The data have no votes: F-PDLS takes its label prior from FERPlus.", file=sys.stderr)
    return ferplus_label_prior(names)


def _soft_targets(data: Any, recipe: Recipe) -> Tensor:
    """(N, K) float32, from the column `label_distribution` or from the votes."""
    from ..data.ferplus import votes_to_distribution

    if "label_distribution" in data.column_names:
        return torch.tensor(data["label_distribution"][:], dtype=torch.float32)
    if "votes" in data.column_names:
        votes = data.with_format("numpy")["votes"][:]
        return torch.from_numpy(votes_to_distribution(votes, len(data.features["label"].names)))
    raise FerError(f"soft_targets needs votes, and dataset {recipe.dataset} has none; set soft_targets: false.")


def _save_weights(model: torch.nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    temporary = path.with_name(f".writing-{path.name}")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    temporary.replace(path)


def _finish(
    model: Any,
    recipe: Recipe,
    progress: Progress,
    history: list[dict[str, Any]],
    test: Any,
    accelerator: Any,
    folder: Path,
) -> None:
    """Reports the last and the selected epoch on the test split, and writes everything there is to push."""
    from safetensors.torch import load_file

    from ..evaluation.protocols import evaluate_model

    processor = build_processor(model.config.image_size)

    def record(model: Any) -> dict[str, Any]:
        return evaluate_model(
            model,
            test,
            split=recipe.test_split,
            resolutions=recipe.eval_resolutions,
            options=recipe.dataset_options,
            batch_size=recipe.eval_batch_size,
            device=accelerator.device,
            processor=processor,
            model_name=folder.name,
            dataset_name=recipe.dataset,
        )

    last = record(model)
    model.load_state_dict(load_file(folder / _BEST))
    save_release(model, processor, folder, half_precision=recipe.half_precision_export)
    selected = record(type(model).from_pretrained(folder))  # what was saved is what is reported
    for which, epoch in ((last, recipe.epochs), (selected, progress.best_epoch)):
        which["seed"], which["epoch"] = recipe.seed, epoch
    report = {
        "selected": selected,
        "last": last,
        "selected_by": f"{recipe.select_by} on the {recipe.validation_split} split",
        "validation": history[progress.best_epoch - 1],
        "num_processes": accelerator.num_processes,
        "train_seconds": round(sum(row["seconds"] for row in history)),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _plot(history, selected, folder)
    from ..hub.card import write_card

    write_card(folder)
    for done_with in (folder / _BEST, *folder.glob(".writing-*")):  # the latter: cut short by a kill
        done_with.unlink()
    shutil.rmtree(folder / "checkpoints")  # a finished run is not resumed, and what is pushed holds no pickles
    headline = selected["resolutions"]["1"]
    print(
        f"Epoch {progress.best_epoch} selected on validation; {recipe.test_split} accuracy {headline['accuracy']:.4f}, "
        f"mean class accuracy {headline['mean_class_accuracy']:.4f} (n = {selected['n']}). Everything is in {folder}."
    )


def _plot(history: list, record: dict[str, Any], folder: Path) -> None:
    from ..evaluation.plots import plot_confusion_matrix, plot_curves, plot_resolution_curve

    plot_curves(history, folder / "curves.png")
    first = record["resolutions"]["1"]
    plot_confusion_matrix(first["confusion_matrix"], list(first["per_class"]), folder / "confusion_matrix.png", "Test")
    if len(record["resolutions"]) > 1:
        plot_resolution_curve(record, folder / "resolution_curve.png")


def _flat(recipe: Recipe) -> dict[str, Any]:
    """The recipe as trackers take it, without the paths and secrets that `to_yaml` leaves out too."""
    import yaml

    values = yaml.safe_load(recipe.to_yaml())
    return {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in values.items()}
