"""A method's name is given to what ran all of it, and to nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hf_fer._auto import METHODS, config_class
from hf_fer.hub.method_name import BASELINES, describe_method


def fields(method: str, **changes: Any) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(config_class(method))}
    return {**defaults, "model_type": method, **changes}


@pytest.mark.parametrize("method", METHODS)
def test_only_the_whole_method_has_its_name(method: str) -> None:
    cls = config_class(method)
    plain = METHODS[method][0].removesuffix("Config")
    name, detail = describe_method(fields(method))
    assert name == plain
    assert detail == cls.__doc__.splitlines()[0].rstrip(".")
    names = {}
    for row, overrides in cls.ablations.items():
        name, detail = describe_method(fields(method, **overrides))
        same_as_default = all(fields(method)[key] == value for key, value in overrides.items() if key != "backbone")
        assert (name == plain) == same_as_default, row
        if not same_as_default:
            assert name in BASELINES.get(method, {}).values() or name.startswith(f"{plain}, "), row
            for key, value in overrides.items():  # what is off is said
                if key != "backbone" and value != fields(method)[key]:
                    assert f"`{key}: " in detail, row
            if "backbone" not in overrides:
                names[str(sorted((k, str(v)) for k, v in overrides.items()))] = name
    assert len(names) == len({*names.values()})  # two rows, two names


@pytest.mark.parametrize(
    ("method", "changes", "name"),
    [
        ("grefel", {"attentive_correction": False}, "GReFEL, Table 2: anchors"),
        ("grefel", {"num_anchors": 4}, "GReFEL, Table 6: M \\= 4"),
        ("grefel", {"num_anchors": 5}, "GReFEL with changed switches"),
        ("grefel", {"dims": [64, 128, 256]}, "GReFEL"),  # as JSON gives the default back
        ("hsac", {"combined_attention_weight": 0.5}, "HSAC with changed switches"),
        ("hsac", {"adversarial_weight": 0}, "HSAC, Table 1, row 8: L_ce + L_ca + L_ldl"),
        ("multires", {"resolution_probability": 0}, "class-balanced cross-entropy"),
        ("multires", {"resolution_probability": 0, "class_weighting": "none"}, "MultiRes with changed switches"),
        (
            "neural_resizer",
            {"downsizer": "bilinear", "spatial_transformer": False},
            "NeuralResizer with changed switches",
        ),
        (
            "neural_resizer",
            {"downsizer": "bilinear", "spatial_transformer": False, "backbone": "swin_small_patch4_window7_224"},
            "NeuralResizer, Table 2 c: SR / Bi",
        ),
        ("mek", {"smoothing": 0.0}, "MEK, Table 6: RAC"),
        ("mek", {"smoothing": 0, "consistency_weight": 0, "classify_transformed": False}, "plain cross-entropy"),
        (
            "mek",
            {"smoothing": 0, "consistency_weight": 5, "classify_transformed": False, "rebalance_attention": False},
            "EAC",
        ),
        ("mek", {"smoothing": 0.1, "class_weighting": "effective_number"}, "MEK with changed switches"),
    ],
)
def test_names(method: str, changes: dict[str, Any], name: str) -> None:
    got, detail = describe_method(fields(method, **changes))
    assert got == name
    assert (f"this is a baseline and not {METHODS[method][0][:3]}" in detail) == (
        "cross-entropy" in name or name == "EAC"
    )


def test_other_settings_are_listed() -> None:
    name, detail = describe_method(fields("grefel", label_smoothing=0.0, image_size=64, class_counts=[1, 2]))
    assert name == "GReFEL"
    assert detail.endswith(". Other settings than the defaults: `label_smoothing: 0.0` (default `0.11`)")


def test_the_baselines_are_rows_of_the_tables() -> None:
    for method, rows in BASELINES.items():
        assert {*rows} <= {*config_class(method).ablations}


def test_an_unknown_method_is_text() -> None:
    assert describe_method({"model_type": "<b>"})[0] == "&lt;b&gt;"
