"""Checkpoints: a folder with weights (safetensors), configuration, tokenizer and a manifest that
says where they came from. A folder is whole or it isn't there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forget_mi.config import build
from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, sha256_of, write_text
from forget_mi.models.build import build_model, text_config_of
from forget_mi.models.config import ModelConfig
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.tokenizers import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS, MANIFEST, CONFIG, TEXT_CONFIG = (
    "model.safetensors",
    "manifest.json",
    "config.json",
    "text_config",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was saved, on CPU and in evaluation mode, with its tokenizer and manifest."""

    model: ImageTextModel
    tokenizer: PreTrainedTokenizerBase | None
    manifest: dict[str, Any]


def save_checkpoint(
    folder: Path,
    model: ImageTextModel,
    tokenizer: PreTrainedTokenizerBase | None,
    manifest: dict[str, Any],
) -> None:
    """Write the folder under a temporary name, then rename it. The weights' SHA-256 joins the
    manifest.

    Raises InputError for a model that was given as an object (`contiguous_state_dict`).
    """
    from safetensors.torch import save_file

    with replace_when_whole(folder) as temporary:
        temporary.mkdir(parents=True)
        save_file(contiguous_state_dict(model), temporary / WEIGHTS)
        write_text(
            temporary / CONFIG,
            json.dumps({"classes": model.classes, "model": asdict(model.settings)}, indent=2),
        )
        if (text_config := text_config_of(model)) is not None:
            text_config.save_pretrained(temporary / TEXT_CONFIG)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary / "tokenizer")
        manifest = {**manifest, "weights_sha256": sha256_of(temporary / WEIGHTS)}
        write_text(temporary / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest. Raises InputError where there is none or it can't be read."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if "seconds" in manifest and manifest["seconds"] is None:  # trained elsewhere
            manifest["seconds"] = float("nan")
        return manifest
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no whole checkpoint ({MANIFEST} is missing)") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the manifest is damaged ({error})") from None


def load_checkpoint(folder: Path, *, fingerprint: str | None = None) -> Checkpoint:
    """Read a checkpoint.

    fingerprint: of the cohort at hand; InputError where the checkpoint was made on another. Raises
    InputError too where the folder is not whole, or the weights are not the bytes that were
    written.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoTokenizer

    folder = Path(folder)
    manifest = read_manifest(folder)
    if fingerprint is not None and manifest["cohort_fingerprint"] != fingerprint:
        raise InputError(
            f"{folder}: was made on another cohort or split (fingerprint "
            f"{manifest['cohort_fingerprint']}, the cohort here has {fingerprint}); make the run "
            "folder again"
        )
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{weights}: is missing")
    if sha256_of(weights) != manifest["weights_sha256"]:
        raise InputError(
            f"{weights}: is truncated or was changed ({weights.stat().st_size} bytes, SHA-256 is "
            "not the manifest's)"
        )
    saved = json.loads((folder / CONFIG).read_text())
    settings = build(ModelConfig, saved["model"], "model")
    has = {name: (folder / name).is_dir() for name in ("tokenizer", TEXT_CONFIG)}
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer") if has["tokenizer"] else None
    text_config = AutoConfig.from_pretrained(folder / TEXT_CONFIG) if has[TEXT_CONFIG] else None
    ours = replace(
        settings, image_weights=None
    )  # the checkpoint's weights replace what they would be
    model = build_model(ours, saved["classes"], vocabulary_size(tokenizer), 0, text_config)
    model.settings = settings
    model.load_state_dict(load_file(weights))
    return Checkpoint(model.eval(), tokenizer, manifest)


def contiguous_state_dict(model: ImageTextModel) -> dict[str, Any]:
    """A model's state as safetensors takes it: on CPU, contiguous, none sharing memory with
    another.

    Raises InputError for a model that was given as an object: nothing says how it is built when it
    is read again.
    """
    if model.is_adapted:
        raise InputError(
            "a model of networks that were given as objects can't be saved so that it can be read "
            "again; name the factory that builds it (model.factory), or save "
            "model.image_tower.network and model.text_tower.network"
        )
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in model.state_dict().items()
    }
