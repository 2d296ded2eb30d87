"""The two towers, the joint embedding, and the model that holds them (Chauhan et al., MICCAI 2020: late fusion)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from forget_mi.errors import InputError
from forget_mi.params import build, config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@config
class ModelConfig:
    """towers: both, or the text tower alone where a cohort has reports only; then z_img is 0 wide, the fused prediction
    is the text tower's, and the image settings count for nothing. image_channels: of the stem and of each residual
    stage (two basic blocks, stride 2). image_stem_stride: of the 7x7 stem. image_pool: the last feature map is averaged
    to image_pool x image_pool and flattened.
    text_pretrained: a local folder or hub name of a BERT (AutoModel), or None for one from scratch with text_width,
    text_layers, text_heads, a feed-forward width of text_expansion times text_width, and a WordPiece vocabulary of at
    most text_vocabulary entries trained on the training reports. max_tokens: reports are cut there. dropout: in the
    text tower. joint_seed: of the fixed joint embedding.
    """

    towers: Literal["both", "text"] = "both"
    image_channels: tuple[Annotated[int, Field(ge=1)], ...] = (16, 16, 32, 64, 128)
    image_stem_stride: Annotated[int, Field(ge=1, le=8)] = 2
    image_pool: Annotated[int, Field(ge=1, le=8)] = 1
    text_pretrained: str | None = None
    text_width: Annotated[int, Field(ge=8)] = 128
    text_layers: Annotated[int, Field(ge=1, le=48)] = 2
    text_heads: Annotated[int, Field(ge=1)] = 4
    text_expansion: Annotated[int, Field(ge=1, le=8)] = 2
    text_vocabulary: Annotated[int, Field(ge=100)] = 4000
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 48
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    joint_seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        if len(self.image_channels) < 2:
            raise InputError(f"parameter model.image_channels = {self.image_channels}: needs a stem and a stage")
        if self.text_width % self.text_heads:
            raise InputError(
                f"parameter model.text_heads = {self.text_heads}: must divide model.text_width = {self.text_width}"
            )
        if self.towers == "both" and self.text_pretrained is None and self.text_width != self.image_width:
            raise InputError(
                f"parameter model.text_width = {self.text_width}: both embeddings need the same width, and the image "
                f"tower's is {self.image_width} (last of image_channels x image_pool squared)"
            )

    @property
    def image_width(self) -> int:
        """Width of z_img; 0 where there is no image tower."""
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
    """z_img and z_txt of a batch, each (batch, width); z_img (batch, 0) where there is no image tower."""

    image: Tensor
    text: Tensor

    @property
    def are_paired(self) -> bool:
        """Whether both towers are there."""
        return self.image.shape[-1] > 0


class ModelOutput(NamedTuple):
    """image_logits, text_logits: (batch, classes). image_embedding, text_embedding: (batch, width), the paper's
    z_img and z_txt; the logits are linear in them. Where there is no image tower, its logits and embedding are
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
    """The fused prediction (batch, classes): the mean of the two towers' softmaxes; the text tower's where there is no
    image tower, whose logits are then (batch, 0)."""
    if image_logits.shape[-1] == 0:
        return text_logits.softmax(-1)
    return (image_logits.softmax(-1) + text_logits.softmax(-1)) / 2


class ImageTower(nn.Module):
    """A residual network for one-channel images in [0, 1]; gives z_img and its logits.

    images (batch, 1, height, width) -> (batch, width), (batch, classes).
    """

    def __init__(self, channels: Sequence[int], stem_stride: int, pool: int, classes: int):
        super().__init__()
        stem, *stages = channels
        self.conv1 = nn.Conv2d(1, stem, kernel_size=7, stride=stem_stride, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        widths = [stem, *stages]
        self.stages = nn.ModuleList(
            nn.Sequential(_residual_block(before, after, stride=2), _residual_block(after, after, stride=1))
            for before, after in zip(widths, stages, strict=False)
        )
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.head = nn.Linear(stages[-1] * pool**2, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """z_img and its logits."""
        features = self.bn1(self.conv1(images)).relu()
        for stage in self.stages:
            features = stage(features)
        embedding = self.pool(features).flatten(1)
        return embedding, self.head(embedding)


def _residual_block(before: int, after: int, stride: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock  # more than a second to import

    downsample = None
    if stride != 1 or before != after:
        downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    return BasicBlock(before, after, stride, downsample)


class TextTower(nn.Module):
    """A BERT-like encoder; gives z_txt (the pooled [CLS], after dropout) and its logits.

    input_ids, attention_mask (batch, tokens) -> (batch, width), (batch, classes).
    """

    def __init__(self, encoder: nn.Module, dropout: float, classes: int):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """z_txt and its logits."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        pooled = getattr(output, "pooler_output", None)
        embedding = self.dropout(output.last_hidden_state[:, 0] if pooled is None else pooled)
        return embedding, self.head(embedding)


class ImageTextModel(nn.Module):
    """The two towers side by side; they meet in the loss, in the joint embedding and in the fused prediction.

    image_tower: None in a model that reads reports only. classes: how many there are to tell apart.
    """

    def __init__(self, settings: ModelConfig, image_tower: ImageTower | None, text_tower: TextTower):
        super().__init__()
        self.settings = settings
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.classes = text_tower.head.out_features

    def forward(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """Both towers' logits and embeddings."""
        if self.image_tower is None:
            image_embedding = image_logits = torch.zeros(len(input_ids), 0, device=input_ids.device)
        else:
            image_embedding, image_logits = self.image_tower(images)
        text_embedding, text_logits = self.text_tower(input_ids, attention_mask)
        return ModelOutput(image_logits, text_logits, image_embedding, text_embedding)


class JointEmbedding(nn.Module):
    """J of the paper: a gated multimodal unit (Arevalo et al., 2017) with fixed random weights,

        J(z_img, z_txt) = g * tanh(W_i z_img) + (1 - g) * tanh(W_t z_txt),   g = sigmoid(W_g [z_img; z_txt]).

    One instance serves F_og and F_ul and all batches: the weights come from a seed and are never trained. (The
    released code draws new ones at every call, which compares different projections.) Inputs and output (batch, width);
    with an image_width of 0 it is (1 - g) * tanh(W_t z_txt).
    """

    def __init__(self, width: int, seed: int, image_width: int | None = None):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        image_width = width if image_width is None else image_width
        shapes = {"image_weight": image_width, "text_weight": width, "gate_weight": image_width + width}
        for name, inputs in shapes.items():
            self.register_buffer(name, torch.randn(width, inputs, generator=generator) / max(inputs, 1) ** 0.5)

    def forward(self, z: Embeddings) -> Tensor:
        """J(z), (batch, width)."""
        gate = (torch.cat(z, -1) @ self.gate_weight.T).sigmoid()
        image, text = (z.image @ self.image_weight.T).tanh(), (z.text @ self.text_weight.T).tanh()
        return gate * image + (1 - gate) * text


# ---- building -------------------------------------------------------------------------------------------------


def build_tokenizer(settings: ModelConfig, training_reports: Sequence[str]) -> PreTrainedTokenizerBase:
    """The pretrained tower's own tokenizer, or a WordPiece one trained on the given reports (training reports only:
    a vocabulary remembers words too)."""
    if settings.text_pretrained is not None:
        from transformers import AutoTokenizer

        return _from_pretrained(AutoTokenizer, settings.text_pretrained)
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
    """A new model with weights drawn from the seed (the pretrained text tower's excepted).

    text_config: build the text encoder from this configuration without pretrained weights, as when a checkpoint's
    weights are about to be loaded.
    """
    from transformers import AutoModel, BertConfig

    torch.manual_seed(seed)
    if text_config is not None:
        encoder = AutoModel.from_config(text_config)
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
    if settings.towers == "text":
        return ImageTextModel(settings, None, TextTower(encoder, settings.dropout, classes))
    if encoder.config.hidden_size != settings.image_width:
        raise InputError(
            f"the text tower is {encoder.config.hidden_size} wide and the image tower {settings.image_width}: both "
            "embeddings need the same width; change model.image_channels or model.image_pool"
        )
    image_tower = ImageTower(settings.image_channels, settings.image_stem_stride, settings.image_pool, classes)
    return ImageTextModel(settings, image_tower, TextTower(encoder, settings.dropout, classes))


def _from_pretrained(kind: type, name: str):
    try:
        return kind.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"parameter model.text_pretrained = {name!r}: neither a local folder with a BERT and its tokenizer nor a "
            f"hub name that can be fetched from here ({reason})"
        ) from None


def joint_embedding_of(model: ImageTextModel) -> JointEmbedding:
    """The one joint embedding that goes with a model, whatever its weights."""
    width = model.text_tower.head.in_features
    return JointEmbedding(width, model.settings.joint_seed, image_width=model.settings.image_width)
