"""The model that holds the towers side by side (Chauhan et al., MICCAI 2020: late fusion), the joint embedding, and how
both are built from params."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from forget_mi.errors import InputError
from forget_mi.params import build, config
from forget_mi.towers import (
    AdaptedTower,
    DualEncoderImage,
    DualEncoderText,
    ImageTower,
    TextTower,
    Tower,
    network_tower,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@config
class ModelConfig:
    """towers: both, or one alone (text where a cohort has reports only, image for a model without text): the embedding
    of the one that is missing is 0 wide, the fused prediction is the other's, and its settings count for nothing.
    image_channels: of the stem and of each residual stage (two basic blocks, stride 2). image_stem_stride: of the 7x7
    stem. image_pool: the last feature map is averaged to image_pool x image_pool and flattened. image_network: in place
    of these, a network of torchvision or timm by name ('torchvision:resnet18', 'timm:...'), which takes image_inputs
    channels, with weights from the local file image_weights or none. text_pretrained: a local folder or hub name of a
    BERT (AutoModel), or None for one from scratch with text_width, text_layers, text_heads, a feed-forward width of
    text_expansion times text_width, and a WordPiece vocabulary of at most text_vocabulary entries trained on the
    training reports. dual_encoder: in place of both, a local folder with a CLIP-shaped model (CLIPModel,
    VisionTextDualEncoderModel) and its tokenizer. max_tokens: reports are cut there. dropout: in the text tower.
    joint_seed: of the fixed joint embedding. factory: in place of all that, a function 'package.module:name' that
    builds a model of one's own from `arguments` (see `contract`). weights: of a model that is trained already, the
    original of a run: a state dict, a folder of `save_checkpoint` or `save_pretrained`, or the authors' released one;
    it is then not trained here. retrained_weights: the same for models that were retrained without the request.
    tokenizer: a local folder; the model's own where None."""

    towers: Literal["both", "text", "image"] = "both"
    image_channels: tuple[Annotated[int, Field(ge=1)], ...] = (16, 16, 32, 64, 128)
    image_stem_stride: Annotated[int, Field(ge=1, le=8)] = 2
    image_pool: Annotated[int, Field(ge=1, le=8)] = 1
    image_network: str | None = None
    image_inputs: Literal[1, 3] = 3
    image_weights: str | None = None
    text_pretrained: str | None = None
    text_width: Annotated[int, Field(ge=8)] = 128
    text_layers: Annotated[int, Field(ge=1, le=48)] = 2
    text_heads: Annotated[int, Field(ge=1)] = 4
    text_expansion: Annotated[int, Field(ge=1, le=8)] = 2
    text_vocabulary: Annotated[int, Field(ge=100)] = 4000
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 48
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    joint_seed: Annotated[int, Field(ge=0)] = 0
    dual_encoder: str | None = None
    factory: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    retrained_weights: tuple[str, ...] = ()
    tokenizer: str | None = None

    def __post_init__(self):
        if len(self.image_channels) < 2:
            raise InputError(f"parameter model.image_channels = {self.image_channels}: needs a stem and a stage")
        if self.text_width % self.text_heads:
            raise InputError(
                f"parameter model.text_heads = {self.text_heads}: must divide model.text_width = {self.text_width}"
            )
        own = self.image_network is None and self.text_pretrained is None and self.builtin
        if self.towers == "both" and own and self.text_width != self.image_width:
            raise InputError(
                f"parameter model.text_width = {self.text_width}: both embeddings need the same width, and the image "
                f"tower's is {self.image_width} (last of image_channels x image_pool squared)"
            )

    def given(self, name: str) -> str | None:
        """Where the weights of a run's model lie (original, retrained-1, ...), or None for one to be trained here."""
        if name == "original":
            return self.weights
        number = int(name.rpartition("-")[2]) if name.startswith("retrained-") else 0
        return self.retrained_weights[number - 1] if 0 < number <= len(self.retrained_weights) else None

    @property
    def builtin(self) -> bool:
        """Whether the towers are built here, and not by a factory or from a dual encoder's folder."""
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


class Embeddings(NamedTuple):
    """z_img and z_txt of a batch, each (batch, width); (batch, 0) where there is no such tower."""

    image: Tensor
    text: Tensor

    @property
    def are_paired(self) -> bool:
        """Whether both towers are there, and as wide as each other: what an image's report is to it can then be
        asked."""
        return self.image.shape[-1] == self.text.shape[-1] > 0


class ModelOutput(NamedTuple):
    """image_logits, text_logits: (batch, classes). image_embedding, text_embedding: (batch, width), the paper's
    z_img and z_txt; the logits are linear in them. Where there is no such tower, its logits and embedding are
    (batch, 0)."""

    image_logits: Tensor
    text_logits: Tensor
    image_embedding: Tensor
    text_embedding: Tensor

    @property
    def embeddings(self) -> Embeddings:
        """z_img and z_txt."""
        return Embeddings(self.image_embedding, self.text_embedding)

    @property
    def logits(self) -> list[Tensor]:
        """The logits of the towers that are there."""
        return [logits for logits in (self.image_logits, self.text_logits) if logits.shape[-1]]


def fused_probabilities(image_logits: Tensor, text_logits: Tensor) -> Tensor:
    """The fused prediction (batch, classes): the mean of the two towers' softmaxes; one tower's where the other's
    logits are (batch, 0)."""
    if image_logits.shape[-1] == 0 or text_logits.shape[-1] == 0:
        return torch.cat([image_logits, text_logits], -1).softmax(-1)
    return (image_logits.softmax(-1) + text_logits.softmax(-1)) / 2


class ImageTextModel(nn.Module):
    """The two towers side by side; they meet in the loss, in the joint embedding and in the fused prediction.

    image_tower, text_tower: None for one that is not there. classes: how many there are to tell apart. max_tokens:
    reports are cut there; 0 where none are read.
    """

    def __init__(self, settings: ModelConfig, image_tower: Tower | None, text_tower: Tower | None):
        super().__init__()
        self.settings = settings
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.classes = self.towers()[0].head.out_features
        self.max_tokens = settings.max_tokens if text_tower is not None else 0

    def towers(self) -> list[Tower]:
        """The towers that are there, image first."""
        return [tower for tower in (self.image_tower, self.text_tower) if tower is not None]

    @property
    def is_adapted(self) -> bool:
        """Whether the towers are someone's own networks, given as objects: no params say how they are built."""
        return self.settings.factory is None and any(isinstance(tower, AdaptedTower) for tower in self.towers())

    @property
    def widths(self) -> tuple[int, int]:
        """Of z_img and z_txt; 0 where there is no such tower."""
        return tuple(0 if tower is None else tower.width for tower in (self.image_tower, self.text_tower))

    def forward(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """Both towers' logits and embeddings."""
        nothing = images.new_zeros(images.shape[0], 0)  # not len(): an export would take it for a constant
        image_embedding, image_logits = (nothing, nothing) if self.image_tower is None else self.image_tower(images)
        text_embedding, text_logits = nothing, nothing
        if self.text_tower is not None:
            text_embedding, text_logits = self.text_tower(input_ids, attention_mask)
        return ModelOutput(image_logits, text_logits, image_embedding, text_embedding)

    def fresh(self, seed: int) -> ImageTextModel:
        """A new model of the same kind with weights drawn from the seed, a pretrained tower's too.

        Raises InputError where nothing says how one is made.
        """
        if self.settings.factory is not None or self.is_adapted:
            from forget_mi.contract import made_anew

            return made_anew(self, seed)
        config = text_config_of(self)
        vocabulary = getattr(config, "vocab_size", 0)
        return build_model(replace(self.settings, image_weights=None), self.classes, vocabulary, seed, config)


class JointEmbedding(nn.Module):
    """J of the paper: a gated multimodal unit (Arevalo et al., 2017) with fixed random weights,

        J(z_img, z_txt) = g * tanh(W_i z_img) + (1 - g) * tanh(W_t z_txt),   g = sigmoid(W_g [z_img; z_txt]).

    One instance serves F_og and F_ul and all batches: the weights come from a seed and are never trained. (The
    released code draws new ones at every call, which compares different projections.) Inputs and output (batch, width);
    where a tower is missing, image_width or text_width is 0, and so is its term.
    """

    def __init__(self, width: int, seed: int, image_width: int | None = None, text_width: int | None = None):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        image_width, text_width = (width if own is None else own for own in (image_width, text_width))
        shapes = {"image_weight": image_width, "text_weight": text_width, "gate_weight": image_width + text_width}
        for name, inputs in shapes.items():
            self.register_buffer(name, torch.randn(width, inputs, generator=generator) / max(inputs, 1) ** 0.5)

    def forward(self, z: Embeddings) -> Tensor:
        """J(z), (batch, width)."""
        gate = (torch.cat(z, -1) @ self.gate_weight.T).sigmoid()
        image, text = (z.image @ self.image_weight.T).tanh(), (z.text @ self.text_weight.T).tanh()
        return gate * image + (1 - gate) * text


# ---- building -------------------------------------------------------------------------------------------------


def build_tokenizer(settings: ModelConfig, training_reports: Sequence[str]) -> PreTrainedTokenizerBase | None:
    """The pretrained tower's own tokenizer, or a WordPiece one trained on the given reports (training reports only:
    a vocabulary remembers words too). None for a model that reads none."""
    if settings.towers == "image":
        return None
    own = settings.tokenizer or settings.dual_encoder or settings.text_pretrained
    if own is not None:
        from transformers import AutoTokenizer

        return _from_pretrained(AutoTokenizer, own)
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=BertWordPieceTokenizer(
            vocab=wordpiece_vocabulary(training_reports, settings.text_vocabulary), lowercase=True
        )._tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
    )


def vocabulary_of(tokenizer: PreTrainedTokenizerBase | None) -> int:
    """How many tokens a text tower must know; 0 without a tokenizer."""
    return 0 if tokenizer is None else len(tokenizer)


def wordpiece_vocabulary(reports: Sequence[str], size: int) -> dict[str, int]:
    """A WordPiece vocabulary of at most `size` entries from some reports: the same reports, the same vocabulary.

    The trainer numbers the word-internal letters (##a, ##b, ...) in the order of a hash map and breaks ties by these
    numbers, so that its vocabulary differs from run to run (huggingface/tokenizers issue 1794). Given to it in order,
    as special tokens that the returned vocabulary no longer treats as special, they can't.
    """
    from tokenizers import BertWordPieceTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = BertWordPieceTokenizer(lowercase=True)
    letters = sorted({letter for report in reports for letter in trainer.normalize(report) if not letter.isspace()})
    trainer.train_from_iterator(
        list(reports),
        vocab_size=size,
        min_frequency=2,
        special_tokens=special + [f"##{letter}" for letter in letters],
        show_progress=False,
    )
    return trainer.get_vocab()


def build_model(
    settings: ModelConfig,
    classes: int,
    vocabulary: int,
    seed: int,
    text_config: PretrainedConfig | None = None,
) -> ImageTextModel:
    """A new model with weights drawn from the seed (those of pretrained towers excepted).

    vocabulary: of the tokenizer. text_config: build the text encoder, or the dual encoder, from this configuration
    without pretrained weights, as when a checkpoint's weights are about to be loaded.

    Raises InputError where the towers' widths differ, or the tokenizer knows more tokens than the text tower.
    """
    torch.manual_seed(seed)
    if settings.factory is not None:
        from forget_mi.contract import from_factory

        model = from_factory(settings, classes)
        check_vocabulary(getattr(model.text_tower, "network", None), vocabulary)
        return model
    if settings.dual_encoder is not None:
        return _dual_encoder(settings, classes, text_config)
    # In this order, on which the weights drawn from a seed depend.
    encoder = None if settings.towers == "image" else _text_encoder(settings, vocabulary, text_config)
    image_tower = None if settings.towers == "text" else _image_tower(settings, classes)
    text_tower = None if encoder is None else TextTower(encoder, settings.dropout, classes)
    model = ImageTextModel(settings, image_tower, text_tower)
    if settings.towers == "both" and image_tower.width != text_tower.width and settings.image_network is None:
        raise InputError(
            f"the text tower is {text_tower.width} wide and the image tower {image_tower.width}: both "
            "embeddings need the same width; change model.image_channels or model.image_pool"
        )
    return model


def _text_encoder(settings: ModelConfig, vocabulary: int, config: PretrainedConfig | None) -> nn.Module:
    from transformers import AutoModel, BertConfig

    if config is not None:
        encoder = AutoModel.from_config(config)
    elif settings.text_pretrained is not None:
        encoder = _from_pretrained(AutoModel, settings.text_pretrained)
    else:
        encoder = AutoModel.from_config(
            BertConfig(
                vocab_size=vocabulary,
                hidden_size=settings.text_width,
                num_hidden_layers=settings.text_layers,
                num_attention_heads=settings.text_heads,
                intermediate_size=settings.text_expansion * settings.text_width,
                max_position_embeddings=settings.max_tokens,
                hidden_dropout_prob=settings.dropout,
                attention_probs_dropout_prob=settings.dropout,
            )
        )
    check_vocabulary(encoder, vocabulary)
    return encoder


def check_vocabulary(encoder: nn.Module | None, vocabulary: int) -> None:
    """Raise InputError where a tokenizer of so many tokens can't belong to an encoder: it would look up what is not
    there."""
    known = getattr(getattr(encoder, "config", None), "vocab_size", None)
    if known is not None and vocabulary > known:
        raise InputError(
            f"the tokenizer has {vocabulary} tokens and the text tower knows {known}: it doesn't belong to this model; "
            "give the model's own (model.tokenizer)"
        )


def _image_tower(settings: ModelConfig, classes: int) -> Tower:
    if settings.image_network is not None:
        return network_tower(settings.image_network, classes, settings.image_inputs, settings.image_weights)
    return ImageTower(settings.image_channels, settings.image_stem_stride, settings.image_pool, classes)


def _dual_encoder(settings: ModelConfig, classes: int, config: PretrainedConfig | None) -> ImageTextModel:
    from transformers import AutoModel

    folder = settings.dual_encoder
    both = AutoModel.from_config(config) if config is not None else _from_pretrained(AutoModel, folder, "dual_encoder")
    parts = ("vision_model", "text_model", "visual_projection", "text_projection")
    missing = [part for part in parts if not hasattr(both, part)]
    if missing:
        raise InputError(
            f"parameter model.dual_encoder = {folder!r}: a {type(both).__name__} has no {', '.join(missing)}; "
            "allowed are CLIP-shaped models, with both sides and their projections"
        )
    image, text = (kind(both, both.config.projection_dim, classes) for kind in (DualEncoderImage, DualEncoderText))
    image, text = (None if settings.towers == "text" else image), (None if settings.towers == "image" else text)
    model = ImageTextModel(settings, image, text)
    model.dual_config = both.config
    return model


def text_config_of(model: ImageTextModel) -> PretrainedConfig | None:
    """The configuration from which the text encoder (or the dual encoder) can be built again."""
    if model.settings.dual_encoder is not None:
        return getattr(model, "dual_config", None)
    return getattr(getattr(model.text_tower, "encoder", None), "config", None)


def _from_pretrained(kind: type, name: str, parameter: str = "text_pretrained"):
    try:
        return kind.from_pretrained(in_package(name, parameter))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"parameter model.{parameter} = {name!r}: neither a local folder with a model and its tokenizer nor a hub "
            f"name that can be fetched from here ({reason}); get config.json, model.safetensors or pytorch_model.bin, "
            f"and the tokenizer's files from https://huggingface.co/{name}/tree/main into a folder, and give its path"
        ) from None


def in_package(name: str, parameter: str) -> str:
    """The folder that 'package:NAME/folder' names, in an installed Python package; other names as they are. Raises
    InputError where there is none."""
    if not name.startswith("package:"):
        return name
    from importlib.util import find_spec

    package, _, folder = name.removeprefix("package:").partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    path = Path(spec.submodule_search_locations[0]) / folder if spec and spec.submodule_search_locations else None
    if path is None or not path.is_dir():
        raise InputError(
            f"parameter model.{parameter} = {name!r}: no such package is installed, or it has no such folder"
        )
    return str(path)


def joint_embedding_of(model: ImageTextModel) -> JointEmbedding:
    """The one joint embedding that goes with a model, whatever its weights.

    Raises InputError where the towers are of different widths.
    """
    image, text = model.widths
    if image and text and image != text:
        raise InputError(
            f"the image embedding is {image} wide and the text embedding {text}: the joint embedding of Forget-MI and "
            "MultiDelete needs one width; project one of them, or choose a method that does without "
            "(held_out_targets, scrub, ...)"
        )
    return JointEmbedding(max(image, text), model.settings.joint_seed, image_width=image, text_width=text)


def joint_embedding_or_none(model: ImageTextModel) -> JointEmbedding | None:
    """`joint_embedding_of`, or None for towers of different widths: what a measure does that can do without."""
    image, text = model.widths
    return joint_embedding_of(model) if image == text or not (image and text) else None
