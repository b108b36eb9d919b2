"""What every method of the registry must do, in every row of its paper's tables: generated, so a new one is covered."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, pipeline

from hf_fer._auto import METHODS, config_class, model_class
from hf_fer.training.export import build_processor, save_release

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger"]


def distinct_rows(
    same: Callable[[Any], Any] = lambda value: value, ignore: Callable[[str], bool] = lambda field: False
) -> list[tuple[str, str]]:
    """Papers repeat themselves: rows that are one configuration, once the network is tiny, are tested once."""
    seen: dict[str, tuple[str, str]] = {}
    for method in METHODS:
        config = config_class(method)
        for row in ("defaults", *config.ablations):
            made = config(**{**config.ablations.get(row, {}), **config.tiny})
            names = sorted(name for name in config.method_fields() if not ignore(name))
            fields = {name: same(getattr(made, name)) for name in names}
            seen.setdefault(f"{method} {fields}", (method, row))
    return [*seen.values()]


def on_or_off(value: Any) -> Any:
    """Of a number, what decides which code runs."""
    return bool(value) if isinstance(value, (int, float)) else value


ALL_ROWS = [(method, row) for method in METHODS for row in ("defaults", *config_class(method).ablations)]
each_row = pytest.mark.parametrize(("method", "row"), distinct_rows(), ids=str)
# GReFEL multiplies its losses by their weights, whatever these are.
PLAIN_FACTORS = ("classification_weight", "anchor_weight", "center_weight")
each_graph = pytest.mark.parametrize(
    ("method", "row"), distinct_rows(on_or_off, lambda field: field in PLAIN_FACTORS), ids=str
)
# The weight of a loss has no part in an answer.
each_answer = pytest.mark.parametrize(
    ("method", "row"), distinct_rows(on_or_off, lambda field: field.endswith("_weight")), ids=str
)
each_method = pytest.mark.parametrize("method", METHODS)

# Trainable parameters that get no gradient, and why.
UNUSED: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("grefel", "Table 3: L_a"): (("anchors.",), "the anchor loss alone sees nothing but the anchors"),
    ("grefel", "Table 3: L_c"): (
        ("backbone.", "landmark", "image_convs.", "cross_attentions.", "fusion.", "anchors."),
        "the center loss alone reaches no classifier",
    ),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another test file has imported huggingface_hub already, the environment variable came too late."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def configuration(method: str, row: str = "defaults", **changes: Any) -> PreTrainedConfig:
    config = config_class(method)
    fields = {
        "id2label": dict(enumerate(NAMES)),
        "label2id": {name: k for k, name in enumerate(NAMES)},
        **config.ablations.get(row, {}),
        **config.tiny,
    }
    if "class_counts" in config.method_fields():
        fields["class_counts"] = [500, 300, 100, 30, 7]
    return config(**{**fields, **changes})


def build(method: str, row: str = "defaults", **changes: Any) -> nn.Module:
    """A model whose every tensor differs from any default."""
    torch.manual_seed(0)
    model = model_class(method)(configuration(method, row, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


def images_for(model: nn.Module, batch: int = 4, seed: int = 1) -> Tensor:
    size = model.config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def training_step(model: nn.Module, batch: int = 4) -> Tensor:
    torch.manual_seed(1)  # of the views that a model draws itself
    loss = model.train()(pixel_values=images_for(model, batch), labels=torch.arange(batch) % 5).loss
    loss.backward()
    return loss


# Training --------------------------------------------------------------------------------------------------


@each_row
def test_a_training_step_reaches_every_parameter(method: str, row: str) -> None:
    model = build(method, row)
    loss = training_step(model)
    assert loss.isfinite()
    used, _reason = UNUSED.get((method, row), (("",), ""))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not name.startswith(used):
            assert parameter.grad is None or not parameter.grad.any(), name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@each_row
def test_a_fresh_model_trains_without_nan(method: str, row: str) -> None:
    """As it was made, not perturbed: zeros and symmetries of an initialisation are where NaN hide."""
    torch.manual_seed(0)
    model = model_class(method)(configuration(method, row))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        assert training_step(model).isfinite()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
        optimizer.step()


@each_method
def test_named_losses_come_detached_and_only_in_training(method: str) -> None:
    model = build(method)
    output = model.train()(images_for(model), labels=torch.arange(4))
    assert output.losses
    for name, value in output.losses.items():
        assert value.shape == () and not value.requires_grad and value.isfinite(), name
    assert model.eval()(images_for(model), labels=torch.arange(4)).losses is None


@each_method
def test_one_hot_labels_are_class_ids(method: str) -> None:
    model = build(method).train()
    labels = torch.tensor([3, 0, 4, 1])
    losses = []
    for target in (labels, nn.functional.one_hot(labels, 5).float()):
        torch.manual_seed(2)
        losses.append(copy.deepcopy(model)(images_for(model), labels=target).loss)
    torch.testing.assert_close(losses[0], losses[1])


@each_row
def test_autocast_trains(method: str, row: str) -> None:
    model = build(method, row)
    with torch.autocast("cpu", torch.bfloat16):
        loss = training_step(model)
    assert loss.isfinite() and loss.dtype == torch.float32
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


# Evaluation ------------------------------------------------------------------------------------------------


@each_row
def test_eval_is_deterministic_and_each_sample_stands_alone(method: str, row: str) -> None:
    model = build(method, row)
    images = images_for(model, batch=5)
    with torch.no_grad():
        together = model(images)
        assert torch.equal(together.logits, model(images).logits)
        assert together.logits.shape == (5, 5) and together.loss is None
        for k in range(5):
            alone = model(images[k : k + 1]).logits
            torch.testing.assert_close(alone, together.logits[k : k + 1], rtol=1e-5, atol=1e-6)


@each_method
def test_eval_runs_the_backbone_once_and_on_the_images_alone(method: str) -> None:
    model = build(method)
    batches: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, arguments: batches.append(arguments[0].shape[0]))
    with torch.no_grad():
        model(images_for(model, batch=3))
        assert batches == [3]
    training_step(model)
    assert len(batches) == 2  # and so does a training step, whatever its views


@each_method
def test_tuples_hold_what_the_output_holds(method: str) -> None:
    model = build(method)
    with torch.no_grad():
        output = model(images_for(model), labels=torch.arange(4), output_hidden_states=True)
        as_tuple = model(images_for(model), labels=torch.arange(4), output_hidden_states=True, return_dict=False)
    assert output.hidden_states
    for one, other in zip(output.to_tuple(), as_tuple, strict=True):
        assert torch.equal(one[0], other[0]) if isinstance(one, tuple) else torch.equal(one, other)


@each_method
def test_maps_are_what_the_logits_are_made_of(method: str) -> None:
    """Where a method has class activation maps, their mean is the logit up to the classifier's bias."""
    model = build(method)
    with torch.no_grad():
        output = model(images_for(model), output_attention_maps=True)
    if output.attention_maps is None:
        assert not hasattr(model, "_classify")  # not one of the methods that classify averaged maps
        return
    assert output.attention_maps.shape[:2] == (4, 5)
    torch.testing.assert_close(output.attention_maps.mean(dim=(2, 3)) + model.classifier.bias, output.logits)


# Saving, loading, leaving Python -----------------------------------------------------------------------------


@each_row
def test_a_round_trip_keeps_every_bit(method: str, row: str, tmp_path: Path) -> None:
    model = build(method, row)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is model_class(method) and not loaded.training
    expected = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    actual = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name
        assert actual[name].requires_grad == tensor.requires_grad, name
    with torch.no_grad():
        assert torch.equal(loaded(images_for(model)).logits, model(images_for(model)).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_graph
def test_half_precision_loads_and_answers_alike(method: str, row: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(method, row)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=dtype)
    assert next(loaded.parameters()).dtype == dtype
    images = images_for(model)
    with torch.no_grad():
        actual, expected = loaded(images.to(dtype)).logits.float(), model(images).logits
    tolerance = 0.15 if dtype == torch.bfloat16 else 0.03
    torch.testing.assert_close(actual.softmax(1), expected.softmax(1), rtol=0, atol=tolerance)


@each_method
def test_another_set_of_labels_gets_a_fresh_head(method: str, tmp_path: Path) -> None:
    """Fine-tuning as transformers' users do it: what does not fit is new, finite, and nothing else changes."""
    model = build(method)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert loaded.config.num_labels == 3
    with torch.no_grad():
        assert loaded(images_for(model)).logits.shape == (4, 3)
    assert training_step_of(loaded, 3).isfinite()
    after = dict(loaded.backbone.named_parameters())
    for name, before in model.backbone.named_parameters():
        assert torch.equal(before, after[name]), name


def training_step_of(model: nn.Module, classes: int) -> Tensor:
    loss = model.train()(pixel_values=images_for(model), labels=torch.arange(4) % classes).loss
    loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    return loss


@each_graph
def test_it_compiles_to_one_graph(method: str, row: str) -> None:
    """Dynamo traces the answer and the training step whole; what is done with the graph is its backends' concern."""
    torch._dynamo.reset()
    model = build(method, row)
    images = images_for(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images).logits, model(images).logits)
    expected = training_step(build(method, row))
    torch.testing.assert_close(training_step(compiled), expected)
    torch._dynamo.reset()


@each_method
def test_its_gradients_compile(method: str) -> None:
    """Through AOT autograd too, forward and backward."""
    torch._dynamo.reset()
    model = build(method)
    expected = build(method)
    training_step(expected)
    training_step(torch.compile(model, backend="aot_eager"))
    for (name, one), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)
    torch._dynamo.reset()


@each_answer
def test_it_exports(method: str, row: str) -> None:
    model = build(method, row)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        model, (images_for(model, 3),), dynamic_shapes={"pixel_values": {0: batch}}, strict=False
    )
    images = images_for(model, 6, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images).logits, model(images).logits)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each method, as a training run leaves it."""
    folders = {}
    for method in METHODS:
        model = build(method)
        folders[method] = tmp_path_factory.mktemp("releases") / method
        save_release(model, build_processor(model.config.image_size), folders[method])
    return folders


def test_releases_need_neither_this_package_nor_its_folder(releases: dict[str, Path], tmp_path: Path) -> None:
    """Another interpreter, in which importing hf_fer fails, gives the same logits through the Auto classes."""
    images = {method: images_for(build(method)) for method in METHODS}
    torch.save(images, tmp_path / "images.pt")
    program = """
import json, sys, torch

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_fer":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
sys.path[:] = [p for p in sys.path if p != ""]
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

images, logits, top = torch.load(sys.argv[1]), {}, {}
for method, folder in json.loads(sys.argv[2]).items():
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    with torch.no_grad():
        logits[method] = model(images[method]).logits
    answer = pipeline("image-classification", model=folder, trust_remote_code=True)(Image.new("RGB", (70, 60), "red"))
    top[method] = answer
assert not [name for name in sys.modules if name.split(".")[0] == "hf_fer"]
torch.save(logits, sys.argv[3])
print(json.dumps(top))
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    folders = json.dumps({method: str(folder) for method, folder in releases.items()})
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path / "images.pt"), folders, str(tmp_path / "logits.pt")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logits, answers = torch.load(tmp_path / "logits.pt"), json.loads(done.stdout.splitlines()[-1])
    for method in METHODS:
        with torch.no_grad():
            torch.testing.assert_close(logits[method], build(method)(images[method]).logits, rtol=0, atol=1e-6)
        here = pipeline("image-classification", model=str(releases[method]))(Image.new("RGB", (70, 60), "red"))
        assert {a["label"] for a in answers[method]} <= set(NAMES)
        assert [a["label"] for a in answers[method]] == [a["label"] for a in here]


@each_method
def test_releases_are_this_packages_own_classes_here(method: str, releases: dict[str, Path]) -> None:
    assert type(AutoConfig.from_pretrained(releases[method])) is config_class(method)
    assert type(AutoModelForImageClassification.from_pretrained(releases[method])) is model_class(method)


# Configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "row"), ALL_ROWS, ids=str)
def test_every_row_of_the_papers_builds_at_full_size(method: str, row: str) -> None:
    config = config_class(method)
    with torch.device("meta"):
        model = model_class(method)(config(num_labels=8, **config.ablations.get(row, {}))).eval()
        size = model.config.image_size
        assert model(torch.empty(2, 3, size, size)).logits.shape == (2, 8)


@each_method
def test_every_field_is_validated_by_name(method: str) -> None:
    config = config_class(method)
    for field in config.method_fields():
        with pytest.raises(ValueError, match=rf"^{config.__name__}: {field} must be .*, got <object"):
            config(num_labels=3, **{field: object()})


@each_method
def test_numbers_that_are_none_are_refused(method: str) -> None:
    config = config_class(method)
    for field in dataclasses.fields(config):
        if field.name in config.method_fields() and isinstance(field.default, float):
            for value in (-1.0, float("nan"), float("inf"), True):
                with pytest.raises(ValueError, match=rf"^{config.__name__}: {field.name} must be "):
                    config(num_labels=3, **{field.name: value})


@each_method
def test_an_unknown_backbone_is_named(method: str) -> None:
    with pytest.raises(ValueError, match=r"backbone.*resnet81"):
        model_class(method)(configuration(method, backbone="resnet81"))


@each_method
def test_one_label_is_no_classification(method: str) -> None:
    with pytest.raises(ValueError, match="num_labels must be at least 2, got 1"):
        config_class(method)(num_labels=1)


@each_method
def test_wrong_class_counts_are_refused(method: str) -> None:
    if "class_counts" in config_class(method).method_fields():
        with pytest.raises(ValueError, match="class_counts must be 5 integers of at least 1"):
            configuration(method, class_counts=[1, 2, 3])


@each_row
def test_a_config_survives_json(method: str, row: str, tmp_path: Path) -> None:
    config = configuration(method, row)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == method
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is config_class(method)
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()


@each_method
def test_what_a_paper_row_changes_is_a_field(method: str) -> None:
    config = config_class(method)
    for overrides in (*config.ablations.values(), config.tiny):
        assert overrides.keys() <= config.method_fields()
