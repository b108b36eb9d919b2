"""The model card of a run: prose from `card_template.md`, every figure from the run's own `report.json`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._auto import METHODS, config_class
from ..errors import FerError
from ..evaluation.markdown import NONE, TIMES, code, escape, fenced, figure, finite, interval, one_line, percent, table

TEMPLATE = Path(__file__).with_name("card_template.md")
PLOTS = {
    "curves.png": "Training and validation curves",
    "confusion_matrix.png": "Confusion matrix on the test split",
    "resolution_curve.png": "Accuracy against resolution",
    "diagnostics.png": "The method's own figures on the test split, by class",
    "embeddings.png": "Embeddings of the test split (t-SNE)",
    "losses.png": "The loss's parts during training",
}
#: Classes with fewer test images than this are named as uncertain.
FEW_IMAGES = 100

_DATASET_TITLES = {"ferplus": "FERPlus", "synthetic": "synthetic (drawn faces)"}
_HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
_ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]")
_WEIGHT_SUFFIXES = {".pth", ".pt", ".pkl", ".bin", ".tar", ".safetensors"}
_SECRET_KEYS = {"token", "cache_dir"}


def write_card(folder: Path, repo_id: str | None = None) -> Path:
    """Writes `README.md` of a run folder, replacing one that is there, and returns its path.

    Args:
        folder, repo_id: see `build_card`.

    Raises:
        FerError: see `build_card`.
    """
    path = Path(folder) / "README.md"
    temporary = path.with_name(".writing-README.md")
    temporary.write_text(build_card(folder, repo_id), encoding="utf-8", newline="\n")
    return temporary.replace(path)


def build_card(folder: Path, repo_id: str | None = None) -> str:
    """The card, metadata block and Markdown, of a run.

    Args:
        folder: a run folder with `config.json`, `recipe.yaml`, `report.json` and perhaps `PLOTS`.
        repo_id: where the folder will be pushed (`owner/name`), for the usage example; default: its name.

    Raises:
        FerError: a file is missing or damaged, or a figure that the card shows is not in the report.
    """
    from huggingface_hub import ModelCard

    folder = Path(folder)
    config = _with_defaults(_read_json(folder / "config.json"))
    report = _read_json(folder / "report.json")
    recipe = _read_recipe(folder / "recipe.yaml")
    title = one_line(repo_id or folder.resolve().name)
    try:
        card = ModelCard.from_template(
            _metadata(title, config, recipe, report["selected"]),
            template_path=str(TEMPLATE),
            **_context(title, folder, config, recipe, report),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has an unexpected form ({error})"
        raise FerError(
            f"No card can be written for {folder}: its report.json, recipe.yaml or config.json {what}; "
            "use the files of a finished training run."
        ) from error
    return str(card)


# --- metadata -----------------------------------------------------------------------------------


def _metadata(title: str, config: dict[str, Any], recipe: dict[str, Any], record: dict[str, Any]) -> Any:
    """`ModelCardData` with two results for each resolution factor."""
    from huggingface_hub import EvalResult, ModelCardData

    name, hub_id = _dataset(recipe)
    options = {key: record["options"].get(key) for key in ("label_rule", "classes")}
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Facial expression recognition",
            dataset_type=hub_id or re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII),
            dataset_name=_DATASET_TITLES.get(name, name),
            dataset_split=record["split"],
            dataset_args={key: value for key, value in options.items() if value is not None} or None,
            metric_type=metric,
            metric_name=f"{metric.replace('_', ' ').capitalize()} at 1/{factor} of the resolution"
            if factor != "1"
            else metric.replace("_", " ").capitalize(),
            metric_value=figure(metrics, metric),
            metric_args={"resolution_factor": float(factor)},
        )
        for factor, metrics in record["resolutions"].items()
        for metric in ("accuracy", "mean_class_accuracy")
    ]
    return ModelCardData(
        model_name=title.split("/")[-1],
        eval_results=results,
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["hf-fer", "facial-expression-recognition", str(config["model_type"])],
        datasets=[hub_id] if hub_id else None,
        metrics=["accuracy", "recall", "f1"],
    )


def _dataset(recipe: Mapping[str, Any]) -> tuple[str, str | None]:
    """(name to show, Hub id or None). A folder is shown by its last part: its path is nobody's business."""
    from ..data import DATASETS

    name = one_line(recipe["dataset"])
    if name in DATASETS:
        return name, None
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        return name, name
    return _last_part(name), None


# --- text ---------------------------------------------------------------------------------------


def _context(
    title: str, folder: Path, config: dict[str, Any], recipe: dict[str, Any], report: dict[str, Any]
) -> dict[str, Any]:
    """What the template shows; every piece is safe Markdown."""
    record, last, history = report["selected"], report["last"], report["validation"]
    first_factor, first = next(iter(record["resolutions"].items()))
    if first_factor != "1":
        raise KeyError("the results at factor 1")
    dataset, _ = _dataset(recipe)
    method = str(config["model_type"])
    classes = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
    objective, detail = _objective(config, bool(recipe.get("soft_targets")))
    public = _public(recipe)
    starts = [key for key in recipe if "pretrained" in key or key.endswith("_weights")]
    counts = config.get("class_counts")
    precision = report.get("mixed_precision") or recipe.get("mixed_precision")
    n_train = (report.get("data") or {}).get("train_images") or sum(counts or [])
    factors = list(record["resolutions"])
    ci95 = first["ci95"]
    return {
        "title": escape(title),
        "name": code(title),
        "method": method,
        "kind": dataset if recipe["dataset"] in _DATASET_TITLES else None,
        "dataset_title": escape(_DATASET_TITLES.get(dataset, dataset)),
        "classes": ", ".join(map(escape, classes)),
        "backbone": code(config.get("backbone", "own architecture")),
        "backbone_changed": bool(config.get("backbone_kwargs")),
        "image_size": config.get("image_size"),
        "resize_size": recipe.get("resize_size"),
        "grayscale": bool(config.get("grayscale")),
        "parameters": f"{record['parameters']:,}",
        "start": ", ".join(f"`{key}`: {code(recipe[key])}" for key in starts if recipe[key]),
        "objective": objective,
        "objective_detail": detail,
        "citation": config_class(method).citation if method in METHODS else "",
        "uses_eac": objective.startswith("EAC"),
        "class_balanced": config.get("class_weighting") == "effective_number",
        "usage": fenced(_usage(title), "python"),
        "command": fenced(_command(method, recipe), "bash"),
        "recipe": fenced(public, "yaml"),
        "label_rule": record.get("label_rule"),
        "label_rule_code": code(record.get("label_rule")),
        "soft_targets": bool(recipe.get("soft_targets")),
        "n": f"{record['n']:,}",
        "n_train": f"{n_train:,}" if n_train else None,
        "data_notes": _data_notes(report.get("data") or {}, recipe),
        "reference_side": record.get("reference_side"),
        "class_counts": ", ".join(f"{escape(c)} {n:,}" for c, n in zip(classes, counts or [], strict=False)),
        "test_split": code(record["split"]),
        "degrade": float(recipe.get("degrade") or 0),
        "degrade_max": f"{float(recipe.get('degrade_max') or 1):g}",
        "epoch": record["epoch"],
        "last_epoch": last["epoch"],
        "selected_by": escape(report["selected_by"]),
        "selection": percent(history, "selection"),
        "results": _results_table(record["resolutions"]),
        "several_factors": len(factors) > 1,
        "low_factors": ", ".join(f"{TIMES}{factor}" for factor in factors[1:]),
        "average_low": percent(record, "average_low_resolution") if len(factors) > 1 else None,
        "last_line": _last_line(last["resolutions"]),
        "ci_method": f"{escape(ci95['method'])}, {ci95['resamples']:,} resamples",
        "per_class": _per_class_table(first["per_class"]),
        "absent": ", ".join(map(escape, first.get("classes_absent", []))),
        "few": ", ".join(
            f"{escape(name)} ({row['support']})"
            for name, row in first["per_class"].items()
            if 0 < row["support"] < FEW_IMAGES
        ),
        "plots": [(file, text) for file, text in PLOTS.items() if (folder / file).is_file()],
        "hardware": _hardware(last.get("hardware") or record.get("hardware") or {}),
        "processes": report.get("num_processes"),
        "precision": code(precision) if precision not in (None, "no") else None,
        "versions": ", ".join(f"{escape(k)} {code(v)}" for k, v in record["versions"].items() if v),
        "duration": _duration(report["train_seconds"]),
        "seed": record["seed"],
        "half_precision": bool(recipe.get("half_precision_export")),
        "date": escape(record["date"][:10]),
    }


def _data_notes(data: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """What was done to the data set's own splits, and how an epoch was drawn: a sentence each."""
    notes = []
    for part in ("validation", "test"):
        if aside := data.get(f"{part}_set_aside"):
            what = "whole groups" if aside["by"] == "group" else "the same share of every class"
            notes.append(
                f"The {part} images were set aside from the training split ({100 * float(aside['share']):g} %, {what}, "
                f"seed {aside['seed']})."
            )
    if factor := data.get("imbalance_factor"):
        notes.append(f"The training split was thinned out to an imbalance factor of {float(factor):g}.")
    if noise := data.get("label_noise"):
        notes.append(f"{100 * float(noise):g} % of the training labels were moved to another class on purpose.")
    if recipe.get("sampling") == "class_balanced":
        notes.append("Every class was drawn equally often.")
    elif recipe.get("sampling") == "group_balanced":
        notes.append(
            f"An epoch is up to {recipe['images_per_group']} images of each group (video, subject, character), and of "
            f"those {recipe['images_per_class']} of each class."
        )
    return notes


def _objective(config: Mapping[str, Any], soft: bool) -> tuple[str, str]:
    """(name of the objective, what it consists of), honest about switches that are off."""
    targets = "the vote distribution of each image" if soft else "the label of each image"
    if config["model_type"] != "mek":
        method = str(config["model_type"])
        summary = (config_class(method).__doc__ or "").strip().splitlines()[0] if method in METHODS else ""
        return escape(method), f"{summary.rstrip('.')}; it was trained on {targets}".lstrip("; ")
    consistency, smoothing = config["consistency_weight"] > 0, config["smoothing"] > 0
    rebalanced, second = bool(config["rebalance_attention"]), bool(config["classify_transformed"])
    balanced = config["class_weighting"] == "effective_number"
    parts = [
        *(["re-balanced attention consistency (RAC)"] if consistency and rebalanced else []),
        *(["attention consistency without re-balancing"] if consistency and not rebalanced else []),
        *(["re-balanced smooth labels (RSL)"] if smoothing else []),
        *(["class weights by effective number"] if balanced else []),
    ]
    if consistency and rebalanced:
        name = "MEK (RAC + RSL)" if smoothing and second else "MEK without its classified second view"
        name = name if smoothing else "the RAC half of MEK"
    elif consistency:
        name = "EAC" if not (smoothing or second) else "a mixture of EAC and MEK"
    elif smoothing:
        name = "the RSL half of MEK"
    else:
        name = "class-balanced cross-entropy" if balanced else "plain cross-entropy"
    if balanced and (consistency or smoothing):
        name += " with class-balanced weights"
    switches = ("consistency_weight", "rebalance_attention", "smoothing", "classify_transformed", "class_weighting")
    values = ", ".join(f"`{key}: {json.dumps(config[key])}`" for key in switches)
    views = "both views" if second else "one view"
    what = f"cross-entropy of {views} on {targets}" + (f", with {' and '.join(parts)}" if parts else "")
    if not (consistency or smoothing):
        what += "; the code is MEK's, and none of MEK's own terms takes part, so this is a baseline and not MEK"
    return name, f"{what} ({values})"


def _usage(title: str) -> str:
    return f"""\
import hf_fer  # registers the model; without hf-fer: pipeline(..., trust_remote_code=True)
from transformers import pipeline

repo = {json.dumps(title, ensure_ascii=False)}  # the id of this repository, or a folder with its files
classify = pipeline("image-classification", model=repo)
print(classify("face.jpg"))  # one face, cropped"""


def _command(method: str, recipe: Mapping[str, Any]) -> str:
    from ..data import DATASETS

    needed = " --data_root DIR" if recipe["dataset"] in DATASETS and recipe["dataset"] != "synthetic" else ""
    if one_line(recipe["dataset"]).startswith("."):
        needed += " --dataset FOLDER"
    # Of files the recipe keeps the name; a timm name has no ending, and a Hub repository an owner.
    needed += "".join(
        f" --{key} FILE"
        for key in ("backbone_weights", "landmark_weights")
        if recipe.get(key) and "/" not in str(recipe[key]) and Path(str(recipe[key])).suffix in _WEIGHT_SUFFIXES
    )
    return f"accelerate launch -m hf_fer.cli train recipe.yaml --method {one_line(method)}{needed} --output_dir RUN"


def _results_table(resolutions: Mapping[str, Mapping[str, Any]]) -> str:
    head = ("resolution", "accuracy, %", "mean class accuracy, %", "macro F1, %", "challenge score", "NLL", "ECE")
    rows = []
    for factor, metrics in resolutions.items():
        rows.append(
            [
                f"{TIMES}{float(factor):g}",
                *(f"{percent(metrics, key)} ({interval(metrics, key)})" for key in ("accuracy", "mean_class_accuracy")),
                percent(metrics, "f1_macro"),
                *(
                    f"{figure(metrics, key):.4f}" if key in metrics else NONE
                    for key in ("challenge_score", "nll", "ece")
                ),
            ]
        )
    return table(head, rows)


def _per_class_table(per_class: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [escape(name), *(percent(row, key) for key in ("precision", "recall", "f1")), f"{row['support']:,}"]
        for name, row in per_class.items()
    ]
    return table(("class", "precision, %", "recall, %", "F1, %", "test images"), rows)


def _last_line(resolutions: Mapping[str, Mapping[str, Any]]) -> str:
    def both(metrics: Mapping[str, Any]) -> str:
        return f"{percent(metrics, 'accuracy')} ({percent(metrics, 'mean_class_accuracy')})"

    return ", ".join(f"{TIMES}{float(factor):g}: {both(metrics)}" for factor, metrics in resolutions.items())


def _hardware(hardware: Mapping[str, Any]) -> str:
    keys = ("device", "processor", "threads", "platform")
    return ", ".join(f"{key} {code(hardware[key])}" for key in keys if hardware.get(key)) or "not recorded"


def _duration(seconds: float) -> str:
    minutes = round(finite(seconds, "train_seconds") / 60)
    rounded = f" (about {minutes // 60} h {minutes % 60} min)" if minutes else ""
    return f"{round(seconds):,} s{rounded}"


def _public(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML, without tokens and with absolute paths cut down to their last part."""
    import yaml

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items() if key not in _SECRET_KEYS}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return _last_part(value) if isinstance(value, str) and _ABSOLUTE.match(value) else value

    return yaml.safe_dump(clean(recipe), sort_keys=True, allow_unicode=True).rstrip()


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "DIR"


# --- files --------------------------------------------------------------------------------------


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config holds only what differs from its class: this puts the rest back."""
    method = str(config.get("model_type"))
    if method not in METHODS:
        return config
    fields = dataclasses.fields(config_class(method))
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING} | config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FerError(f"{path} cannot be read ({error}); a card needs the files of a finished run.") from error
    if not isinstance(content, dict):
        raise FerError(f"{path} holds a {type(content).__name__}, not an object; use the file of a finished run.")
    return content


def _read_recipe(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise FerError(f"{path} cannot be read ({reason}); a card needs the files of a finished run.") from error
    if not isinstance(content, dict):
        raise FerError(f"{path} holds no `key: value` lines; use the recipe of a finished run.")
    return content
