"""Tiny stock transformers classifiers with answers worth scoring, and pictures for them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

CLASSES = ["neutral", "happiness", "surprise", "sadness"]


def noise(size=(64, 64), seed=0, mode="RGB"):
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def blots(size=(64, 64), seed=0, mode="RGB"):
    """A few large random colour patches: pictures that even an untrained network tells apart."""
    return noise((3, 3), seed, mode).resize(size, Image.Resampling.NEAREST)


def tiny_vit(classes, seed=0):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
    )
    return spread(ViTForImageClassification(config))


def tiny_resnet(classes, seed=0):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(seed)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
    )
    return spread(ResNetForImageClassification(config))


def head_of(model):
    return model.classifier if isinstance(model.classifier, torch.nn.Linear) else model.classifier[-1]


@torch.no_grad()
def spread(model):
    """Standardise the logits over some blots: an untrained network gives every image the same answer."""
    pixels = torch.stack([torch.tensor(np.asarray(blots((16, 16), seed=i)) / 127.5 - 1.0) for i in range(64)])
    logits = model.eval()(pixels.permute(0, 3, 1, 2).float()).logits
    head, scale = head_of(model), 2.0 / logits.std(dim=0)
    head.weight.mul_(scale[:, None])
    head.bias.sub_(logits.mean(dim=0)).mul_(scale)
    return model


def reordered(model, build, names, order):
    """The same network with its classes in another order, under the given names."""
    other = build([names[k] for k in order])
    state = model.state_dict()
    head = {head_of(model).weight.data_ptr(), head_of(model).bias.data_ptr()}
    state = {key: value[order] if value.data_ptr() in head else value for key, value in state.items()}
    other.load_state_dict(state)
    return other


def make_dataset(classes=CLASSES, n=30, seed=0):
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    rng = np.random.default_rng(seed)
    images = [blots((24, 24), seed=100 + i, mode="L" if i % 3 == 0 else "RGB") for i in range(n)]
    labels = rng.integers(0, len(classes), n).tolist()
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(classes))})
    return Dataset.from_dict({"image": images, "label": labels}, features=features)
