"""Checkpoints from strangers, and what loading each must end in: `python hostile_cases.py OUT.json` tries them all.

One process for all of them, with little more address space than it needs after its imports: what allocates by the
word of a hostile file fails by MemoryError, which is not the sentence that is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"]
METHODS = ("hsac", "mek", "neural_resizer", "multires", "grefel")
TRAP = "HF_FER_TRAP"
"""Environment variable: the file that any code of a hostile checkpoint writes."""
CODE = f"import os\nopen(os.environ[{TRAP!r}], 'a').write('sprung')\nclass X: pass\n"
MIB = 1 << 20

Spoil = Callable[[Path], object]


class Exploit:
    """Runs code as soon as it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (CODE,)


# --- what is done to a good checkpoint -------------------------------------------------------------------------


def edit(name: str, **changes: Any) -> Spoil:
    """Set fields of a JSON file; `...` takes one away."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not ...}
        (folder / name).write_text(json.dumps(kept))

    return spoil


def config(**changes: Any) -> Spoil:
    return edit("config.json", **changes)


def labels(count: Any) -> Spoil:
    return config(num_labels=count, id2label=..., label2id=...)


def named(*names: Any) -> Spoil:
    return config(id2label={str(k): name for k, name in enumerate(names)}, label2id=...)


def processor(**changes: Any) -> Spoil:
    return edit("preprocessor_config.json", **changes)


def write(name: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def exploit_in(*names: str) -> Spoil:
    def spoil(folder: Path) -> None:
        import torch

        for name in names:
            torch.save({"weight": Exploit()}, folder / name)

    return spoil


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def plain_pickle(folder: Path) -> None:
    no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit()))


def harmless_pickle(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    no_weights(folder)


def index(places: dict[str, Any]) -> Spoil:
    content = json.dumps({"metadata": {}, "weight_map": places})
    return both(no_weights, write("model.safetensors.index.json", content))


def header(change: Callable[[dict[str, Any], list[str]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        end = 8 + struct.unpack("<Q", data[:8])[0]
        entries = json.loads(data[8:end])
        change(entries, [name for name in entries if name != "__metadata__"])
        text = json.dumps(entries).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[end:])

    return spoil


def same_place(entries: dict[str, Any], names: list[str]) -> None:
    entries[names[0]]["data_offsets"] = entries[names[1]]["data_offsets"]


def large_shape(entries: dict[str, Any], names: list[str]) -> None:
    entries["classifier.weight"]["shape"] = [10**12, 10**12]


def integers(entries: dict[str, Any], names: list[str]) -> None:
    entries["classifier.weight"]["dtype"] = "I32"


def header_of(length: int, size: int | None = None) -> Spoil:
    def spoil(folder: Path) -> None:
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", length) + b'{"')
            file.truncate(size or 100)

    return spoil


def flip(position: int) -> Spoil:
    def spoil(folder: Path) -> None:
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[position] ^= 0x10
        (folder / "model.safetensors").write_bytes(data)

    return spoil


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1])


def not_a_number(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][0, 0] = float("inf")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def release(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    listed = {"model.safetensors": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
    (folder / "release.json").write_text(json.dumps({"hf_fer": "0", "files": listed}))


def link(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def pipe(name: str) -> Spoil:
    return lambda folder: os.mkfifo(folder / name)


def large_file(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.write(b'{"model_type": "mek", "x": "')
            file.truncate(1 << 30)

    return spoil


def timm_file(folder: Path) -> None:
    """timm loads this file while it builds the model; old ones, with torch before 2.6, ran what it says."""
    exploit_in("x.pth")(folder)
    arguments = {"checkpoint_path": str(folder / "x.pth")}
    config(backbone_kwargs=arguments)(folder)


def timm_wrapper(**changes: Any) -> Spoil:
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 2}
    content = {"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 2, "label_names": ["a", "b"]}
    return write("config.json", json.dumps({**content, "pretrained_cfg": cfg, **changes}))


def in_pieces(folder: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    index(dict.fromkeys(weights, "part.safetensors"))(folder)
    from safetensors.torch import save_file

    save_file(weights, folder / "part.safetensors", {"format": "pt"})


def own_code(where: str) -> dict[str, str]:
    return dict.fromkeys(("AutoConfig", "AutoModelForImageClassification", "AutoImageProcessor"), f"{where}.X")


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


# --- cases: name -> (method or "vit", what is done, the sentence, or None where it loads) ----------------------

LOADS = None
PICKLE = r"its weights cannot be loaded \(there is no model.safetensors; pickles .* are never read: if you trust it, "
CASES: dict[str, tuple[str, Spoil, str | None]] = {
    # pickles
    "pickle alone": ("mek", both(no_weights, exploit_in("pytorch_model.bin")), PICKLE),
    "pickle of the old kind": ("mek", plain_pickle, PICKLE),
    "pickle without an exploit": ("mek", harmless_pickle, PICKLE),
    "pickles beside": (
        "mek",
        exploit_in("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin"),
        LOADS,
    ),
    "index names a pickle": (
        "mek",
        both(index({"a": "pytorch_model.bin"}), exploit_in("pytorch_model.bin")),
        "names 'pytorch_model.bin', which is no safetensors file beside it",
    ),
    "pickle by another name": (
        "mek",
        both(exploit_in("adapter_model.bin"), config(transformers_weights="adapter_model.bin")),
        "transformers_weights names a file to load",
    ),
    "pickle by timm": ("mek", timm_file, "checkpoint_path names a file to load"),
    "pickle by timm's wrapper": (
        "mek",
        both(exploit_in("x.pth"), timm_wrapper(model_args={"checkpoint_path": "x.pth"})),
        "checkpoint_path names a file to load",
    ),
    "adapter": ("mek", write("adapter_config.json", "{}"), "it holds an adapter"),
    "distributed pieces": (
        "mek",
        lambda f: shutil.copy(f / "model.safetensors", f / "shard-00001-model-00001-of-00001.safetensors"),
        "it was saved by torch.distributed.checkpoint",
    ),
    # sizes
    **{
        f"{method}: {name}": (method, spoil, says)
        for method in METHODS
        for name, spoil, says in (
            ("10^12 labels", labels(10**12), "num_labels is of 1000000000000 labels, and the limit is 100000"),
            ("20,000 labels", labels(20_000), "num_labels must be an integer of at most 10000, got 20000"),
            ("image_size", config(image_size=10**9), "image_size is 1000000000, and the limit is 1000000"),
            ("large image_size", config(image_size=10**5), "image_size must be an integer from 8 to 2048, got 100000"),
            ("NaN", config(image_size=float("nan")), "image_size must be an integer from 8 to 2048, got nan"),
        )
    },
    "labels below 0": ("mek", labels(-3), "num_labels must be at least 2, got 0"),
    "labels in words": ("mek", labels("many"), "num_labels must be an integer of at most 10000, got 'many'"),
    "infinitely many labels": ("mek", labels(float("inf")), "num_labels is of inf labels"),
    "two numbers of labels": ("mek", config(num_labels=10**12), "num_labels is of 1000000000000 labels"),
    "dims": ("grefel", config(dims=[2048] * 3, num_heads=[1] * 3), "describes a model of over [0-9]+ numbers, but"),
    "too large dims": ("grefel", config(dims=[10**5] * 3), "dims must be 3 integers from 1 to 2048"),
    "depths": ("grefel", config(image_depths=[10**9] * 3), "image_depths is 1000000000, and the limit"),
    "anchors": ("grefel", config(num_anchors=10**12), "num_anchors is 1000000000000, and the limit"),
    "embed_dim": ("grefel", config(embed_dim=10**5), "embed_dim must be an integer from 1 to 4096"),
    "layers": ("mek", config(backbone_kwargs={"layers": [10**9] * 4}), "backbone_kwargs is 1000000000, and the limit"),
    "many layers": ("mek", config(backbone_kwargs={"layers": [10**4] * 4}), "'layers' holds finite numbers of at most"),
    "deep": ("mek", config(backbone_kwargs={"layers": [256] * 4}), "describes a model of over [0-9]+ tensors, but"),
    "wide": ("mek", config(backbone_kwargs={"channels": [9000] * 4}), "describes a model of over [0-9]+ numbers, but"),
    "nested arguments": ("mek", config(backbone_kwargs={"x": json.loads(nested(300))}), "config.json cannot be used"),
    "backbone": ("mek", config(backbone="[*" * 10_000), "backbone must be a timm model name"),
    "backbone of the Hub": ("mek", config(backbone="hf-hub:evil/elsewhere"), "backbone must be a timm model name"),
    "class_counts": ("mek", config(class_counts=[10**400] * 7), r"class_counts must be 7 integers .* \(and at most"),
    "discriminator": ("hsac", config(discriminator_channels=10**5), "discriminator_channels must be an integer from 1"),
    "blocks": ("neural_resizer", config(upsampler_blocks=10**5), "upsampler_blocks must be an integer from 0 to 64"),
    "stock: 10^12 labels": ("vit", labels(10**12), "num_labels is of 1000000000000 labels"),
    "stock: hidden_size": ("vit", config(hidden_size=10**9), "hidden_size is 1000000000, and the limit"),
    "stock: wide": ("vit", config(hidden_size=20_000), "describes a model of over [0-9]+ numbers, but"),
    "stock: layers": ("vit", config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000, and the limit"),
    "stock: deep": ("vit", config(num_hidden_layers=10**6), "describes a model of over [0-9]+ tensors, but"),
    "stock: image_size": ("vit", config(image_size=[10**9, 2]), "image_size is 1000000000, and the limit"),
    "stock: words": ("vit", config(image_size="large"), "config.json cannot be used"),
    "timm: sides": (
        "mek",
        timm_wrapper(pretrained_cfg={"input_size": [3, 10**5, 10**5]}),
        "input_size is 100000, and must be from 0 to 4096 px",
    ),
    "timm: of the Hub": ("mek", timm_wrapper(architecture="hf-hub:evil/elsewhere"), "plain name of a timm model"),
    "a config of 1 GB": ("mek", large_file("config.json"), "config.json has 1073741824 bytes, and the limit is"),
    "a config nested deep": ("mek", write("config.json", '{"x":' + nested(10**6) + "}"), "config.json is nested too"),
    "a config that is a list": ("mek", write("config.json", "[]"), "config.json holds no mapping"),
    "a config of long digits": ("mek", write("config.json", '{"x":' + "9" * 5000 + "}"), "config.json cannot be used"),
    "a config that is a pipe": (
        "mek",
        both(lambda f: (f / "config.json").unlink(), pipe("config.json")),
        "no config.json",
    ),
    "fields that are methods": ("mek", config(validate_fields=1, _check=2), "config.json cannot be used"),
    # weights
    "cut": ("mek", cut, "model.safetensors is missing, damaged or cut short"),
    "empty": ("mek", write("model.safetensors", b""), "model.safetensors is missing, damaged or cut short"),
    "header of 2^60 bytes": ("mek", header_of(1 << 60), "its header claims 1152921504606846976 bytes"),
    "header of 90 MB": ("mek", header_of(90 * MIB, 91 * MIB), "its header claims 94371840 bytes"),
    "header longer than the file": ("mek", header_of(5000), "model.safetensors is missing, damaged or cut short"),
    "flipped header": ("mek", flip(8 + 3), "cannot be loaded"),
    "flipped data": ("mek", both(release, flip(-2)), "model.safetensors is not the file that release.json lists"),
    "overlap": ("mek", header(same_place), "model.safetensors is missing, damaged or cut short"),
    "shape": ("mek", header(large_shape), "model.safetensors is missing, damaged or cut short"),
    "integers": ("mek", header(integers), "classifier.weight is saved in a type that holds no floats"),
    "infinite": ("mek", not_a_number, "classifier.weight holds values that are not finite"),
    "endless": ("mek", link("model.safetensors", "/dev/zero"), "model.safetensors is not a regular file"),
    "another file": ("mek", link("model.safetensors", __file__), "model.safetensors is damaged|missing, damaged"),
    "index leads out": ("mek", index({"a": "../../x.safetensors"}), r"names '\.\./\.\./x.safetensors', which is no"),
    "index of an absolute path": ("mek", index({"a": "/etc/x.safetensors"}), "names '/etc/x.safetensors', which is no"),
    "index of 10^5 files": (
        "mek",
        index({f"a{k}": f"{k}.safetensors" for k in range(10**5)}),
        "names 100000 files, and the limit is 1000",
    ),
    "index of nothing": ("mek", index({}), "model.safetensors.index.json has no weight_map"),
    "index of numbers": ("mek", index({"a": 3}), "names '', which is no safetensors file"),
    "index of 1 GB": ("mek", both(no_weights, large_file("model.safetensors.index.json")), "bytes, and the limit is"),
    "missing shard": ("mek", index({"a": "b.safetensors"}), "b.safetensors is missing, damaged or cut short"),
    # image processor
    "size": ("mek", processor(size={"height": 10**9, "width": 10**9}), "size is 1000000000, and must be from 0 to"),
    "edge": ("mek", processor(size={"shortest_edge": 20_000}), "size is 20000, and must be from 0 to 4096 px"),
    "negative crop": ("mek", processor(crop_size=-1), "crop_size is -1, and must be from 0 to 4096 px"),
    "NaN size": ("mek", processor(size={"height": float("nan")}), "size is nan, and must be"),
    "share of the crop": ("mek", processor(crop_pct=1e-7), "crop_pct must be a number from 0.05 to 2, not 1e-07"),
    "mean": ("mek", processor(image_mean=[float("nan")] * 3), "image_mean must be finite numbers"),
    "deviation": ("mek", processor(image_std=[0.0] * 3), "image_std must be finite numbers over 0"),
    "many deviations": ("mek", processor(image_std=[0.5] * 10**5), "image_std must be finite numbers over 0"),
    "rescaling": ("mek", processor(rescale_factor=float("inf")), "rescale_factor must be a number over 0"),
    "interpolation": ("mek", processor(resample=99), "resample must be an interpolation of Pillow, 0 to 5, not 99"),
    "another class": ("mek", processor(image_processor_type="AutoModel"), "'AutoModel' is no image processor"),
    "unknown class": ("mek", processor(image_processor_type="XImageProcessor"), "its image processor cannot be loaded"),
    "a function": ("mek", processor(image_processor_type="pipeline"), "'pipeline' is no image processor"),
    "files": ("mek", processor(repo_path="/dev", class_info_file="zero"), "it names a file to load"),
    "processor_config.json": (
        "mek",
        write("processor_config.json", json.dumps({"image_processor": {"size": 10**9}})),
        "size is 1000000000, and must be",
    ),
    "a processor that is a pipe": ("mek", pipe("processor_config.json"), "processor_config.json is not a regular file"),
    # code
    "processor brings code": (
        "mek",
        both(write("evil.py", CODE), processor(auto_map=own_code("evil"), image_processor_type=...)),
        "brings its own Python code; read it, then allow it with --trust-remote-code",
    ),
    "code beside ours": (
        "mek",
        both(write("evil.py", CODE), config(auto_map=own_code("evil")), processor(auto_map=own_code("evil"))),
        LOADS,
    ),
    "code elsewhere beside ours": ("mek", config(auto_map=own_code("evil/elsewhere--evil")), LOADS),
    "code of an unknown model": (
        "mek",
        both(write("evil.py", CODE), config(model_type="evil", auto_map=own_code("evil"))),
        "brings its own Python code; read it, then allow it with --trust-remote-code",
    ),
    "kernel": ("vit", config(_attn_implementation="evil/elsewhere"), "asks for code from the Hub, which is not run"),
    "kernel further down": (
        "vit",
        config(vision_config={"attn_implementation": "evil/elsewhere"}),
        "asks for code from the Hub, which is not run",
    ),
    "quantised": ("vit", config(quantization_config={"quant_method": "awq"}), "its weights are quantised"),
    # labels
    "escapes": ("mek", named("\x1b[2J", *NAMES[1:]), r"label 0 holds control characters \('\\x1b\[2J'\)"),
    "one name twice": ("mek", named("fear", "fear", *NAMES[2:]), "labels 0 and 1 are both 'fear'; rename one"),
    "turned text": ("mek", named("\u202eevil", *NAMES[1:]), r"label 0 holds control characters \('\\u202eevil'\)"),
    "long labels": ("mek", named("a" * 10**6, *NAMES[1:]), "label 0 has 1000000 characters, and the limit is 500"),
    "labels that are mappings": ("mek", named({"a": []}, *NAMES[1:]), "label 0 is a dict, not a text"),
    "gaps": ("mek", config(id2label={str(5 * k): name for k, name in enumerate(NAMES)}), "without a gap"),
    "10^5 labels": ("mek", named(*map(str, range(10**5))), "num_labels must be an integer of at most 10000"),
    # what must go on working
    "untouched": ("mek", lambda folder: None, LOADS),
    "untouched stock": ("vit", lambda folder: None, LOADS),
    "in pieces": ("mek", in_pieces, LOADS),
    "a release": ("mek", release, LOADS),
    "labels of the world": ("mek", named("<b>|怒り　顔", "خیره‌شده", "😮‍💨", *NAMES[3:]), LOADS),
    "a card with a script": ("mek", write("README.md", "---\ntags: [x]\n---\n<script>alert(1)</script>"), LOADS),
    "numbers of no size": ("vit", config(seed=2**60, classes={"a": 10**12}), LOADS),
    "timm's wrapper": ("timm", lambda folder: None, LOADS),
}


# --- the process that tries them -------------------------------------------------------------------------------


def make(kind: str, folder: Path) -> Path:
    """A small checkpoint of a method, or of stock ones."""
    import torch
    from transformers import (
        TimmWrapperConfig,
        TimmWrapperForImageClassification,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

    from hf_fer._auto import config_class, model_class

    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
    if kind == "vit":
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, **names))
    elif kind == "timm":
        cfg = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "pool_size": [2, 2]}
        sizes = {"model_args": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, "pretrained_cfg": cfg}
        model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture="resnet18", **sizes, **names))
    else:
        model = model_class(kind)(config_class(kind)(**config_class(kind).tiny, **names))
    model.save_pretrained(folder)
    if kind != "timm":
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def outcome(function: Callable[[], Any]) -> dict[str, str]:
    """{"loaded": kind of the answer} or {"error": kind, "says": message}."""
    try:
        return {"loaded": type(function()).__name__}
    except BaseException as error:
        return {"error": type(error).__name__, "says": str(error)[:5000]}


def command(*arguments: str) -> dict[str, Any]:
    """Exit code and streams of `hf-fer`."""
    from hf_fer.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*arguments])
    return {"code": code, "out": out.getvalue()[:5000], "err": err.getvalue()[:5000]}


def further(work: Path, goods: dict[str, Path]) -> Iterator[tuple[str, Any]]:
    """What else reads such folders: the command line, transformers itself, weights and facts of training."""
    from PIL import Image
    from transformers import AutoModelForImageClassification

    import hf_fer
    from hf_fer.evaluation.training_facts import read_training_facts

    def spoilt(name: str) -> Path:
        kind, spoil, _ = CASES[name]
        folder = Path(shutil.copytree(goods[kind], work / f"further-{name}"))
        spoil(folder)
        return folder

    Image.new("RGB", (40, 40)).save(work / "face.png")
    for name in ("escapes", "pickle alone", "a config of 1 GB"):
        folder = str(spoilt(name))
        yield f"predict: {name}", command("predict", "--no-detect", "--model", folder, str(work / "face.png"))
        output = str(work / "record.json")
        yield f"evaluate: {name}", command("evaluate", folder, "--data", "synthetic", "--output", output)
    folder = str(spoilt("labels of the world"))
    yield "predict: labels of the world", command("predict", "--no-detect", "--model", folder, str(work / "face.png"))

    stock = AutoModelForImageClassification.from_pretrained
    for name in ("mek: 10^12 labels", "mek: image_size", "many layers", "too large dims", "pickle by timm"):
        yield f"transformers: {name}", outcome(lambda name=name: stock(spoilt(name)))
    for name in ("pickle of the old kind", "code beside ours", "code elsewhere beside ours"):
        yield f"transformers: {name}", outcome(lambda name=name: stock(work / f"further-{name}", spoilt(name)))

    model, _ = hf_fer.load_classifier(goods["mek"], "cpu")
    yield "backbone weights", outcome(lambda: model.load_backbone_weights(str(work / "further-pickle alone")))
    yield "a metric's name", outcome(lambda: hf_fer.metric_path("../../evil"))
    for name, text in {
        "deep": '{"selected":' + nested(10**5) + "}",
        "script": '{"selected": {"dataset": "<script>\\u001b[2J"}}',
        "huge": '{"selected": {"dataset": "a", "epoch": 1}, "data": {"label_noise": 1e999}}',
    }.items():
        facts = work / f"facts-{name}"
        facts.mkdir()
        (facts / "report.json").write_text(text)
        yield f"facts: {name}", outcome(lambda facts=facts: read_training_facts(facts))
    large_file("report.json")(facts)
    yield "facts: 1 GB", outcome(lambda: read_training_facts(facts))


def from_the_hub() -> Iterator[tuple[str, Any]]:
    """The repositories that `test_hostile` made."""
    from huggingface_hub import snapshot_download

    import hf_fer

    for name in ("good", "names", "bin", "code", "shards", "large", "empty", "missing"):
        yield f"hub: {name}", outcome(lambda name=name: hf_fer.load_classifier(f"evil/{name}", "cpu")[0])
    yield "hub: revision", outcome(lambda: hf_fer.load_classifier("evil/good", "cpu", revision="../../x"))
    yield (
        "hub: names, with code",
        outcome(lambda: hf_fer.load_classifier("evil/names", "cpu", trust_remote_code=True)[0]),
    )
    yield "hub: names, all of it", outcome(lambda: snapshot_download("evil/names"))
    for name in ("script", "pickle", "tar"):
        yield f"data: {name}", outcome(lambda name=name: hf_fer.load_fer_dataset(f"evil/{name}"))


def pickle_in_a_tar() -> bytes:
    """A WebDataset whose only sample is an exploit."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in (("0.pth", pickle.dumps(Exploit(), protocol=2)), ("0.cls", b"1")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def main(out: Path) -> None:
    import resource

    import torch
    import transformers

    import hf_fer

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    work, trap = out.parent, Path(os.environ[TRAP])
    goods = {kind: make(kind, work / "good" / kind) for kind in (*METHODS, "vit", "timm")}
    hf_fer.load_classifier(goods["mek"], "cpu")  # warm: what comes is the cases' own
    hf_fer.load_classifier(goods["timm"], "cpu")
    import datasets  # noqa: F401

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0])

    limit = pages() * resource.getpagesize() + 1024 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, Any] = {}
    for name, (kind, spoil, _) in CASES.items():
        folder = Path(shutil.copytree(goods[kind], work / "case"))
        spoil(folder)
        found[name] = outcome(lambda folder=folder: hf_fer.load_classifier(folder, "cpu")[0])
        found[name]["sprung"] = trap.exists()
        shutil.rmtree(folder)
    found |= dict(further(work, goods))
    found |= dict(from_the_hub())
    found["grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    found["sprung"] = trap.exists()
    # The trap works: by the old way with a pickle, and by trust in the code of a repository.
    pickle.loads(pickle.dumps(Exploit()))
    found["springs by a pickle"] = trap.exists()
    trap.unlink(missing_ok=True)
    found["trusted"] = outcome(lambda: hf_fer.load_classifier("evil/code", "cpu", trust_remote_code=True))
    found["springs by trust"] = trap.exists()
    trap.unlink(missing_ok=True)
    folder = Path(shutil.copytree(goods["mek"], work / "trusted"))
    both(write("evil.py", CODE), config(auto_map=own_code("evil")))(folder)
    ours = outcome(lambda: hf_fer.load_classifier(folder, "cpu", trust_remote_code=True)[0])
    found["ours, trusted"] = ours | {"sprung": trap.exists()}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
