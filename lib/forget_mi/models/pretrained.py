"""Models in and out, as the ecosystem keeps them: a folder with config.json, model.safetensors, the
tokenizer's files and a model card; and whatever a user's model that is trained already lies in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forget_mi import __version__
from forget_mi.config import build
from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, write_text
from forget_mi.models.build import build_model, text_config_of
from forget_mi.models.card import model_card
from forget_mi.models.checkpoints import (
    MANIFEST,
    TEXT_CONFIG,
    WEIGHTS,
    contiguous_state_dict,
    load_checkpoint,
)
from forget_mi.models.config import ModelConfig
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.released import is_released, load_released
from forget_mi.models.state_dicts import load_weights, read_state_dict
from forget_mi.models.tokenizers import build_tokenizer, vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG, CARD, KIND = "config.json", "README.md", "forget-mi"


def save_pretrained(
    folder: str | Path,
    model: ImageTextModel,
    tokenizer: PreTrainedTokenizerBase | None,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's folder, whole or not at all: config.json, model.safetensors, README.md (the
    model card), the tokenizer's files, and the text encoder's configuration.

    card: what `card_facts` says of a run's model; None for one of which nothing is known.
    Raises InputError for a model of networks that were given as objects.
    """
    from safetensors.torch import save_file

    with replace_when_whole(folder) as temporary:
        temporary.mkdir(parents=True)
        save_file(contiguous_state_dict(model), temporary / WEIGHTS, metadata={"format": "pt"})
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if (text_config := text_config_of(model)) is not None:
            text_config.save_pretrained(temporary / TEXT_CONFIG)
        # Paths of the machine that it was trained on are nobody's business.
        settings = replace(
            model.settings, weights=None, retrained_weights=(), image_weights=None, tokenizer=None
        )
        config = {
            "model_type": KIND,
            "forget_mi": __version__,
            "classes": model.classes,
            "model": asdict(settings),
        }
        write_text(temporary / CONFIG, json.dumps(config, indent=2) + "\n")
        write_text(temporary / CARD, model_card(model, card or {}))


def from_pretrained(folder: str | Path) -> tuple[ImageTextModel, PreTrainedTokenizerBase | None]:
    """What `save_pretrained` wrote: the model in evaluation mode, and its tokenizer.

    Raises InputError for a folder of another kind, a missing or half-written file, and weights that
    do not fit.
    """
    from transformers import AutoConfig, AutoTokenizer

    folder = Path(folder)
    try:
        saved = json.loads((folder / CONFIG).read_text())
        classes, settings = saved["classes"], build(ModelConfig, saved["model"], "model")
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no {CONFIG}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CONFIG}: is no configuration of a {KIND} model ({error!r})"
        ) from None
    has_text = settings.towers != "image" and (folder / TEXT_CONFIG).is_dir()
    text_config = AutoConfig.from_pretrained(folder / TEXT_CONFIG) if has_text else None
    tokenizer = (
        AutoTokenizer.from_pretrained(folder)
        if (folder / "tokenizer_config.json").is_file()
        else None
    )
    model = build_model(settings, classes, vocabulary_size(tokenizer), 0, text_config)
    load_weights(model, read_state_dict(folder / WEIGHTS), folder / WEIGHTS)
    return model.eval(), tokenizer


def weights_file(path: str | Path) -> Path:
    """The file with the weights of a model that was trained already: in a folder of a run's
    checkpoint, of `save_pretrained` or of the authors' release; or the path itself, a file with a
    state dict.

    Raises InputError where nothing of the kind is there.
    """
    path = Path(path)
    found = next(
        (file for file in (path, path / WEIGHTS, path / "pytorch_model.bin") if file.is_file()),
        None,
    )
    if found is None:
        raise InputError(
            f"parameter model.weights = {str(path)!r}: there is neither a file with a state dict "
            f"nor a folder with {WEIGHTS} or pytorch_model.bin"
        )
    return found


def load_trained(
    path: str | Path, settings: ModelConfig, classes: int
) -> tuple[ImageTextModel, PreTrainedTokenizerBase | None]:
    """A model that was trained already, and its tokenizer.

    path: see `weights_file`; a bare state dict is that of the model that `settings` describe.
    settings.tokenizer goes before the folder's own.

    Raises InputError where nothing of the kind is there, where weights do not fit (key, both
    shapes), and where it tells other classes apart than the cohort's.
    """
    path, weights = Path(path), weights_file(path)
    if path == weights:
        tokenizer = _tokenizer_beside(path, settings)
        if tokenizer is None and settings.builtin and settings.towers != "image":
            raise _no_tokenizer(path)
        model = build_model(settings, classes, vocabulary_size(tokenizer), seed=0)
        load_weights(model, read_state_dict(path), path)
    elif is_released(path):
        model, tokenizer = load_released(path).model, None
    elif (path / MANIFEST).is_file():
        saved = load_checkpoint(path)
        model, tokenizer = saved.model, saved.tokenizer
    else:
        model, tokenizer = from_pretrained(path)
    if model.classes != classes:
        raise InputError(f"{path}: tells {model.classes} classes apart, the cohort has {classes}")
    if settings.tokenizer is not None and model.max_tokens:
        tokenizer = build_tokenizer(settings, [])
    if tokenizer is None and model.max_tokens:
        raise _no_tokenizer(path)
    return model.eval(), tokenizer


def _no_tokenizer(path: Path) -> InputError:
    return InputError(
        f"{path}: no tokenizer lies beside the weights; give the folder of the one that the model "
        "was trained with (model.tokenizer), with its vocab.txt or tokenizer.json (for the "
        "authors' weights that of https://huggingface.co/allenai/scibert_scivocab_uncased)"
    )


def _tokenizer_beside(path: Path, settings: ModelConfig) -> PreTrainedTokenizerBase | None:
    if settings.tokenizer is None and (path.parent / "tokenizer_config.json").is_file():
        settings = replace(settings, tokenizer=str(path.parent))
    named = settings.tokenizer or settings.text_pretrained or settings.dual_encoder
    return build_tokenizer(settings, []) if named and settings.towers != "image" else None
