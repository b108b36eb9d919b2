"""Pretrained weights: every layout of the field bit for bit, hostile and broken files, the Hub over HTTP."""

from __future__ import annotations

import ast
import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from hf_fer.models import pretrained_weights, weight_files
from hf_fer.models.backbones import create_backbone
from hf_fer.models.configuration_mek import MEKConfig
from hf_fer.models.ir50 import IR50
from hf_fer.models.mobilefacenet import MobileFaceNet
from hf_fer.models.modeling_mek import MEKForImageClassification
from hf_fer.models.pretrained_weights import WeightsReport, load_pretrained_weights, read_state_dict

RESNET: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 16]}
VGG_WIDTHS = [8, 16, 32, 64]
VGGFACE2_MEAN = (131.0912 / 255, 103.8827 / 255, 91.4953 / 255)
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def randomize(module: nn.Module, seed: int) -> nn.Module:
    """Every number becomes another one, so that two tensors are never equal by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(seed)
            elif tensor.is_floating_point() and not name.endswith("attn_mask"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module.eval()


def copy_of(module: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(actual: State, expected: State) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def timm_name(ours: str) -> str:
    """The complete model's name for a tensor of a feature extractor, by another road than the one under test."""
    parts = ours.removeprefix("body.").removeprefix("model.").split(".")
    if parts[0].rpartition("_")[0] in ("layers", "stages", "stem"):
        parts[0] = parts[0].replace("_", ".")
    return ".".join(parts)


def small_resnet(seed: int = 0, name: str = "resnet18", **kwargs: Any) -> nn.Module:
    return randomize(create_backbone(name, **{**RESNET, **kwargs}), seed)


def resnet_file(seed: int = 7, name: str = "resnet18") -> State:
    """A complete torchvision classifier; timm's names of ResNets are torchvision's."""
    return copy_of(randomize(timm.create_model(name, num_classes=5, **RESNET), seed))


def torch_bytes(content: Any, **kwargs: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def refused(source: str | Path, module: nn.Module | None = None, **kwargs: Any) -> str:
    """The one sentence with which a source is refused; the module must be as it was."""
    module = small_resnet() if module is None else module
    before = copy_of(module)
    with pytest.raises(ValueError) as error:
        load_pretrained_weights(module, source, **kwargs)
    assert_equal(copy_of(module), before)
    sentence = str(error.value)
    assert "\n" not in sentence and ";" in sentence and not sentence.endswith("."), sentence
    return sentence


# Layouts ---------------------------------------------------------------------------------------------------

CONTAINERS: dict[str, Callable[[State], bytes]] = {
    "plain.pth": torch_bytes,
    "old.pth": lambda state: torch_bytes(state, _use_new_zipfile_serialization=False),
    "state_dict.pth.tar": lambda state: torch_bytes({"epoch": 3, "state_dict": OrderedDict(state), "arch": "resnet18"}),
    "model_state_dict.pth": lambda state: torch_bytes(
        {"iter": 3, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}}, "model_state_dict": state}
    ),
    "start_0.pt": lambda state: torch_bytes(  # MEK's
        {"epoch": 1, "state_dict_softmax_fc": {"weight": torch.ones(9, 3)}, "state_dict_backbone": state}
    ),
    "config_first.pth": lambda state: torch_bytes({"model": {"name": "r18"}, "a": {}, "net": {"state_dict": state}}),
    "deeply_nested.pth": lambda state: torch_bytes({"state_dict": {"model": {"net": state}, "lr": 0.1}, "epoch": 1}),
    "nested.pth": lambda state: torch_bytes({"net": {"model": state}, "ema": {"decay": 0.9}}),
    "other_name.pth": lambda state: torch_bytes({"my_weights": state, "epoch": 1, "log": [1, 2]}),
    "parameters.pth": lambda state: torch_bytes(
        {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in state.items()}
    ),
    "numbers_between.pth": lambda state: torch_bytes({**state, "epoch": 3, "acc": 0.5}),
    "plain.bin": torch_bytes,
    "plain.safetensors": save,
    "unsuffixed": save,
}
WRAPPINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda name: name,
    "DataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "Lightning": lambda name: f"model.{name}",
    "ours": lambda name: f"backbone.body.{name}",
    "all of them": lambda name: f"module.model.net.backbone.{name}",
    "one of several": lambda name: f"module.image_encoder.trunk.{name}",
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_every_bit(container: str, tmp_path: Path) -> None:
    state = resnet_file()
    path = tmp_path / container
    path.write_bytes(CONTAINERS[container](state))
    assert_equal(read_state_dict(path), state)
    assert_equal(read_state_dict(str(path)), state)
    assert not any(tensor.requires_grad for tensor in read_state_dict(path).values())
    module = small_resnet()
    report = load_pretrained_weights(module, path)
    assert_equal(copy_of(module), {f"body.{name}": t for name, t in state.items() if not name.startswith("fc.")})
    assert report == WeightsReport(
        source=container,
        layout="torchvision ResNet",
        matched=tuple(module.state_dict()),
        missing=(),
        unexpected=tuple(name for name in read_state_dict(path) if name.startswith("fc.")),
        adapted=(),
    )
    assert len(report.unexpected) == 2


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_every_bit(wrapping: str, tmp_path: Path) -> None:
    state = resnet_file()
    wrap = WRAPPINGS[wrapping]
    save_file({wrap(name): tensor for name, tensor in state.items()}, tmp_path / "weights.safetensors")
    module = small_resnet()
    report = load_pretrained_weights(module, tmp_path / "weights.safetensors", minimum=1.0)
    assert_equal(copy_of(module), {f"body.{name}": t for name, t in state.items() if not name.startswith("fc.")})
    assert set(report.unexpected) == {wrap("fc.weight"), wrap("fc.bias")}
    assert any("image_encoder.trunk'" in note for note in report.notes) == (wrapping == "one of several")


def test_of_two_networks_in_a_file_the_fitting_one_is_taken(tmp_path: Path) -> None:
    ours, other = resnet_file(1), copy_of(small_resnet(2, channels=[8, 8, 8, 8]).body)
    state = {**{f"a.{name}": t for name, t in other.items()}, **{f"b.{name}": t for name, t in ours.items()}}
    save_file(state, tmp_path / "two.safetensors")
    module = small_resnet()
    report = load_pretrained_weights(module, tmp_path / "two.safetensors")
    assert torch.equal(module.body.conv1.weight, ours["conv1.weight"])
    assert not report.missing and set(report.unexpected) == {f"a.{n}" for n in other} | {"b.fc.weight", "b.fc.bias"}


@pytest.mark.parametrize("prefix", ["", "features.", "module.features."])
def test_a_resnet_as_a_sequence_of_its_children(prefix: str, tmp_path: Path) -> None:
    """SCN, EAC and DAN keep `nn.Sequential(*list(resnet.children())[:-2])`."""
    state = resnet_file(name="resnet50")
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7", "fc": "head.0"}
    renamed = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        renamed[f"{prefix}{places[first]}.{rest}" if first != "fc" else f"module.fc.0.{rest}"] = tensor
    path = tmp_path / "rafdb.pth"
    path.write_bytes(torch_bytes({"model_state_dict": renamed}))
    module = small_resnet(name="resnet50")
    report = load_pretrained_weights(module, path, minimum=1.0)
    assert_equal(copy_of(module), {f"body.{name}": t for name, t in state.items() if not name.startswith("fc.")})
    assert report.layout == "torchvision ResNet as a sequence"
    assert set(report.unexpected) == {"module.fc.0.weight", "module.fc.0.bias"}


def vggface2_port(layers: tuple[int, ...], senet: bool, classes: int = 8631) -> dict[str, np.ndarray]:
    """Names and shapes of cydonia999/VGGFace2-pytorch, most of them narrower."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        arrays[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)

    def batch_norm(name: str, channels: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            add(f"{name}.{leaf}", channels)

    scale = 1 if senet else 8  # timm has no argument for the widths of legacy_seresnet50, nor for that of a stem
    add("conv1.weight", 64, 3, 7, 7)
    batch_norm("bn1", 64)
    channels = 64
    for stage, units in enumerate(layers, start=1):
        width = 64 * 2 ** (stage - 1) // scale
        for unit in range(units):
            block = f"layer{stage}.{unit}"
            shapes = ((1, width, channels, 1), (2, width, width, 3), (3, 4 * width, width, 1))
            for i, out_channels, in_channels, kernel in shapes:
                add(f"{block}.conv{i}.weight", out_channels, in_channels, kernel, kernel)
                batch_norm(f"{block}.bn{i}", out_channels)
            if senet:
                add(f"{block}.conv4.weight", width // 4, 4 * width, 1, 1)
                add(f"{block}.conv4.bias", width // 4)
                add(f"{block}.conv5.weight", 4 * width, width // 4, 1, 1)
                add(f"{block}.conv5.bias", 4 * width)
            if unit == 0:
                add(f"{block}.downsample.0.weight", 4 * width, channels, 1, 1)
                batch_norm(f"{block}.downsample.1", 4 * width)
            channels = 4 * width
    add("fc.weight", classes, 4)
    add("fc.bias", classes)
    return arrays


def python2_pickle(arrays: dict[str, np.ndarray]) -> bytes:
    """What Python 2's cPickle wrote, opcode by opcode: its strings are bytes, which Python 3 cannot write."""

    def short(text: str) -> bytes:
        return b"U" + bytes([len(text)]) + text.encode()

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    out = [b"\x80\x02}("]
    for name, array in arrays.items():
        data = array.tobytes()
        out += [short(name), b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("]
        out += [integer(side) for side in array.shape]
        out += [
            b"tcnumpy\ndtype\n",
            short(array.dtype.str[1:]),
            b"K\x00K\x01\x87R(K\x03U\x01",
            array.dtype.str[:1].encode(),
        ]
        out += [b"NNN", integer(-1), integer(-1), b"K\x00tb\x89T", struct.pack("<i", len(data)), data, b"tb"]
    return b"".join([*out, b"u."])


NUMPY_PICKLES: dict[str, Callable[[dict[str, np.ndarray]], bytes]] = {
    "python 2": python2_pickle,
    **{f"protocol {p}": lambda arrays, p=p: pickle.dumps(arrays, protocol=p) for p in range(6)},
    "ordered": lambda arrays: pickle.dumps(OrderedDict(arrays), protocol=2),
    "old numpy names": lambda arrays: pickle.dumps(arrays, protocol=2).replace(b"numpy._core", b"numpy.core"),
    "Fortran order": lambda arrays: pickle.dumps({n: np.asfortranarray(a) for n, a in arrays.items()}, protocol=2),
    "big endian": lambda arrays: pickle.dumps({n: a.astype(">f4") for n, a in arrays.items()}, protocol=2),
    "double": lambda arrays: pickle.dumps({n: a.astype(np.float64) for n, a in arrays.items()}, protocol=2),
    "wrapped": lambda arrays: pickle.dumps(
        {"state_dict": arrays, "best": np.float64(0.5), "n": np.int64(1)}, protocol=2
    ),
}


@pytest.mark.parametrize("kind", NUMPY_PICKLES)
def test_vggface2_resnet(kind: str, tmp_path: Path) -> None:
    arrays = vggface2_port((1, 1, 1, 1), senet=False)
    path = tmp_path / "resnet50_ft_weight.pkl"
    path.write_bytes(NUMPY_PICKLES[kind](arrays))
    oracle = pickle.loads(path.read_bytes(), encoding="latin1")
    assert np.array_equal((oracle.get("state_dict") or oracle)["fc.weight"], arrays["fc.weight"])

    module = small_resnet(name="resnet50", channels=VGG_WIDTHS)
    counters = {name: tensor for name, tensor in copy_of(module).items() if name.endswith("num_batches_tracked")}
    report = load_pretrained_weights(module, path)
    expected = {f"body.{name}": torch.from_numpy(array) for name, array in arrays.items() if "fc." not in name}
    expected["body.conv1.weight"] = expected["body.conv1.weight"][:, [2, 1, 0]]  # BGR -> RGB
    assert_equal(copy_of(module), {**expected, **counters})
    assert report.layout == "VGGFace2 ResNet (PyTorch port)"
    assert report.adapted == ("body.conv1.weight",)
    assert report.missing == () and report.unexpected == ("fc.weight", "fc.bias")
    assert report.image_mean == pytest.approx(VGGFACE2_MEAN)
    assert report.image_std == pytest.approx((1 / 255,) * 3)
    assert "BGR" in str(report) and "stride" in str(report)


def test_vggface2_statistics_undo_the_scale_of_the_originals(tmp_path: Path) -> None:
    """(x / 255 - mean) / std in RGB must be what Caffe fed: x - (91.5, 103.9, 131.1) in BGR."""
    path = tmp_path / "w.pkl"
    path.write_bytes(python2_pickle(vggface2_port((1, 1, 1, 1), senet=False)))
    report = load_pretrained_weights(small_resnet(name="resnet50", channels=VGG_WIDTHS), path)
    rgb = np.array([10.0, 20.0, 30.0])
    assert report.image_mean is not None and report.image_std is not None
    normalised = (rgb / 255 - np.array(report.image_mean)) / np.array(report.image_std)
    np.testing.assert_allclose(normalised[::-1], rgb[::-1] - np.array([91.4953, 103.8827, 131.0912]))


@pytest.mark.parametrize(
    ("rows", "counters", "numpy_pickle", "turned"),
    [
        (8631, False, False, True),  # the port, saved again by torch: senet50_ft_weight.pth and the like
        (8631, True, False, False),  # trained by torch on VGGFace2
        (1000, False, False, False),
        (1000, False, True, False),  # somebody's own pickle
        (None, False, True, True),
        (None, False, False, False),
    ],
)
def test_a_stem_is_turned_only_where_the_file_tells_of_caffe(
    rows: int | None, counters: bool, numpy_pickle: bool, turned: bool, tmp_path: Path
) -> None:
    arrays = vggface2_port((1, 1, 1, 1), senet=False, classes=rows or 1)
    if rows is None:
        del arrays["fc.weight"], arrays["fc.bias"]
    if counters:
        arrays["bn1.num_batches_tracked"] = np.array(5)
    content = pickle.dumps(arrays) if numpy_pickle else torch_bytes({n: torch.from_numpy(a) for n, a in arrays.items()})
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    module = small_resnet(name="resnet50", channels=VGG_WIDTHS)
    report = load_pretrained_weights(module, path)
    stem = torch.from_numpy(arrays["conv1.weight"])
    assert torch.equal(module.body.conv1.weight, stem.flip(1) if turned else stem)
    assert (report.adapted == ("body.conv1.weight",)) == turned
    assert (report.image_mean is not None) == turned
    assert ("VGGFace2" in str(report)) == (turned or rows == 8631)


@pytest.mark.parametrize("kind", ["python 2", "torch"])
def test_vggface2_senet(kind: str, tmp_path: Path) -> None:
    arrays = vggface2_port((1, 1, 1, 1), senet=True)
    path = tmp_path / "senet50_ft_weight.pkl"
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    path.write_bytes(python2_pickle(arrays) if kind == "python 2" else torch_bytes({"state_dict": tensors}))
    module = randomize(create_backbone("legacy_seresnet50", layers=[1, 1, 1, 1]), 0)
    report = load_pretrained_weights(module, path, minimum=1.0)
    state = module.state_dict()
    assert torch.equal(state["body.layer0.conv1.weight"], tensors["conv1.weight"].flip(1))
    seen = {"body.layer0.conv1.weight"}
    for name, tensor in tensors.items():
        if name.startswith("layer"):
            ours = f"body.{name}".replace(".conv4.", ".se_module.fc1.").replace(".conv5.", ".se_module.fc2.")
        elif name.startswith("bn1"):
            ours = f"body.layer0.{name}"
        else:
            continue
        assert torch.equal(state[ours], tensor), ours
        seen.add(ours)
    assert seen == set(report.matched) == {name for name in state if not name.endswith("num_batches_tracked")}
    assert report.layout == "VGGFace2 SENet (PyTorch port)" and report.adapted == ("body.layer0.conv1.weight",)
    assert report.unexpected == ("fc.weight", "fc.bias") and report.image_mean == pytest.approx(VGGFACE2_MEAN)


def test_a_senet_in_timms_own_layout_is_left_as_it_is(tmp_path: Path) -> None:
    source = copy_of(randomize(timm.create_model("legacy_seresnet50", layers=[1, 1, 1, 1], num_classes=3), 7))
    save_file(source, tmp_path / "se.safetensors")
    module = randomize(create_backbone("legacy_seresnet50", layers=[1, 1, 1, 1]), 0)
    report = load_pretrained_weights(module, tmp_path / "se.safetensors", minimum=1.0)
    assert_equal(copy_of(module), {f"body.{n}": t for n, t in source.items() if not n.startswith("last_linear.")})
    assert report.layout == "timm" and report.adapted == () and report.image_mean is None


def ir50_file(
    dims: tuple[int, ...] = (4, 8, 12, 16), depths: tuple[int, ...] = (3, 4, 14, 3), se: bool = False
) -> State:
    """Names and shapes of face.evoLVe's `backbone_ir50_ms1m_epoch*.pth`, narrower."""
    state: State = {}

    def batch_norm(name: str, channels: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{leaf}"] = torch.rand(channels) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(9)

    torch.manual_seed(5)
    state["input_layer.0.weight"] = torch.rand(dims[0], 3, 3, 3)
    batch_norm("input_layer.1", dims[0])
    state["input_layer.2.weight"] = torch.rand(dims[0])
    batch_norm("output_layer.0", dims[3])
    state["output_layer.3.weight"] = torch.rand(6, dims[3])
    channels, unit = dims[0], 0
    for width, depth in zip(dims, depths, strict=True):
        for _ in range(depth):
            if channels != width:
                state[f"body.{unit}.shortcut_layer.0.weight"] = torch.rand(width, channels, 1, 1)
                batch_norm(f"body.{unit}.shortcut_layer.1", width)
            batch_norm(f"body.{unit}.res_layer.0", channels)
            state[f"body.{unit}.res_layer.1.weight"] = torch.rand(width, channels, 3, 3)
            state[f"body.{unit}.res_layer.2.weight"] = torch.rand(width)
            state[f"body.{unit}.res_layer.3.weight"] = torch.rand(width, width, 3, 3)
            batch_norm(f"body.{unit}.res_layer.4", width)
            if se:
                state[f"body.{unit}.res_layer.5.fc1.weight"] = torch.rand(2, width, 1, 1)
            channels, unit = width, unit + 1
    return state


@pytest.mark.parametrize("prefix", ["", "module.", "ir_back.", "module.ir_back.", "model.backbone."])
def test_ir50_of_face_evolve(prefix: str, tmp_path: Path) -> None:
    state = ir50_file()
    path = tmp_path / "backbone_ir50_ms1m_epoch120.pth"
    path.write_bytes(torch_bytes({f"{prefix}{name}": tensor for name, tensor in state.items()}))
    module = randomize(IR50(dims=(4, 8, 12)), 0)
    report = load_pretrained_weights(module, path, minimum=1.0)
    ours = module.state_dict()
    first_units = {"body1": 0, "body2": 3, "body3": 7}
    for name, tensor in ours.items():
        head, _, rest = name.partition(".")
        if head in first_units:
            unit, _, rest = rest.partition(".")
            name = f"body.{first_units[head] + int(unit)}.{rest}"
        assert torch.equal(tensor, state[name]), name
    assert report.layout == "face.evoLVe IR-50" and set(report.matched) == set(ours)
    as_published = prefix in ("", "module.")  # within POSTER it was trained on, with other statistics
    assert report.image_mean == report.image_std == ((0.5, 0.5, 0.5) if as_published else None)
    fourth = {f"{prefix}{n}" for n in state if n.startswith(("output_layer.", "body.21.", "body.22.", "body.23."))}
    assert set(report.unexpected) == fourth
    assert "architecture" not in str(report)


@pytest.mark.parametrize("prefix", ["", "module.ir_back."])
def test_ir50_of_poster(prefix: str, tmp_path: Path) -> None:
    source = copy_of(randomize(IR50(dims=(4, 8, 12)), 7))
    assert {"input_layer.2.weight", "body1.0.res_layer.1.weight", "body3.13.res_layer.4.bias"} <= source.keys()
    path = tmp_path / "ir50.pth"
    other = {"face_landback.conv1.conv.weight": torch.rand(2, 3, 3, 3), "VIT.blocks.0.norm1.weight": torch.rand(3)}
    path.write_bytes(torch_bytes({**other, **{f"{prefix}{name}": tensor for name, tensor in source.items()}}))
    module = randomize(IR50(dims=(4, 8, 12)), 0)
    report = load_pretrained_weights(module, path, minimum=1.0)
    assert_equal(copy_of(module), source)
    assert report.image_mean == report.image_std == (None if prefix else (0.5, 0.5, 0.5))
    assert report.layout == "POSTER++ IR-50" and set(report.unexpected) == other.keys()


def test_a_deeper_ir_is_refused_and_one_with_squeeze_and_excitation_is_doubted(tmp_path: Path) -> None:
    path = tmp_path / "ir101.pth"
    path.write_bytes(torch_bytes(ir50_file(depths=(3, 13, 30, 3))))
    sentence = refused(path, randomize(IR50(dims=(4, 8, 12)), 0))
    assert "face.evoLVe IR-50" in sentence and "body3.0.shortcut_layer.0.weight" in sentence
    path.write_bytes(torch_bytes(ir50_file(se=True)))
    report = load_pretrained_weights(IR50(dims=(4, 8, 12)), path)
    assert "another architecture?" in str(report) and "body.0.res_layer.5.fc1.weight" in str(report)


def mobilefacenet_file(low: int = 4, middle: int = 8, last: int = 16) -> State:
    """Names and shapes of cunjian/pytorch_face_landmark's MobileFaceNet, narrower."""
    state: State = {}
    torch.manual_seed(6)

    def block(name: str, channels: int, inputs: int, kernel: int, prelu: bool = True) -> None:
        state[f"{name}.conv.weight"] = torch.rand(channels, inputs, kernel, kernel)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{leaf}"] = torch.rand(channels) + 0.5
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(9)
        if prelu:
            state[f"{name}.prelu.weight"] = torch.rand(channels)

    def depthwise(name: str, inputs: int, channels: int, groups: int) -> None:
        block(f"{name}.conv", groups, inputs, 1)
        block(f"{name}.conv_dw", groups, 1, 3)
        block(f"{name}.project", channels, groups, 1, prelu=False)

    block("conv1", low, 3, 3)
    block("conv2_dw", low, 1, 3)
    depthwise("conv_23", low, low, 2 * low)
    for i in range(4):
        depthwise(f"conv_3.model.{i}", low, low, 2 * low)
    depthwise("conv_34", low, middle, 4 * low)
    for i in range(6):
        depthwise(f"conv_4.model.{i}", middle, middle, 2 * middle)
    depthwise("conv_45", middle, middle, 4 * middle)
    for i in range(2):
        depthwise(f"conv_5.model.{i}", middle, middle, 2 * middle)
    block("conv_6_sep", last, middle, 1)
    block("output_layer.conv_6_dw", last, 1, 7, prelu=False)
    state["output_layer.linear.weight"] = torch.rand(136, last)
    return state


@pytest.mark.parametrize("prefix", ["", "module.", "face_landback."])
def test_mobilefacenet_with_numpy_scalars_beside_it(prefix: str, tmp_path: Path) -> None:
    state = mobilefacenet_file()
    path = tmp_path / "mobilefacenet_model_best.pth.tar"
    content = {
        "epoch": 60,
        "arch": "MobileFaceNet",
        "state_dict": {f"{prefix}{name}": tensor for name, tensor in state.items()},
        "best_acc": np.float64(0.97),
        "losses": np.arange(3.0),
        "step": np.int64(4),
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float32(0.1)}]},
    }
    path.write_bytes(torch_bytes(content))
    module = randomize(MobileFaceNet(dims=(4, 8, 8)), 0)
    report = load_pretrained_weights(module, path, minimum=1.0)
    assert_equal(copy_of(module), {n: t for n, t in state.items() if not n.startswith("output_layer.")})
    assert report.layout == "MobileFaceNet"
    if prefix == "face_landback.":
        assert report.image_mean is report.image_std is None
    else:
        assert report.image_mean == (0.0, 0.0, 0.0) and report.image_std == (1.0, 1.0, 1.0)
    assert set(report.unexpected) == {f"{prefix}{n}" for n in state if n.startswith("output_layer.")}
    assert "numpy" not in str(torch.serialization.get_safe_globals())  # nothing stays allowed


def test_microsofts_swin_merges_a_stage_earlier(tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4], "window_size": 4}
    complete = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, num_classes=3, **kwargs)
    source = copy_of(randomize(complete, 7))
    old = {}
    for name, tensor in source.items():
        for stage in (1, 2, 3):
            name = name.replace(f"layers.{stage}.downsample.", f"layers.{stage - 1}.DOWNSAMPLE.")
        old[f"encoder.{name}".replace("DOWNSAMPLE", "downsample").replace("head.fc.", "head.")] = tensor
    old["encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    path = tmp_path / "start_0.pt"
    path.write_bytes(torch_bytes({"state_dict_backbone": old}))
    module = randomize(create_backbone("swin_tiny_patch4_window7_224", image_size=64, **kwargs), 0)
    report = load_pretrained_weights(module, path, minimum=1.0)
    assert report.layout == "Microsoft Swin"
    for ours in report.matched:
        assert torch.equal(module.state_dict()[ours], source[timm_name(ours)]), ours
    assert not any("relative_position_index" in name for name in (*report.matched, *report.unexpected))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = module.double()(images.double())[-1]
        torch.testing.assert_close(maps.permute(0, 2, 3, 1), complete.double().forward_features(images.double()))


# timm ------------------------------------------------------------------------------------------------------

FEATURES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "resnet": ("resnet18", 32, RESNET),
    "swin": (
        "swin_tiny_patch4_window7_224",
        32,
        {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
    ),
    "convnext": ("convnext_atto", 32, {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}),
    "mobilenet": ("mobilenetv3_small_050", 32, {}),
    "vit": ("vit_tiny_patch16_224", 32, {"embed_dim": 16, "depth": 2, "num_heads": 2}),
    "deit": ("deit_tiny_distilled_patch16_224", 32, {"embed_dim": 16, "depth": 2, "num_heads": 2}),
}
COMPLETE: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}),
    "deit": ("deit_tiny_patch16_224", {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}),
    "convit": ("convit_tiny", {"img_size": 32, "embed_dim": 16, "depth": 3, "num_heads": 2, "local_up_to_layer": 2}),
    "xcit": ("xcit_nano_12_p16_224", {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, **FEATURES["swin"][2]}),
    "resnet": ("resnet18", RESNET),
    "mobilenet": ("mobilenetv3_small_050", {}),
}
HEADS = ("fc.", "head.", "head_dist.", "classifier.", "conv_head.", "norm_head.")


@pytest.mark.parametrize("name", FEATURES)
def test_timm_feature_extractors(name: str, tmp_path: Path) -> None:
    model, size, kwargs = FEATURES[name]
    sizes = {"img_size": size} if name in ("swin", "vit", "deit") else {}
    complete = randomize(timm.create_model(model, num_classes=3, **sizes, **kwargs), 7)
    source = copy_of(complete)
    save_file(source, tmp_path / "model.safetensors")
    module = randomize(create_backbone(model, image_size=size, **kwargs), 0)
    report = load_pretrained_weights(module, tmp_path / "model.safetensors", minimum=1.0)

    state = module.state_dict()
    computed = ("relative_position_index", "attn_mask")
    for ours, tensor in state.items():
        if not ours.endswith(computed):
            assert torch.equal(tensor, source[timm_name(ours)]), ours
    assert set(report.matched) == {ours for ours in state if not ours.endswith(computed)}
    left = source.keys() - {timm_name(ours) for ours in state}
    assert set(report.unexpected) == left and all(n.startswith(HEADS) for n in left), left
    assert report.missing == report.adapted == report.notes == ()
    if name in ("swin", "resnet"):
        images = torch.rand(2, 3, size, size)
        with torch.no_grad():
            expected = complete.forward_features(images)
            assert torch.equal(module(images)[-1], expected.permute(0, 3, 1, 2) if name == "swin" else expected)


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_timm_models(name: str, tmp_path: Path) -> None:
    model, kwargs = COMPLETE[name]
    source = copy_of(randomize(timm.create_model(model, num_classes=3, **kwargs), 7))
    save_file(source, tmp_path / "model.safetensors")
    module = randomize(timm.create_model(model, num_classes=0, **kwargs), 0)
    report = load_pretrained_weights(module, tmp_path / "model.safetensors", minimum=1.0)
    assert_equal(copy_of(module), {n: source[n] for n in module.state_dict()})
    assert set(report.unexpected) == source.keys() - module.state_dict().keys()
    assert report.missing == report.adapted == ()


def test_position_tables_of_another_resolution_are_resampled(tmp_path: Path) -> None:
    """As timm's own loader does it, for files too."""
    from timm.models.swin_transformer import checkpoint_filter_fn

    kwargs: dict[str, Any] = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}
    source = copy_of(
        randomize(timm.create_model("swin_tiny_patch4_window7_224", img_size=56, num_classes=3, **kwargs), 7)
    )
    save_file(source, tmp_path / "swin.safetensors")
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, num_classes=3, **kwargs)
    expected = checkpoint_filter_fn(dict(source), model)
    module = randomize(create_backbone("swin_tiny_patch4_window7_224", image_size=32, **kwargs), 0)
    report = load_pretrained_weights(module, tmp_path / "swin.safetensors", minimum=1.0)
    tables = [n for n in module.state_dict() if "layers_1" in n and n.endswith("relative_position_bias_table")]
    assert len(tables) == 2 and report.adapted == tuple(tables)  # 7×7 windows on maps of 4×4
    for name in tables:
        theirs = name.removeprefix("body.").replace("layers_1", "layers.1")
        assert module.state_dict()[name].shape == (49, 2) != source[theirs].shape
        assert torch.equal(module.state_dict()[name], expected[theirs])
        assert f"{name}: resampled" in report.notes


@pytest.mark.parametrize("name", ["vit", "deit", "convit"])
def test_position_embeddings_of_another_resolution_are_resampled(name: str, tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    model, kwargs = {**COMPLETE, "deit": (FEATURES["deit"][0], {**FEATURES["deit"][2], "img_size": 32})}[name]
    tokens = {"vit": 1, "deit": 2, "convit": 0}[name]
    source = copy_of(randomize(timm.create_model(model, num_classes=3, **{**kwargs, "img_size": 48}), 7))
    save_file(source, tmp_path / "vit.safetensors")
    module = randomize(timm.create_model(model, num_classes=0, **{**kwargs, "img_size": 80}), 0)
    report = load_pretrained_weights(module, tmp_path / "vit.safetensors", minimum=1.0)
    assert report.adapted == ("pos_embed",) and source["pos_embed"].shape[1] == 9 + tokens
    expected = resample_abs_pos_embed(source["pos_embed"], [5, 5], num_prefix_tokens=tokens)
    assert torch.equal(module.pos_embed, expected)
    assert torch.equal(module.pos_embed[:, :tokens], source["pos_embed"][:, :tokens])


# Shapes, channels and types --------------------------------------------------------------------------------


def test_a_grey_stem_is_the_sum_over_rgb(tmp_path: Path) -> None:
    state = resnet_file()
    save_file(state, tmp_path / "rgb.safetensors")
    module = small_resnet(in_chans=1)
    report = load_pretrained_weights(module, tmp_path / "rgb.safetensors", minimum=1.0)
    assert torch.equal(module.body.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    assert report.adapted == ("body.conv1.weight",) and "body.conv1.weight" in report.matched
    assert any("summed over RGB" in note for note in report.notes)
    # a grey image gives what it gave as three equal channels
    rgb = small_resnet()
    load_pretrained_weights(rgb, tmp_path / "rgb.safetensors")
    grey = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(module(grey)[-1], rgb(grey.expand(-1, 3, -1, -1))[-1])


def test_a_grey_stem_from_bgr(tmp_path: Path) -> None:
    arrays = vggface2_port((1, 1, 1, 1), senet=False)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays))
    module = small_resnet(name="resnet50", channels=VGG_WIDTHS, in_chans=1)
    report = load_pretrained_weights(module, tmp_path / "w.pkl")
    assert torch.equal(module.body.conv1.weight, torch.from_numpy(arrays["conv1.weight"]).sum(1, keepdim=True))
    assert report.adapted == ("body.conv1.weight",)


def test_only_a_stem_is_summed(tmp_path: Path) -> None:
    """A depth-wise convolution has one input channel too."""

    def network(channels: int) -> nn.Sequential:
        return nn.Sequential(*(nn.Conv2d(c, 3, 3, bias=False) for c in (3, 3, 3, 3, channels)))

    torch.manual_seed(0)
    save_file(network(3).state_dict(), tmp_path / "five.safetensors")
    report = load_pretrained_weights(network(1), tmp_path / "five.safetensors")
    assert report.missing == ("4.weight",) and report.adapted == ()


def test_another_shape_is_missing_and_said_so(tmp_path: Path) -> None:
    state = resnet_file()
    state["layer1.0.bn1.weight"] = torch.ones(5)
    state["bn1.num_batches_tracked"] = torch.zeros(2, dtype=torch.int64)  # nobody will miss it
    save_file(state, tmp_path / "w.safetensors")
    module = small_resnet()
    before = module.body.layer1[0].bn1.weight.clone()
    report = load_pretrained_weights(module, tmp_path / "w.safetensors")
    assert report.missing == ("body.layer1.0.bn1.weight",) and torch.equal(module.body.layer1[0].bn1.weight, before)
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    assert "body.layer1.0.bn1.weight: (5,) in the file, (4,) here" in str(report)
    assert module.body.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_modules_own_type_and_tensors_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    state = resnet_file()
    save_file(state, tmp_path / "w.safetensors")
    module = small_resnet().to(dtype)
    tensors = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    load_pretrained_weights(module, tmp_path / "w.safetensors", minimum=1.0)
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == tensors
    assert torch.equal(module.body.conv1.weight, state["conv1.weight"].to(dtype))
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_half_precision_files_are_widened(tmp_path: Path) -> None:
    state = {n: t.bfloat16() if t.is_floating_point() else t for n, t in resnet_file().items()}
    save_file(state, tmp_path / "w.safetensors")
    module = small_resnet()
    load_pretrained_weights(module, tmp_path / "w.safetensors", minimum=1.0)
    assert torch.equal(module.body.conv1.weight, state["conv1.weight"].float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(value: float, tmp_path: Path) -> None:
    state = resnet_file()
    state["layer2.0.bn1.running_var"][3] = value
    save_file(state, tmp_path / "w.safetensors")
    assert "layer2.0.bn1.running_var' holds values that are not finite" in refused(tmp_path / "w.safetensors")
    state = resnet_file()
    state["fc.weight"][0] = value  # a head is of no interest
    save_file(state, tmp_path / "w.safetensors")
    load_pretrained_weights(small_resnet(), tmp_path / "w.safetensors")


def test_numbers_too_large_for_the_module(tmp_path: Path) -> None:
    state = resnet_file()
    state["layer4.0.conv2.weight"][0] = 1e6
    save_file(state, tmp_path / "w.safetensors")
    assert "not finite as torch.float16" in refused(tmp_path / "w.safetensors", small_resnet().half())


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.complex64])
def test_numbers_that_are_no_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    state = resnet_file()
    state["layer4.0.conv2.weight"] = state["layer4.0.conv2.weight"].to(dtype)
    (tmp_path / "w.pth").write_bytes(torch_bytes(state))
    sentence = refused(tmp_path / "w.pth")
    assert "'layer4.0.conv2.weight'" in sentence and str(dtype) in sentence


# The report and the share ----------------------------------------------------------------------------------


class Ten(nn.Module):
    """Ten tensors that are wanted, and four that nobody would miss."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(2)
        for i in range(6):
            self.register_parameter(f"p{i}", nn.Parameter(torch.full((2,), float(i))))
        self.register_buffer("relative_position_index", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("attn_mask", torch.zeros(3))
        self.register_buffer("unsaved", torch.zeros(3), persistent=False)


@pytest.mark.parametrize(
    ("kept", "minimum", "accepted"),
    [(8, 0.8, True), (7, 0.8, False), (10, 1.0, True), (9, 1.0, False), (1, 0.1, True), (3, 0.31, False)],
)
def test_the_share_that_is_needed(kept: int, minimum: float, accepted: bool, tmp_path: Path) -> None:
    state = copy_of(randomize(Ten(), 3))
    wanted = [*(f"p{i}" for i in range(6)), *(f"bn.{n}" for n in ("weight", "bias", "running_mean", "running_var"))]
    file = {name: state[name] for name in wanted[:kept]}
    save_file({**file, "q": torch.zeros(1)}, tmp_path / "w.safetensors")
    module = Ten()
    if accepted:
        report = load_pretrained_weights(module, tmp_path / "w.safetensors", minimum)
        assert set(report.matched) == set(file) and set(report.missing) == set(wanted[kept:])
        assert report.unexpected == ("q",)
        assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in file.items())
    else:
        sentence = refused(tmp_path / "w.safetensors", module, minimum=minimum)
        assert f"only {kept} of the 10 tensors of the Ten" in sentence and "are q" in sentence


def test_counters_are_taken_and_computed_tables_are_not(tmp_path: Path) -> None:
    """The tables are those of this network's own geometry, whatever the file was trained with."""
    state = copy_of(randomize(Ten(), 3))
    state["relative_position_index"] = torch.arange(3)
    state["attn_mask"] = torch.arange(3.0)
    save_file(state, tmp_path / "w.safetensors")
    module = Ten()
    report = load_pretrained_weights(module, tmp_path / "w.safetensors", minimum=1.0)
    tables = {"relative_position_index", "attn_mask"}
    assert_equal(copy_of(module), {**state, **{name: copy_of(Ten())[name] for name in tables}})
    assert set(report.matched) == state.keys() - tables
    assert report.missing == report.unexpected == report.notes == ()
    for counter in (torch.tensor(5.0), torch.tensor([5])):
        save_file({**state, "bn.num_batches_tracked": counter}, tmp_path / "w.safetensors")
        module = Ten()
        report = load_pretrained_weights(module, tmp_path / "w.safetensors", minimum=1.0)
        assert module.bn.num_batches_tracked == 0 and report.missing == report.unexpected == report.notes == ()


def test_names_that_differ_in_a_wrapper_alone(tmp_path: Path) -> None:
    """Taking `body.` off would make two of them one."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleDict({"norm": nn.LayerNorm(3)})
            self.norm = nn.LayerNorm(3)

    source = copy_of(randomize(Twice(), 3))
    module = Twice()
    for prefix in ("", "backbone."):
        save_file({f"{prefix}{name}": tensor for name, tensor in source.items()}, tmp_path / "w.safetensors")
        module = Twice()
        load_pretrained_weights(module, tmp_path / "w.safetensors", minimum=1.0)
        assert_equal(copy_of(module), source)


@pytest.mark.parametrize("minimum", [0, -0.1, 1.1, float("nan")])
def test_an_impossible_share(minimum: float, tmp_path: Path) -> None:
    save_file(resnet_file(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"minimum must be over 0 and at most 1"):
        load_pretrained_weights(small_resnet(), tmp_path / "w.safetensors", minimum)


def test_weights_of_another_network_are_refused_with_reasons(tmp_path: Path) -> None:
    save_file(resnet_file(), tmp_path / "resnet.safetensors")
    kwargs = FEATURES["convnext"][2]
    sentence = refused(tmp_path / "resnet.safetensors", randomize(create_backbone("convnext_atto", **kwargs), 0))
    for part in (
        "resnet.safetensors",
        "only 0 of",
        "Backbone",
        "80 %",
        "body.stem_0.weight",
        "are bn1.bias, bn1.running",
    ):
        assert part in sentence, sentence
    wide = small_resnet(channels=[8, 16, 16, 32])
    sentence = refused(tmp_path / "resnet.safetensors", wide)
    assert "torchvision ResNet" in sentence and "(4, 3, 7, 7) in the file" not in sentence
    assert "body.layer1.0.conv1.weight: (4, 64, 3, 3) in the file, (8, 64, 3, 3) here" in sentence


@pytest.mark.parametrize(
    ("module", "words"), [(nn.Identity(), "has no weights"), (nn.Linear(2, 2, device="meta"), "meta device")]
)
def test_a_module_that_cannot_be_filled(module: nn.Module, words: str, tmp_path: Path) -> None:
    save_file(resnet_file(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=words):
        load_pretrained_weights(module, tmp_path / "w.safetensors")


def test_the_report_reads_well_and_tells_no_folders(tmp_path: Path) -> None:
    path = tmp_path / "private" / "resnet50_ft_weight.pkl"
    path.parent.mkdir()
    path.write_bytes(python2_pickle(vggface2_port((1, 1, 1, 1), senet=False)))
    report = load_pretrained_weights(small_resnet(name="resnet50", channels=VGG_WIDTHS), path)
    assert report.source == "resnet50_ft_weight.pkl" and "private" not in repr(report)
    assert str(report).splitlines() == [
        "resnet50_ft_weight.pkl (VGGFace2 ResNet (PyTorch port))",
        f"  filled: {len(report.matched)} tensors, 1 of them adapted",
        "  missing: none",
        "  unexpected: fc.weight, fc.bias",
        "  trained with: mean (0.5141, 0.4074, 0.3588), std (0.003922, 0.003922, 0.003922)",
        "  body.conv1.weight: BGR turned into RGB",
        "  trained with each stage's stride in its first 1x1 convolution (timm's resnet50: in the 3x3 one)",
    ]


def test_our_own_checkpoints(tmp_path: Path) -> None:
    config = MEKConfig(backbone_kwargs=RESNET, num_labels=3, image_size=32)
    model = MEKForImageClassification(config)
    randomize(model, 7)
    folder = tmp_path / "mek-rafdb"
    model.save_pretrained(folder)
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    for source in (folder, str(folder), folder / "model.safetensors"):
        module = small_resnet()
        report = load_pretrained_weights(module, source, minimum=1.0)
        assert_equal(copy_of(module), copy_of(model.backbone))
        assert report.source == Path(source).name
        assert report.unexpected == ("classifier.bias", "classifier.weight")
        assert report.image_mean == (0.1, 0.2, 0.3) and report.image_std == (0.4, 0.5, 0.6)
    (folder / "preprocessor_config.json").write_text(json.dumps({**statistics, "do_normalize": False}))
    assert load_pretrained_weights(small_resnet(), folder).image_mean is None
    (folder / "preprocessor_config.json").write_text("{broken")
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}))
    report = load_pretrained_weights(small_resnet(), folder)
    assert report.image_mean == (0.5,) * 3 and report.image_std == (0.25,) * 3


def test_our_own_swin_brings_its_norm(tmp_path: Path) -> None:
    model, size, kwargs = FEATURES["swin"]
    source = randomize(create_backbone(model, image_size=size, **kwargs), 7)
    save_file({f"backbone.{name}": tensor for name, tensor in copy_of(source).items()}, tmp_path / "w.safetensors")
    module = randomize(create_backbone(model, image_size=size, **kwargs), 0)
    load_pretrained_weights(module, tmp_path / "w.safetensors", minimum=1.0)
    assert_equal(copy_of(module), copy_of(source))


def test_a_folder_prefers_safetensors(tmp_path: Path) -> None:
    old, new = resnet_file(1), resnet_file(2)
    (tmp_path / "pytorch_model.bin").write_bytes(torch_bytes(old))
    assert_equal(read_state_dict(tmp_path), old)
    save_file(new, tmp_path / "model.safetensors")
    assert_equal(read_state_dict(tmp_path), new)


@pytest.mark.parametrize("module", [pretrained_weights, weight_files])
def test_nobody_waits_for_what_only_some_sources_need(module: ModuleType) -> None:
    file = module.__file__
    assert set(get_relative_imports(file)) <= {"weight_files"}
    allowed = {"torch", "timm", "huggingface_hub", "safetensors", "numpy"}
    assert set(get_imports(file)) - sys.stdlib_module_names <= allowed
    top = [node for node in ast.parse(Path(file).read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in top for alias in node.names if isinstance(node, ast.Import)}
    names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"torch"}  # nobody waits for the others


# Files that would execute code -----------------------------------------------------------------------------


class Bomb:
    """Unpickled, it calls what it was armed with."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def named_global(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls any name at all with one string, in the midst of a dictionary."""
    return f"(dS'a'\nc{module}\n{name}\n(S'{argument}'\ntRs.".encode()


def bombs(mark: Path) -> dict[str, tuple[Bomb, str]]:
    """Live calls that create the file `mark`, and a part of the name of the global that each needs."""
    code = f"open({str(mark)!r}, 'w').close()"
    return {
        "system": (Bomb(os.system, f"touch {mark}"), "posix.system"),
        "eval": (Bomb(builtins.eval, code), "eval"),
        "exec": (Bomb(builtins.exec, code), "exec"),
        "open": (Bomb(builtins.open, str(mark), "w"), "io.open"),
        "subprocess": (Bomb(subprocess.call, ["touch", str(mark)]), ".call"),  # Python 2 called it commands.call
        "numpy.save": (Bomb(np.savetxt, str(mark), [1.0]), "numpy.savetxt"),
        "numpy.tofile": (Bomb(np.memmap, str(mark), "uint8", "w+", 0, (1,)), "numpy.memmap"),
        "method": (Bomb(mark.touch), "getattr"),
        "torch.save": (Bomb(torch.save, 1, str(mark)), "torch.serialization.save"),
    }


NESTINGS: dict[str, Callable[[State, Bomb], Any]] = {
    "alone": lambda state, bomb: bomb,
    "last": lambda state, bomb: {**state, "zz": bomb},
    "first": lambda state, bomb: {"aa": bomb, **state},
    "beside": lambda state, bomb: {"state_dict": state, "args": [1, (2, {"x": bomb})]},
    "within": lambda state, bomb: {"state_dict": OrderedDict([*state.items(), ("x", bomb)]), "best": np.float64(1)},
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("kind", bombs(Path("x")))
def test_no_bomb_goes_off(kind: str, nesting: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "weights.pth"
    bomb, needs = bombs(mark)[kind]
    tensors = {"conv1.weight": torch.ones(2)}
    arrays = {"conv1.weight": np.ones(2, np.float32)}
    contents = {
        "zip": torch_bytes(NESTINGS[nesting](tensors, bomb)),
        "old": torch_bytes(NESTINGS[nesting](tensors, bomb), _use_new_zipfile_serialization=False),
        **{f"pickle {p}": pickle.dumps(NESTINGS[nesting](arrays, bomb), protocol=p) for p in (0, 2, 4)},
    }
    for content in contents.values():
        path.write_bytes(content)
        sentence = refused(path)
        assert "execute code" in sentence and "nothing of it was run" in sentence
        assert needs in sentence.partition("asks for ")[2].partition(",")[0], sentence
        assert not mark.exists()
        with pytest.raises(ValueError, match="execute code"):
            read_state_dict(path)
        assert not mark.exists()


@pytest.mark.parametrize("kind", bombs(Path("x")))
def test_the_bombs_are_live(kind: str, tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    mark = tmp_path / "mark"
    bomb, _ = bombs(mark)[kind]
    pickle.loads(pickle.dumps({"a": bomb}))
    assert mark.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "core"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy.core.numeric", "load"),
        ("numpy.lib", "load"),
        ("numpy.core", "multiarray"),
        ("_codecs", "decode"),
        ("_codecs", "lookup"),
        ("codecs", "encode"),
        ("collections", "namedtuple"),
        ("collections", "defaultdict"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("no_such_module", "nothing"),
    ],
)
def test_no_other_global_is_looked_up(module: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(named_global(module, name, "x"))
    sentence = refused(path)
    assert f"{module}.{name}" in sentence and "execute code" in sentence
    assert "no_such_module" not in sys.modules


@pytest.mark.parametrize("encoding", ["rot13", "zlib", "unicode_escape"])
def test_encode_takes_latin1_alone(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(f"(dS'a'\nc_codecs\nencode\n(S'x'\nS'{encoding}'\ntRs.".encode())
    sentence = refused(path)
    assert "_codecs.encode" in sentence and encoding in sentence and "execute code" in sentence


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray\n((I1000000000\ntcnumpy\ndtype\n(S'f8'\ntRtR.",  # memory at will
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"cnumpy\ndtype\n(S'V8'\ntR.",
        b"cnumpy\ndtype\n((lp0\n(S'x'\nS'O'\ntatR.",
        b"(dS'a'\ncnumpy\nndarray\n)\x81s.",
        b"(dS'a'\nccollections\nOrderedDict\ns.",
        b"Px\n.",  # a persistent id
        b"\x82\x01.",  # an extension code
        b"(dS'a'\ncnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I9\ntcnumpy\ndtype\n(S'f4'\ntRI00\nS'abcd'\ntbs.",
    ],
)
def test_misused_stand_ins_give_a_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    assert "weights.pkl" in refused(path)


def test_a_file_cannot_tamper_with_the_reading_of_the_next(tmp_path: Path) -> None:
    """BUILD writes attributes into whatever stands on the stack, functions and classes included."""
    hostile, good = tmp_path / "hostile.pkl", tmp_path / "good.pkl"
    arrays = vggface2_port((1, 1, 1, 1), senet=False)
    good.write_bytes(python2_pickle(arrays))
    for name in ("numpy.core.multiarray\n_reconstruct", "numpy.core.multiarray\nscalar", "_codecs\nencode"):
        state = b"(N(dS'__kwdefaults__'\n(dsS'__defaults__'\n(tsS'encoding'\nS'zlib'\nst"
        hostile.write_bytes(b"(dS'a'\nc" + name.encode() + b"\n" + state + b"bs.")
        refused(hostile)
    for name in ("ndarray", "dtype"):
        hostile.write_bytes(b"(dS'a'\ncnumpy\n" + name.encode() + b"\n(N(dS'fill'\nNst" + b"bs.")
        refused(hostile)
    assert_equal(read_state_dict(good), {n: torch.from_numpy(a) for n, a in arrays.items()})
    good.write_bytes(b"(dS'a'\nc_codecs\nencode\n(S'x'\ntRs.")  # with the default that was written over above
    assert "no state dict was found" in refused(good)


# Broken files ----------------------------------------------------------------------------------------------

HTML = b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b\nsize 12345\n"


def broken(kind: str) -> bytes:
    state = resnet_file()
    whole = {
        "safetensors": save(state),
        "zip": torch_bytes(state),
        "old torch": torch_bytes(state, _use_new_zipfile_serialization=False),
        "pickle": python2_pickle({"a": np.ones((5, 5), np.float32)}),
    }
    return {
        "empty": b"",
        "html": HTML,
        "html after blanks": b"\xef\xbb\xbf \r\n\t" + HTML,
        "lfs": LFS,
        "text": b"these are not the weights you are looking for",
        "zeros": bytes(1000),
        "a list": torch_bytes([torch.ones(2)]),
        "a tensor": torch_bytes(torch.ones(2)),
        "a number": pickle.dumps(5),
        "nothing": torch_bytes({}),
        "no tensors": torch_bytes({"epoch": 3, "state_dict": {"lr": 0.1}}),
        "garbage": torch_bytes({"state_dict": {"model": {"net": {"backbone": {"state_dict": {"model": {}}}}}}}),
        "numbered": torch_bytes({0: torch.ones(2), 1: torch.ones(2)}),
        "two networks": torch_bytes({"student": state, "teacher": state}),
        "sparse": torch_bytes({"conv1.weight": torch.eye(3).to_sparse()}),
        "quantised": torch_bytes({"conv1.weight": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}),
        "strings": pickle.dumps({"conv1.weight": np.array(["a", "b"])}, protocol=2),
        "objects": pickle.dumps({"conv1.weight": np.array([None, 1], dtype=object)}, protocol=2),
        "another zip": another_zip(),
        **{f"{kind}, half of it": content[: len(content) // 2] for kind, content in whole.items()},
        **{f"{kind}, all but an end": content[:-1] for kind, content in whole.items()},
        **{f"{kind}, a few bytes": content[:9] for kind, content in whole.items()},
    }[kind]


def another_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "the file is empty"),
        ("html", "a web page, not weights"),
        ("html after blanks", "a web page, not weights"),
        ("lfs", "Git LFS pointer"),
        ("text", "cannot be read as weights"),
        ("zeros", "cannot be read as weights"),
        ("a list", "no state dict was found in the file, only a list"),
        ("a tensor", "no state dict was found in the file, only a Tensor"),
        ("a number", "no state dict was found in the file, only a int"),
        ("nothing", "no state dict was found in the file, only entries none"),
        ("no tensors", "no state dict was found in the file, only entries epoch, state_dict"),
        ("garbage", "no state dict was found in the file"),
        ("numbered", "no state dict was found in the file, only entries 0, 1"),
        ("two networks", "no state dict was found in the file, only entries student, teacher"),
        ("sparse", "'conv1.weight' is sparse"),
        ("quantised", "'conv1.weight' is sparse, quantised or without values"),
        ("strings", "arrays of type"),
        ("objects", "arrays of type"),
        ("another zip", "cannot be read as weights"),
        *(
            (f"{kind}, {part}", "cannot be read as weights")
            for kind in ("safetensors", "zip", "old torch", "pickle")
            for part in ("half of it", "all but an end", "a few bytes")
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_broken_files_give_a_sentence(kind: str, words: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(broken(kind))
    sentence = refused(path)
    assert str(path) in sentence
    if suffix != ".safetensors" or kind in ("empty", "html", "lfs") or kind.startswith("safetensors"):
        assert words in sentence, sentence


def test_a_safetensors_header_may_begin_like_a_web_page(tmp_path: Path) -> None:
    """Of 0x3C20 bytes: a blank and a `<`."""
    content = save({"a": torch.ones(2)})
    (length,) = struct.unpack("<Q", content[:8])
    padded = struct.pack("<Q", 0x3C20) + content[8 : 8 + length].ljust(0x3C20) + content[8 + length :]
    (tmp_path / "w.pth").write_bytes(padded)
    assert torch.equal(read_state_dict(tmp_path / "w.pth")["a"], torch.ones(2))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may open anything")
def test_a_file_that_may_not_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"x")
    path.chmod(0)
    assert "cannot be opened (Permission denied)" in refused(path)


@pytest.mark.parametrize(
    "source",
    [
        "weights.pth",
        "ms1m/weights.PTH",
        "weights.pth.tar",
        "weights.safetensors",
        "./weights",
        "../weights",
        "/no/such/folder",
        "no/such/folder",
        "folder/",
        "~/no_such_weights",
        "~nobody_of_this_name/weights",
        "nul\0byte.pth",
        "C:\\weights",
        Path("weights"),
        Path("owner/name"),
    ],
)
def test_a_path_that_does_not_exist(source: str | Path) -> None:
    sentence = refused(source)
    assert sentence.startswith(f"{source}: there is no such file or folder") and "timm" in sentence
    with pytest.raises(ValueError, match="there is no such file or folder"):
        read_state_dict(source)


@pytest.mark.parametrize("source", ["", "qwertyuiop", "resnet_of_nobody", "x" * 5000, "nul\0byte"])
def test_a_name_that_is_nothing(source: str) -> None:
    sentence = refused(source)
    assert repr(source) in sentence and "no timm model" in sentence
    assert ("timm has resnet" in sentence) == (source == "resnet_of_nobody")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    assert "neither model.safetensors nor pytorch_model.bin" in refused(tmp_path)


@pytest.mark.parametrize("source", ["resnet18.nobodys_tag", "resnet18"])
def test_timm_weights_that_cannot_be_had(source: str) -> None:
    sentence = refused(source)
    assert sentence.startswith(f"{source}: timm's pretrained weights could not be had (")
    assert ("nobodys_tag" in sentence.partition("(")[2]) == ("." in source)


def test_a_timm_name_is_of_timms_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its ResNets have torchvision's names; the statistics are those of the weights' config."""
    model = randomize(timm.create_model("resnet18", **RESNET), 7)
    module = small_resnet()
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("timm.create_model", lambda name, **kwargs: calls.append((name, kwargs)) or model)
    report = load_pretrained_weights(module, "resnet18.a1_in1k", minimum=1.0)
    assert calls == [("resnet18.a1_in1k", {"pretrained": True})]
    assert report.layout == "timm" and report.source == "resnet18.a1_in1k"
    assert report.image_mean == (0.485, 0.456, 0.406) and report.image_std == (0.229, 0.224, 0.225)
    assert torch.equal(module.body.conv1.weight, model.conv1.weight)


def test_timm_models_without_weights() -> None:
    """timm would warn and go on with random numbers."""
    assert "timm has none for it" in refused("darknet17")


def test_a_repository_that_is_not_in_the_cache_while_offline() -> None:
    sentence = refused("someone/never-downloaded-before")
    assert "the Hub cannot be reached and its cache lacks the weights" in sentence


def test_whatever_else_a_download_ends_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError("No space left on device.\nTraceback, and so on")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    assert refused("someone/resnet") == "someone/resnet: the download failed (No space left on device); try again"


@pytest.mark.parametrize("source", ["some one/name", "owner/na..me", "owner/--", "a" * 100 + "/b"])
def test_a_repository_name_the_hub_would_not_allow(source: str) -> None:
    assert "no name for a Hub repository" in refused(source)


# The Hub ---------------------------------------------------------------------------------------------------

COMMIT = {"main": "a" * 40, "v2": "b" * 40}


class Hub:
    """The part of the Hub that downloads use, on a loopback port."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}  # (repository, revision) -> name -> content
        self.gated: set[str] = set()
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                hub.requests.append(self.path)
                repository, found, rest = self.path.lstrip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                commits = {commit: revision for revision, commit in COMMIT.items()}
                revision = commits.get(revision, revision)
                content = hub.files.get((repository, revision), {}).get(name)
                error = None
                if not found or not any(known == repository for known, _ in hub.files):
                    error = 401, "RepoNotFound"
                elif repository in hub.gated:
                    error = 403, "GatedRepo"
                elif (repository, revision) not in hub.files:
                    error = 404, "RevisionNotFound"
                elif content is None:
                    error = 404, "EntryNotFound"
                self.send_response(error[0] if error else 200)
                if error:
                    self.send_header("X-Error-Code", error[1])
                if revision in COMMIT:
                    self.send_header("X-Repo-Commit", COMMIT[revision])
                data = b"" if error or content is None else content
                self.send_header("ETag", f'"{hash(data) & 0xFFFFFFFFFFFF:x}"')
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


CLIENT = """
import dataclasses, json, sys, torch
from safetensors.torch import save_file
from hf_fer.models.backbones import create_backbone
from hf_fer.models.pretrained_weights import load_pretrained_weights

results = {}
for i, (source, backbone, kwargs) in enumerate(json.loads(sys.argv[1])):
    module = create_backbone(backbone, **kwargs)
    torch.manual_seed(5)
    try:
        report = load_pretrained_weights(module, source)
        results[source] = {**dataclasses.asdict(report), "file": f"{i}.safetensors"}
        save_file(module.state_dict(), f"{i}.safetensors")
    except ValueError as e:
        results[source] = str(e)
    assert torch.equal(torch.rand(2), torch.manual_seed(5) and torch.rand(2)), "the seed of the user was used up"
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def downloads(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, dict[str, State]]:
    """What the real client made of every source in one process, the folder of the filled modules, the originals."""
    folder = tmp_path_factory.mktemp("client")
    main, second, old = resnet_file(1), resnet_file(2), resnet_file(3)
    tiny = copy_of(randomize(timm.create_model("test_resnet"), 4))
    vit = copy_of(randomize(timm.create_model("test_vit"), 5))
    statistics = json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}).encode()
    hub.files = {
        ("someone/resnet", "main"): {"model.safetensors": save(main), "preprocessor_config.json": statistics},
        ("someone/resnet", "v2"): {"model.safetensors": save(second), "pytorch_model.bin": torch_bytes(main)},
        ("someone/old", "main"): {"pytorch_model.bin": torch_bytes({"state_dict": old})},
        ("someone/readme", "main"): {"README.md": b"# Nothing"},
        ("someone/evil", "main"): {"pytorch_model.bin": torch_bytes(bombs(folder / "mark")["system"][0])},
        ("someone/page", "main"): {"model.safetensors": HTML},
        ("someone/gated", "main"): {},
        ("timm/test_resnet.r160_in1k", "main"): {"model.safetensors": save(tiny)},
        ("timm/test_vit.r160_in1k", "main"): {"model.safetensors": save(vit)},
    }
    hub.gated = {"someone/gated"}
    small: tuple[str, dict[str, Any]] = "resnet18", RESNET
    cases = [
        *(
            (s, *small)
            for s in ("someone/resnet", "someone/resnet@v2", "someone/old", "someone/readme", "someone/evil")
        ),
        *((s, *small) for s in ("someone/page", "someone/gated", "nobody/nothing")),
        ("someone/resnet@v3", *small),
        ("test_resnet", "test_resnet", {}),
        ("test_resnet.r160_in1k", "test_resnet", {"in_chans": 1}),
        ("test_vit", "test_vit", {"image_size": 64}),
        ("test_convnext", "test_convnext", {}),
    ]
    environment = {
        k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE")
    }
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_dummy", "HF_HOME": str(folder / "home")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(cases)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    originals = {
        "someone/resnet": main,
        "someone/resnet@v2": second,
        "someone/old": old,
        "test_resnet": tiny,
        "vit": vit,
    }
    return json.loads(run.stdout.splitlines()[-1]), folder, originals


Downloads = tuple[dict[str, Any], Path, dict[str, State]]


@pytest.mark.parametrize("source", ["someone/resnet", "someone/resnet@v2", "someone/old", "test_resnet"])
def test_downloads_arrive_bit_for_bit(source: str, downloads: Downloads) -> None:
    results, folder, originals = downloads
    report = results[source]
    assert isinstance(report, dict), report
    assert report["source"] == source and report["missing"] == report["adapted"] == []
    expected = {f"body.{n}": t for n, t in originals[source].items() if not n.startswith("fc.")}
    assert_equal(load_file(folder / report["file"]), expected)
    assert set(report["unexpected"]) == {"fc.weight", "fc.bias"}
    assert report["layout"] == ("timm" if source == "test_resnet" else "torchvision ResNet")


def test_statistics_come_along(downloads: Downloads) -> None:
    results = downloads[0]
    assert results["someone/resnet"]["image_mean"] == [0.1, 0.2, 0.3]
    assert results["someone/resnet"]["image_std"] == [0.4, 0.5, 0.6]
    assert results["someone/old"]["image_mean"] is None
    assert results["test_resnet"]["image_mean"] == results["test_resnet"]["image_std"] == [0.5, 0.5, 0.5]


def test_timm_weights_are_adapted(downloads: Downloads) -> None:
    from timm.layers import resample_abs_pos_embed

    results, folder, originals = downloads
    grey = load_file(folder / results["test_resnet.r160_in1k"]["file"])
    name = "body.conv1.0.weight"
    assert results["test_resnet.r160_in1k"]["adapted"] == [name]
    assert torch.equal(grey[name], originals["test_resnet"]["conv1.0.weight"].sum(1, keepdim=True))
    vit = load_file(folder / results["test_vit"]["file"])
    theirs = originals["vit"]["pos_embed"]
    assert results["test_vit"]["adapted"] == ["body.model.pos_embed"]
    tokens = theirs.shape[1] - 100
    assert torch.equal(vit["body.model.pos_embed"], resample_abs_pos_embed(theirs, [4, 4], num_prefix_tokens=tokens))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nobody/nothing", "no such file here, and no such repository on the Hub"),
        ("someone/resnet@v3", "the Hub repository has no revision 'v3'"),
        ("someone/readme", "the Hub repository has neither model.safetensors nor pytorch_model.bin"),
        ("someone/gated", "the Hub repository is gated"),
        ("someone/page", "a web page, not weights"),
        ("someone/evil", "nothing of it was run"),
        ("test_convnext", "timm's pretrained weights could not be had ("),
    ],
)
def test_failed_downloads_give_a_sentence(source: str, words: str, downloads: Downloads) -> None:
    results, folder, _ = downloads
    assert isinstance(results[source], str) and results[source].startswith(f"{source}: ")
    assert words in results[source] and "\n" not in results[source]
    assert not (folder / "mark").exists()
