"""Building a model from its configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from forget_mi.errors import InputError
from forget_mi.models.adapters import WholeModel, from_factory
from forget_mi.models.config import ModelConfig
from forget_mi.models.dual_encoder import _dual_encoder
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.networks import network_tower
from forget_mi.models.tokenizers import _from_pretrained, check_vocabulary
from forget_mi.models.towers import ImageTower, ProjectedTower, TextTower, Tower, to_group_norm

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def build_model(
    settings: ModelConfig,
    classes: int,
    vocabulary: int,
    seed: int,
    text_config: PretrainedConfig | None = None,
) -> ImageTextModel:
    """A new model with weights drawn from the seed (those of pretrained towers excepted).

    vocabulary: of the tokenizer. text_config: build the text encoder, or the dual encoder, from
    this configuration without pretrained weights, as when a checkpoint's weights are about to be
    loaded.

    Raises InputError where the towers' widths differ, or the tokenizer knows more tokens than the
    text tower.
    """
    torch.manual_seed(seed)
    if settings.factory is not None:
        model = from_factory(settings, classes)
        check_vocabulary(getattr(model.text_tower, "network", None), vocabulary)
        return model
    if settings.dual_encoder is not None:
        return _dual_encoder(settings, classes, text_config)
    # In this order, on which the weights drawn from a seed depend.
    encoder = (
        None if settings.towers == "image" else _text_encoder(settings, vocabulary, text_config)
    )
    image_tower = None if settings.towers == "text" else _image_tower(settings, classes)
    text_tower = None if encoder is None else TextTower(encoder, settings.dropout, classes)
    if settings.project is not None:
        image_tower, text_tower = (
            tower and ProjectedTower(tower, settings.project, classes)
            for tower in (image_tower, text_tower)
        )
    model = ImageTextModel(settings, image_tower, text_tower)
    if (
        settings.towers == "both"
        and image_tower.width != text_tower.width
        and settings.image_network is None
    ):
        raise InputError(
            f"the text tower is {text_tower.width} wide and the image tower {image_tower.width}: "
            "both embeddings need the same width; set model.project to a common one, or change "
            "model.image_channels or model.image_pool"
        )
    return model


def reinitialized(model: ImageTextModel | WholeModel, seed: int) -> ImageTextModel | WholeModel:
    """A new model of the same kind with weights drawn from the seed, a pretrained tower's too.

    Raises InputError for networks that were given as objects: nothing says how they are built.
    """
    if model.is_adapted:
        raise InputError(
            "the model was given as an object, and nothing says how a new one is built; name a "
            "factory (model.factory) for retraining, reference models and EU-k"
        )
    config = text_config_of(model)
    vocabulary = getattr(config, "vocab_size", 0)
    return build_model(
        replace(model.settings, image_weights=None), model.classes, vocabulary, seed, config
    )


def _text_encoder(
    settings: ModelConfig, vocabulary: int, config: PretrainedConfig | None
) -> nn.Module:
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


def _image_tower(settings: ModelConfig, classes: int) -> Tower:
    if settings.image_network is not None:
        tower = network_tower(
            settings.image_network, classes, settings.image_inputs, settings.image_weights
        )
    else:
        shape = (settings.image_channels, settings.image_stem_stride, settings.image_pool)
        tower = ImageTower(*shape, classes)
    if settings.image_norm == "group":
        to_group_norm(tower)
    return tower


def text_config_of(model: ImageTextModel) -> PretrainedConfig | None:
    """The configuration from which the text encoder (or the dual encoder) can be built again."""
    if model.settings.dual_encoder is not None:
        return getattr(model, "dual_config", None)
    return getattr(getattr(model.text_tower, "encoder", None), "config", None)
