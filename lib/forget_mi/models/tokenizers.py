"""Tokenizers: pretrained ones, and WordPiece vocabularies from the training reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from forget_mi.errors import InputError
from forget_mi.models.config import ModelConfig
from forget_mi.models.packaged import resolve_package_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_tokenizer(
    settings: ModelConfig, training_reports: Sequence[str]
) -> PreTrainedTokenizerBase | None:
    """The pretrained tower's own tokenizer, or a WordPiece one trained on the given reports
    (training reports only: a vocabulary remembers words too). None for a model that reads none."""
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


def vocabulary_size(tokenizer: PreTrainedTokenizerBase | None) -> int:
    """How many tokens a text tower must know; 0 without a tokenizer."""
    return 0 if tokenizer is None else len(tokenizer)


def wordpiece_vocabulary(reports: Sequence[str], size: int) -> dict[str, int]:
    """A WordPiece vocabulary of at most `size` entries from some reports: the same reports, the
    same vocabulary.

    The trainer numbers the word-internal letters (##a, ##b, ...) in the order of a hash map and
    breaks ties by these numbers, so that its vocabulary differs from run to run
    (huggingface/tokenizers issue 1794). Given to it in order, as special tokens that the returned
    vocabulary no longer treats as special, they can't.
    """
    from tokenizers import BertWordPieceTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = BertWordPieceTokenizer(lowercase=True)
    letters = sorted(
        {
            letter
            for report in reports
            for letter in trainer.normalize(report)
            if not letter.isspace()
        }
    )
    trainer.train_from_iterator(
        list(reports),
        vocab_size=size,
        min_frequency=2,
        special_tokens=special + [f"##{letter}" for letter in letters],
        show_progress=False,
    )
    return trainer.get_vocab()


def check_vocabulary(encoder: nn.Module | None, vocabulary: int) -> None:
    """Raise InputError where a tokenizer of so many tokens can't belong to an encoder: it would
    look up what is not there."""
    known = getattr(getattr(encoder, "config", None), "vocab_size", None)
    if known is not None and vocabulary > known:
        raise InputError(
            f"the tokenizer has {vocabulary} tokens and the text tower knows {known}: it doesn't "
            "belong to this model; give the model's own (model.tokenizer)"
        )


def _from_pretrained(kind: type, name: str, parameter: str = "text_pretrained"):
    try:
        return kind.from_pretrained(resolve_package_path(name, parameter))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"parameter model.{parameter} = {name!r}: neither a local folder with a model and its "
            f"tokenizer nor a hub name that can be fetched from here ({reason}); get config.json, "
            "model.safetensors or pytorch_model.bin, and the tokenizer's files from "
            f"https://huggingface.co/{name}/tree/main into a folder, and give its path"
        ) from None
