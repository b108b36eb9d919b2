"""From a recipe to a run folder that is ready to push: data, model, training, reports, export."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import FerError
from ..labels import id2label, label2id
from .batches import IMAGE_MEAN, IMAGE_STD, FaceImages
from .checkpoints import first_line, list_checkpoints
from .export import build_processor, save_release
from .loop import epoch_batches, fit
from .monitor import Progress
from .recipe import Recipe
from .splits import Splits, load_splits

# What may differ between a run and its continuation without changing a weight.
_FREE_ON_RESUME = {
    "num_workers", "in_memory", "log_every", "tracker", "eval_batch_size", "keep_checkpoints", "checkpoint_every",
    "half_precision_export", "diagnose",
}  # fmt: skip
_BEST = "best.safetensors"
_DIAGNOSED = 5000  # test images that a method's own figures and the embeddings' scores are computed on, at most
_MEMORY = 4 * 2**30  # bytes of decoded images a split may take before it is decoded at every visit instead


def run_recipe(model_class: type, recipe: Recipe, finish: Callable[[Path], None] | None = None) -> Path:
    """Runs a recipe to its end and returns the run folder.

    The folder then holds the selected model with its processor, `recipe.yaml`, `metrics.jsonl`, `report.json`, the
    plots and the tracker's logs; the checkpoints to resume from are gone.

    Args:
        model_class: one of the package's `...ForImageClassification`.
        recipe: see `load_recipe`.
        finish: called with the finished run folder, by the main process alone.

    Raises:
        FerError: anything wrong with recipe, data, weights or run folder, a full disk, a loss that is not finite.
        Stopped: on SIGTERM, once a checkpoint is written.
    """
    try:
        folder, is_main = _run(model_class, recipe)
    except (OSError, SafetensorError) as error:
        raise FerError(
            f"The run stops at a file that cannot be read or written ({first_line(error)}); make room or choose "
            f"another output_dir. What is in {recipe.output_dir} stays; from a checkpoint there, --resume goes on."
        ) from error
    if is_main and finish is not None:
        finish(folder)
    return folder


def _run(model_class: type, recipe: Recipe) -> tuple[Path, bool]:
    """The run folder, and whether this is the main process."""
    folder = Path(recipe.output_dir)
    _check_folder(folder, recipe)
    accelerator = _start_accelerator(recipe, folder)
    world = accelerator.num_processes
    with accelerator.main_process_first():  # one process fills the datasets cache, the others read it
        splits = load_splits(recipe, validation_images=world)
    torch.manual_seed(recipe.seed)
    try:
        config = _build_config(model_class.config_class, recipe, splits)
        model = model_class(config)
        if recipe.activation_checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        weights = _load_weights(model, recipe, accelerator)
    except ValueError as error:
        raise FerError(str(error)) from error
    size, resize_size = config.image_size, recipe.resize_size
    if resize_size is not None and resize_size < size:
        raise FerError(f"Recipe key resize_size must be at least image_size ({size}), got {resize_size}.")
    mean, std = _normalization(recipe, weights, grayscale=getattr(config, "grayscale", False))
    channels = 1 if getattr(config, "grayscale", False) else 3

    def images(data: Any, targets: Tensor, crop: bool) -> FaceImages:
        side = size if crop or resize_size is None else resize_size
        in_memory = recipe.in_memory
        if in_memory is None:
            here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # every process of a machine holds its own copy
            in_memory = len(data) * channels * side**2 <= _MEMORY / here
        progress = accelerator.is_local_main_process
        return FaceImages(data, targets, size, channels, in_memory, progress, resize_size, crop)

    train = images(splits.train, _soft_targets(splits.train, recipe) if recipe.soft_targets else splits.labels, False)
    validation = images(splits.validation, torch.tensor(splits.validation["label"][:]), True)
    # Only now: a recipe that fails before leaves no folder behind that would be in the corrected one's way.
    epoch_batches(train.labels, splits.groups, recipe, world_size=world)  # raises if there are too few images
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
        groups=splits.groups,
        mean=_per_channel(mean, accelerator.device),
        std=_per_channel(std, accelerator.device),
    )
    if accelerator.is_main_process:
        processor = build_processor(size, resize_size, mean, std)
        started_from = {name: report.source for name, report in weights.items()}
        _finish(model, processor, recipe, progress, history, splits, started_from, accelerator, folder)
    is_main = accelerator.is_main_process
    accelerator.wait_for_everyone()
    accelerator.end_training()  # closes the tracker and the process group: no process waits for another one after it
    return folder, is_main


def _start_accelerator(recipe: Recipe, folder: Path) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration

    try:
        accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            gradient_accumulation_steps=recipe.gradient_accumulation,
            log_with=None if recipe.tracker == "none" else recipe.tracker,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
            kwargs_handlers=[
                # The first process prepares the data and tests the model while the others wait.
                InitProcessGroupKwargs(timeout=timedelta(hours=6)),
                # The first process' batch-norm statistics are those that count (`validate` hands them round), and a
                # step does not use them: sending them round at every one is time lost.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
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
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes < launched:  # each would take itself for the only one
        raise FerError(
            f"The launcher started {launched} processes, but Accelerate sees {accelerator.num_processes}; to train in "
            "several processes without GPUs, set ACCELERATE_USE_CPU=true."
        )
    if accelerator.device.type == "cpu":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(recipe.cpu_threads or max(1, cores // here))
    return accelerator


def _check_folder(folder: Path, recipe: Recipe) -> None:
    import yaml

    if not recipe.resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FerError(f"Output folder {folder} is not empty; choose a new output_dir, or --resume to go on there.")
        return
    if (folder / "report.json").is_file() and not (folder / _BEST).is_file():
        raise FerError(
            f"The run in {folder} is finished; there is nothing to resume, and `{recipe.push_command()}` pushes it."
        )
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


def _build_config(config_class: type, recipe: Recipe, splits: Splits) -> Any:
    names = splits.names
    values = {
        "id2label": id2label(names),
        "label2id": label2id(names),
        **recipe.model,
    }
    fields = config_class.method_fields()
    if "class_counts" in fields and values.get("class_counts") is None:
        counts = torch.bincount(splits.labels, minlength=len(names))
        absent = ", ".join(name for name, count in zip(names, counts.tolist(), strict=True) if count == 0)
        if absent:
            print(f"warning: no training image of {absent}; class weights count each as one image", file=sys.stderr)
        values["class_counts"] = counts.clamp(min=1).tolist()
    if "label_prior" in fields and values.get("label_prior") is None and values.get("prior_alpha") != 1:
        values["label_prior"] = _label_prior(splits.train, names, recipe).tolist()
    if "landmark_weights" in fields:
        values["landmark_weights"] = None  # what it names is loaded once the model is made
    return config_class(**values)


def _load_weights(model: Any, recipe: Recipe, accelerator: Any) -> dict[str, Any]:
    """Loads what the recipe wants to start from; reports by the name of the key."""
    reports = {}
    if recipe.backbone_weights is not None:
        reports["backbone_weights"] = model.load_backbone_weights(recipe.backbone_weights)
    if recipe.model.get("landmark_weights") is not None:
        reports["landmark_weights"] = model.load_landmark_weights(recipe.model["landmark_weights"])
    for report in reports.values():
        accelerator.print(report)
    return reports


def _normalization(recipe: Recipe, weights: dict[str, Any], grayscale: bool) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel: the recipe's, else the backbone weights', else ours."""
    report = weights.get("backbone_weights")
    mean = recipe.image_mean or getattr(report, "image_mean", None) or (IMAGE_MEAN,) * 3
    std = recipe.image_std or getattr(report, "image_std", None) or (IMAGE_STD,) * 3
    if grayscale and (len({*mean}) > 1 or len({*std}) > 1):
        raise FerError(
            "With grayscale: true the three channels must be normalised alike; set image_mean and image_std to one "
            "number three times each."
        )
    return [*mean], [*std]


def _per_channel(values: list[float], device: torch.device) -> float | Tensor:
    """A number where the channels are alike, else (1, 3, 1, 1)."""
    return values[0] if len({*values}) == 1 else torch.tensor(values, device=device).view(1, 3, 1, 1)


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
    processor: Any,
    recipe: Recipe,
    progress: Progress,
    history: list[dict[str, Any]],
    splits: Splits,
    started_from: dict[str, str],
    accelerator: Any,
    folder: Path,
) -> None:
    """Reports the last and the selected epoch on the test split, and writes everything there is to push."""
    from safetensors.torch import load_file

    from ..evaluation.protocols import evaluate_model
    from ..evaluation.splits import effective_options

    def part(name: str, share: float) -> str:
        return f"{recipe.train_split} split ({share:g} of it, held out)" if share else f"{name} split"

    def record(model: Any) -> dict[str, Any]:
        return evaluate_model(
            model,
            splits.test,
            split=f"{recipe.train_split} (held out)" if recipe.test_share else recipe.test_split,
            resolutions=recipe.eval_resolutions,
            reference_side=recipe.eval_reference_side,
            options=effective_options(recipe.dataset, recipe.dataset_options),
            batch_size=recipe.eval_batch_size,
            device=accelerator.device,
            processor=processor,
            model_name=folder.name,
            dataset_name=recipe.public_dataset,
        )

    last = record(model)
    model.load_state_dict(load_file(folder / _BEST))
    save_release(model, processor, folder, half_precision=recipe.half_precision_export)
    model = type(model).from_pretrained(folder)  # what was saved is what is reported
    selected = record(model)
    for which, epoch in ((last, progress.epoch), (selected, progress.best_epoch)):
        which["seed"], which["epoch"] = recipe.seed, epoch
    report = {
        "selected": selected,
        "last": last,
        "selected_by": f"{recipe.select_by} on the {part(recipe.validation_split, recipe.validation_share)}",
        "validation": history[progress.best_epoch - 1],
        "data": splits.described,
        "started_from": started_from,
        "num_processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,  # the launcher's, where the recipe leaves it to it
        "train_seconds": round(sum(row["seconds"] for row in history)),
    }
    if recipe.diagnose:
        report |= _diagnose(model, processor, recipe, splits, accelerator, folder)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _plot(history, selected, folder)
    for done_with in (folder / _BEST, *folder.glob(".writing-*")):  # the latter: cut short by a kill
        done_with.unlink()
    shutil.rmtree(folder / "checkpoints")  # a finished run is not resumed, and what is pushed holds no pickles
    headline = selected["resolutions"]["1"]
    print(f"{'':<12}{'precision':>10}{'recall':>10}{'f1':>10}{'images':>10}")
    for name, row in headline["per_class"].items():
        print(f"{name:<12}{row['precision']:>10.4f}{row['recall']:>10.4f}{row['f1']:>10.4f}{row['support']:>10}")
    print(
        f"Epoch {progress.best_epoch} selected on validation; {recipe.test_split} accuracy {headline['accuracy']:.4f}, "
        f"mean class accuracy {headline['mean_class_accuracy']:.4f} (n = {selected['n']}). Everything is in {folder}."
    )


def _diagnose(
    model: Any, processor: Any, recipe: Recipe, splits: Splits, accelerator: Any, folder: Path
) -> dict[str, Any]:
    """The method's own figures and the embeddings' scores on (at most `_DIAGNOSED` of) the test split, with plots."""
    from ..evaluation.diagnostics import collect_diagnostics, summarize
    from ..evaluation.embeddings import cluster_scores, stratified_rows, tsne
    from ..evaluation.plots import plot_diagnostics, plot_tsne

    test = splits.test
    if len(test) > _DIAGNOSED:
        test = test.select(stratified_rows(test["label"][:], _DIAGNOSED))
    found = collect_diagnostics(
        model, processor, test, batch_size=recipe.eval_batch_size, device=accelerator.device,
        dataset_name=recipe.dataset, split=recipe.test_split,
    )  # fmt: skip
    figures, scores = summarize(found), cluster_scores(found["embeddings"], found["labels"])
    if figures["figures"]:
        plot_diagnostics(figures, folder / "diagnostics.png")
    try:
        points, rows = tsne(found["embeddings"], found["labels"])
    except FerError as error:  # too few images, or all alike: no reason to lose a run
        print(f"no map of the embeddings: {error}", file=sys.stderr)
    else:
        marked = found["figures"]["tau"][rows] == 0 if "tau" in found["figures"] else None
        plot_tsne(
            points, found["labels"][rows], found["classes"], folder / "embeddings.png", scores=scores, marked=marked
        )
    return {"diagnostics": figures, "embeddings": scores}


def _plot(history: list, record: dict[str, Any], folder: Path) -> None:
    from ..evaluation.plots import (
        plot_confusion_matrix,
        plot_curves,
        plot_resolution_curve,
        plot_training_scalars,
    )

    plot_curves(history, folder / "curves.png")
    if len([name for name in history[-1] if name.startswith("train_")]) > 1:
        plot_training_scalars(history, folder / "losses.png")
    first = record["resolutions"]["1"]
    plot_confusion_matrix(first["confusion_matrix"], list(first["per_class"]), folder / "confusion_matrix.png", "Test")
    if len(record["resolutions"]) > 1:
        plot_resolution_curve(record, folder / "resolution_curve.png")


def _flat(recipe: Recipe) -> dict[str, Any]:
    """The recipe as trackers take it, without the paths and secrets that `to_yaml` leaves out too."""
    import yaml

    values = yaml.safe_load(recipe.to_yaml())
    return {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in values.items()}
