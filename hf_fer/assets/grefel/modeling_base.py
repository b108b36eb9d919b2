"""What the models of all methods share: initialisation, pretrained weights, and the usual output switches."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbones import create_backbone, keep_own_initialization, reset_missing_weights
from .configuration_base import FerConfig


def load_weights(module: nn.Module, source: str, minimum: float = 0.8) -> Any:
    """`hf_fer.models.load_pretrained_weights`, which is not copied next to a pushed model: answers need none of it."""
    try:
        from hf_fer.models.pretrained_weights import load_pretrained_weights
    except ImportError as error:
        raise ImportError("loading pretrained backbone weights needs hf-fer: pip install hf-fer") from error
    return load_pretrained_weights(module, source, minimum)


class FerPreTrainedModel(PreTrainedModel):
    """Base of the methods' models.

    A subclass ends its `__init__` with `self.post_init()`; every module then keeps the values it was made with,
    except where a checkpoint brings others. Buffers that follow from the config are not saved; the subclass
    fills them in `fill_buffers`, after construction and after loading alike.
    """

    config_class = FerConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    gradient_checkpointing = False
    # What `diagnose` returns: the name of each figure, and a line on what it says. No figures unless a method has some.
    diagnostics: ClassVar[dict[str, str]] = {}

    def __init__(self, config: FerConfig) -> None:
        config.validate_fields()  # it may have been changed since it was made
        super().__init__(config)
        self.num_labels = config.num_labels

    def post_init(self) -> None:
        for child in self.children():  # not of the model's own buffers, which `fill_buffers` has yet to fill
            keep_own_initialization(child)
        super().post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            self.fill_buffers()
        else:
            reset_missing_weights(module)

    def fill_buffers(self) -> None:
        """Computes the model's own non-persistent buffers from `config`."""

    def load_backbone_weights(self, source: str) -> Any:
        """Loads pretrained weights into the backbone; the classifier stays as it is.

        Args:
            source: a timm model name, a Hub repo, or a local file or folder; see `load_pretrained_weights`.

        Returns:
            A `WeightsReport`: what matched, what is missing and what was not wanted; print it.

        Raises:
            ValueError: nothing usable there, less than 80 % of the backbone matched, or a pickle that would run code.
            ImportError: this class is remote code, and hf-fer is not installed.
        """
        return load_weights(self.backbone, source)

    @torch.no_grad()
    def diagnose(self, pixel_values: Tensor, labels: Tensor | None = None, factor: float = 4.0) -> dict[str, Tensor]:
        """The method's own figures on single images, those of `diagnostics`; {}, without a pass, where it has none.

        In eval mode, and the mode is restored. The images come first in the batch that the classifier gets, so that
        a hook on it can keep their embeddings from the same pass.

        Args:
            pixel_values: as for `forward`.
            labels: (B,) int64 class ids or (B, K) float distributions. None: no figures that compare with a label.
            factor: down-sampling factor, at least 1, where a method compares the images with a low-resolution view.

        Returns:
            (B,) at least float32 for each name.

        Raises:
            ValueError: `factor` is below 1.
        """
        if not factor >= 1:
            raise ValueError(f"factor must be at least 1, got {factor!r}")
        was_training = self.training
        self.eval()
        try:
            return self._diagnose(pixel_values, labels, factor)
        finally:
            self.train(was_training)

    def _diagnose(self, pixel_values: Tensor, labels: Tensor | None, factor: float) -> dict[str, Tensor]:
        """What `diagnose` returns; called in eval mode and without gradients."""
        return {}

    def _set_gradient_checkpointing(self, enable: bool = True, *_: Any, **__: Any) -> None:
        """What transformers' activation (gradient) checkpointing calls; timm's networks do it in their own way."""
        networks = [module for module in self.modules() if hasattr(module, "set_grad_checkpointing")]
        if not networks:
            raise ValueError(f"the backbone {self.config.backbone!r} has no activation checkpointing; turn it off")
        for network in networks:
            network.set_grad_checkpointing(enable)
        self.gradient_checkpointing = enable

    def draw_views(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """What chance decides about the further views of `count` images, as arguments of `forward`.

        A model draws for itself where it is not told. A loop that draws here, for the images of all processes at
        once, and hands each process its rows, trains alike on one and on many.

        Args:
            count: number of images.
            generator: a CPU generator.

        Returns:
            Tensors (count, ...) by the name of the argument; none where a method has no random view.
        """
        return {}

    def _switches(self, return_dict: bool | None, output_hidden_states: bool | None) -> tuple[bool, bool]:
        """Arguments of `forward`, with the config's answer where they are None."""
        return (
            self.config.return_dict if return_dict is None else return_dict,
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )


class MapClassifier(FerPreTrainedModel):
    """Base of the methods whose network is backbone, global average pooling and linear classifier.

    So inference costs what the backbone costs, and the class activation maps are the exact decomposition of the
    logits (up to the bias).
    """

    def __init__(self, config: FerConfig) -> None:
        super().__init__(config)
        self.backbone = create_backbone(
            config.backbone,
            in_chans=1 if config.grayscale else 3,
            image_size=config.image_size,
            stem_pool=config.stem_pool,
            **(config.backbone_kwargs or {}),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(self.backbone.num_features, config.num_labels)

    def _images(self, pixel_values: Tensor) -> Tensor:
        """What the backbone sees: the images, or their luminance; (B, 1, H, W) is taken for luminance already."""
        if not self.config.grayscale or pixel_values.shape[1] == 1:
            return pixel_values
        red, green, blue = pixel_values.unbind(dim=1)
        return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)

    def _classify(self, features: Tensor) -> Tensor:
        """(B, C, H, W) last feature maps to (B, K) logits."""
        return self.classifier(self.dropout(features.mean(dim=(2, 3))))
