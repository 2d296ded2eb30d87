"""The paper's model with random weights: the cost is the same."""

from __future__ import annotations

from dataclasses import replace

from transformers import BertConfig

from forget_mi.models.build import build_model
from forget_mi.models.config import NAMED
from forget_mi.models.image_text import ImageTextModel

SCIBERT_VOCABULARY = 31_090


def paper_model(classes: int) -> tuple[ImageTextModel, BertConfig]:
    """The paper's configuration, its text tower a BERT base, as SciBERT is; and that tower's."""
    settings = replace(NAMED["paper"], text_pretrained=None)
    shape = BertConfig(vocab_size=SCIBERT_VOCABULARY, num_labels=classes)
    model = build_model(settings, classes, SCIBERT_VOCABULARY, seed=0, text_config=shape)
    return model, shape
