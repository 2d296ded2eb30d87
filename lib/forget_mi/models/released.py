"""The weights that the authors of Forget-MI published, as transformers of 2024 wrote them:
config.json (a BertConfig) and pytorch_model.bin."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from forget_mi.errors import InputError
from forget_mi.models.build import build_model
from forget_mi.models.config import NAMED
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.state_dicts import load_weights, read_state_dict

WEIGHTS, CONFIG = "pytorch_model.bin", "config.json"


# Their names to ours. Theirs: a residual network of seven layers of two blocks, a BERT, an output
# layer each.
NAMES = (
    (r"img_model\.layer(\d+)\.", lambda m: f"image_tower.stages.{int(m[1]) - 1}."),
    (r"img_model\.fc1\.", "image_tower.head."),
    (r"img_model\.", "image_tower."),
    (r"text_model\.bert\.", "text_tower.encoder."),
    (r"text_model\.classifier\.", "text_tower.head."),
)


# Layer norms of files from before 2020.
OLD = {".gamma": ".weight", ".beta": ".bias"}


@dataclass(frozen=True)
class Released:
    """model: of the paper's profile, in evaluation mode. used, unused: the file's keys; unused are
    an output layer over both towers, which the paper's forward pass never calls, and position
    numbers, which are made again."""

    model: ImageTextModel
    used: tuple[str, ...]
    unused: tuple[str, ...]


def is_released(folder: str | Path) -> bool:
    """Whether a folder looks like one of theirs."""
    return (Path(folder) / WEIGHTS).is_file()


def load_released(folder: str | Path) -> Released:
    """Read a released folder into the paper's model. The file is a pickle, and is read without
    running any code.

    Raises InputError where a file is missing, cut short or would run code, where config.json is of
    another kind, and for a tensor that is missing, unknown or of another shape (with its name, both
    shapes).
    """
    from transformers import BertConfig

    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: holds no {name}; a released folder has {CONFIG} and {WEIGHTS}"
            )
    try:
        values = json.loads((folder / CONFIG).read_text())
        config = BertConfig(**values)
        classes = int(values.get("num_labels") or len(values["id2label"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CONFIG}: is no configuration of a BERT with num_labels ({error!r})"
        ) from None
    state = read_state_dict(folder / WEIGHTS)
    renamed = {renamed_key(key): key for key in state if renamed_key(key) is not None}
    settings = replace(
        NAMED["paper"],
        image_channels=channels_of(state, folder),
        text_pretrained=None,
        text_width=config.hidden_size,
        text_layers=config.num_hidden_layers,
        text_heads=config.num_attention_heads,
        max_tokens=min(NAMED["paper"].max_tokens, config.max_position_embeddings),
        weights=str(folder),
    )
    model = build_model(settings, classes, config.vocab_size, seed=0, text_config=config)
    load_weights(model, {ours: state[theirs] for ours, theirs in renamed.items()}, folder / WEIGHTS)
    used = tuple(renamed.values())
    return Released(model.eval(), used, tuple(key for key in state if key not in set(used)))


def renamed_key(key: str) -> str | None:
    """What a tensor of theirs is called here; None for what nothing uses."""
    for old, new in OLD.items():
        if key.endswith(old):
            key = key.removesuffix(old) + new
    if key.endswith("embeddings.position_ids"):
        return None
    for pattern, ours in NAMES:
        if re.match(pattern, key):
            return re.sub(pattern, ours, key, count=1)
    return None if key.startswith("classifier.") else key


def channels_of(state: dict[str, Tensor], folder: Path) -> tuple[int, ...]:
    """Of the stem and of each stage, from the shapes in the file."""
    numbers = [
        int(m[1])
        for key in state
        if (m := re.fullmatch(r"img_model\.layer(\d+)\.0\.conv1\.weight", key))
    ]
    keys = [
        "img_model.conv1.weight",
        *(f"img_model.layer{n}.0.conv1.weight" for n in sorted(numbers)),
    ]
    missing = [key for key in keys if key not in state]
    if missing or len(keys) == 1:
        raise InputError(
            f"{folder / WEIGHTS}: lacks {(missing or ['img_model.layer1.0.conv1.weight'])[0]}: no "
            "image tower of the paper's kind is in it"
        )
    return tuple(state[key].shape[0] for key in keys)
