"""What a model and a cohort of one's own must offer, how networks that know nothing of this library are made to offer
it, and a checker that says in plain words what is missing (docs/your-own-model.md)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from forget_mi.cohorts.base import Cohort
from forget_mi.errors import InputError
from forget_mi.models import ImageTextModel, ModelConfig, ModelOutput, check_vocabulary
from forget_mi.towers import AdaptedImage, AdaptedText

if TYPE_CHECKING:
    from forget_mi.batches import Examples


@runtime_checkable
class ModelContract(Protocol):
    """A torch module that tells `classes` classes apart. widths: of z_img and z_txt, 0 for a tower that is not there.
    max_tokens: reports are cut there; 0 where none are read."""

    classes: int
    max_tokens: int
    widths: tuple[int, int]

    def __call__(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """images float (batch, 1, height, width) in [0, 1], input_ids and attention_mask int64 (batch, tokens) to
        logits (batch, classes) and an embedding (batch, width) of each tower."""


@runtime_checkable
class CohortContract(Protocol):
    """table: a row an image, with patient_id, study_id, image_id, label (whole numbers from 0). images: uint8 (n, 1,
    height, width), an array or anything that gives such arrays by rows; None where there are reports only. reports:
    text by study_id. classes: their names."""

    table: pd.DataFrame
    images: np.ndarray | None
    reports: Mapping[str, str] | None
    classes: Sequence[str]


OUTPUTS = ModelOutput._fields


def adapt(
    image: nn.Module | None = None,
    text: nn.Module | None = None,
    *,
    max_tokens: int = 128,
    image_head: str | None = None,
    text_head: str | None = None,
    channels: int | None = None,
    mean: Sequence[float] | float = 0.0,
    std: Sequence[float] | float = 1.0,
    joint_seed: int = 0,
) -> ImageTextModel:
    """A model that this library can make forget, from networks that know nothing of it; they are left as they are, in
    `model.image_tower.network` and `model.text_tower.network`.

    image: called with images (batch, channels, height, width), normalised by mean and std. text: called with input_ids
    and attention_mask, as transformers' are. Each gives logits (batch, classes), as they are or as `.logits`, from a
    linear layer; what goes into it is the embedding. image_head, text_head: that layer's name, by default the last
    linear one. max_tokens: at which reports are cut.

    Raises InputError for no network at all, a head that is not there, and towers that tell different classes apart.
    """
    if image is None and text is None:
        raise InputError("adapt: neither an image nor a text network was given; one tower is enough, none is not")
    towers = "both" if image is not None and text is not None else "image" if text is None else "text"
    image_tower = None if image is None else AdaptedImage(image, image_head, channels, mean, std)
    text_tower = None if text is None else AdaptedText(text, text_head)
    if towers == "both" and image_tower.head.out_features != text_tower.head.out_features:
        raise InputError(
            f"the image network tells {image_tower.head.out_features} classes apart and the text network "
            f"{text_tower.head.out_features}; both must give logits of the same classes"
        )
    settings = ModelConfig(towers=towers, max_tokens=max_tokens, joint_seed=joint_seed)
    return ImageTextModel(settings, image_tower, text_tower)


class WholeModel(nn.Module):
    """A model of one's own that gives everything itself: its forward returns the fields of ModelOutput by name (a
    mapping, or an object with these attributes). A tower that is not there is left out.

    Raises InputError at the first call where a tower's logits or embedding are missing.
    """

    image_tower = text_tower = None  # they can't be told apart
    is_adapted = False

    def __init__(self, model: nn.Module, settings: ModelConfig, classes: int, widths: tuple[int, int]):
        super().__init__()
        self.model, self.settings, self.classes, self.widths = model, settings, classes, tuple(widths)
        self.max_tokens = settings.max_tokens if self.widths[1] else 0

    def forward(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """Both towers' logits and embeddings."""
        return as_output(self.model(images, input_ids, attention_mask))

    def towers(self) -> list:
        """Raises InputError: its layers are its own business."""
        raise InputError(
            f"{type(self.model).__name__} is one piece: methods that train the last layers of a tower (CF-k, EU-k) "
            "can't tell which they are; choose another method, or give the towers apart (contract.adapt)"
        )

    def fresh(self, seed: int) -> nn.Module:
        """A new one from the factory, with weights drawn from the seed."""
        return made_anew(self, seed)


def as_output(said: Any) -> ModelOutput:
    """What a model of one's own says as a ModelOutput.

    Raises InputError that says what is missing, and what can't be done without it.
    """
    if isinstance(said, ModelOutput):
        return said
    get = said.get if isinstance(said, Mapping) else lambda name: getattr(said, name, None)
    found = {name: get(name) for name in OUTPUTS}
    for tower in ("image", "text"):
        logits, z = found[f"{tower}_logits"], found[f"{tower}_embedding"]
        if (logits is None) != (z is None):
            lacking = "logits" if logits is None else "embedding"
            raise InputError(
                f"no {lacking} of the {tower} tower ({tower}_{lacking}): "
                + (
                    "the classification losses and the attacks can't look at it; add them"
                    if logits is None
                    else "Forget-MI's distances and the probes of the audit can't be computed; add what its last "
                    "linear layer is fed with"
                )
            )
    if all(found[f"{tower}_logits"] is None for tower in ("image", "text")):
        kind = f"a tensor {tuple(said.shape)}" if isinstance(said, Tensor) else type(said).__name__
        raise InputError(
            f"no per-tower logits: the model gives {kind}, and neither the unimodal losses nor the attacks on a tower "
            f"can be computed; return {', '.join(OUTPUTS)} by name (one tower's two are enough), or give the networks "
            "of the towers apart (contract.adapt)"
        )
    some = next(value for value in found.values() if value is not None)
    nothing = some.new_zeros(len(some), 0)
    return ModelOutput(*(nothing if value is None else value for value in found.values()))


def from_factory(settings: ModelConfig, classes: int) -> ImageTextModel | WholeModel:
    """The model that `settings.factory`, 'package.module:name', makes of `classes` and the settings' arguments: an
    ImageTextModel, a mapping for `adapt` ({'image': network, 'text': network, ...}), or a module that fulfils the
    contract by itself.

    Raises InputError where it can't be imported or called, or makes something else.
    """
    what = f"parameter model.factory = {settings.factory!r}"
    function = imported(settings.factory, "model.factory")
    try:
        made = function(classes=classes, **settings.arguments)
    except TypeError as error:
        raise InputError(
            f"{what}: can't be called with classes and {settings.arguments or 'no arguments'} ({error})"
        ) from None
    if isinstance(made, Mapping):
        made = adapt(**{"max_tokens": settings.max_tokens, "joint_seed": settings.joint_seed, **made})
    if isinstance(made, ImageTextModel):
        made.settings = settings
        return made
    if not isinstance(made, nn.Module):
        raise InputError(f"{what}: makes a {type(made).__name__}; a torch module or a mapping of networks is allowed")
    missing = [name for name in ("classes", "widths") if not hasattr(made, name)]
    if missing:
        raise InputError(
            f"{what}: its {type(made).__name__} lacks {' and '.join(missing)}: classes, how many it tells apart, and "
            "widths, of its image and its text embedding (0 for a tower that is not there)"
        )
    return WholeModel(made, settings, made.classes, made.widths)


def imported(name: str, parameter: str) -> Any:
    """What 'package.module:name' names. Raises InputError where it can't be imported."""
    module, _, attribute = str(name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"parameter {parameter} = {name!r}: can't be imported ({error}); write package.module:name, of a module "
            "that Python finds (PYTHONPATH, or installed beside forget_mi)"
        ) from None


def made_anew(model: nn.Module, seed: int) -> nn.Module:
    """A new model of the same kind, for retraining. Raises InputError where nothing says how one is made."""
    if model.settings.factory is None:
        raise InputError(
            "the model was given as an object, and nothing says how a new one is made; name a factory (model.factory) "
            "for retraining, reference models and EU-k"
        )
    torch.manual_seed(seed)
    return from_factory(model.settings, model.classes)


# ---- the checker -----------------------------------------------------------------------------------------------------


def problems_of_model(model: nn.Module, examples: Examples, classes: int, tokenizer: Any = None) -> list[str]:
    """What keeps a model from being made to forget, each in a sentence; empty where nothing does.

    examples: some records, of which the first few are shown to it. classes: that the cohort has. tokenizer: that made
    their tokens.
    """
    if not isinstance(model, nn.Module):
        return [f"is a {type(model).__name__}, not a torch module: it has no parameters that could be changed"]
    found = []
    if model.training:
        found.append("is in training mode, in which dropout and batch norm change what it says; call model.eval()")
    missing = [name for name in ("classes", "max_tokens", "widths") if not hasattr(model, name)]
    if missing:
        return [*found, f"lacks {', '.join(missing)} (see contract.ModelContract, or contract.adapt, which adds them)"]
    if model.classes != classes:
        found.append(f"tells {model.classes} classes apart, the cohort has {classes}")
    if tokenizer is not None:
        for tower in (getattr(model, "text_tower", None), getattr(model, "model", None)):
            network = getattr(tower, "encoder", getattr(tower, "network", tower))
            try:
                check_vocabulary(network, len(tokenizer))
            except InputError as error:
                return [*found, str(error)]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        found.append("has no parameter that requires a gradient: nothing could be changed")
    return [*found, *_problems_of_outputs(model, examples, classes)]


def _problems_of_outputs(model: nn.Module, examples: Examples, classes: int) -> list[str]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batch = examples.__getitems__(range(min(4, len(examples))))
    inputs = [batch[name].to(device) for name in ("images", "input_ids", "attention_mask")]
    shapes = ", ".join(f"{name} {tuple(batch[name].shape)}" for name in ("images", "input_ids", "attention_mask"))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            said, again = model(*inputs), model(*inputs)
    except InputError as error:
        return [str(error)]
    except Exception as error:
        return [f"called with {shapes} it raises {type(error).__name__}: {error}"]
    finally:
        model.train(training)
    if not isinstance(said, ModelOutput):
        return [f"returns a {type(said).__name__}, not a ModelOutput ({', '.join(OUTPUTS)})"]
    found, n = [], len(inputs[0])
    for name, value, width in zip(OUTPUTS, said, (classes, classes, *model.widths), strict=True):
        there = model.widths[0 if name.startswith("image") else 1] > 0
        expected = (n, width if there else 0)
        if tuple(value.shape) != expected:
            found.append(f"{name} has shape {tuple(value.shape)}, not {expected} (records, {name.split('_')[1]})")
        elif not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).any(-1).sum())
            found.append(f"{name} holds NaN or infinity for {bad} of {n} records")
    if not found and any(not torch.allclose(a, b, atol=1e-5) for a, b in zip(said, again, strict=True)):
        found.append("answers differently when asked twice in evaluation mode: something in it is still random")
    return found


def require_model(
    model: nn.Module, examples: Examples, classes: int, tokenizer: Any = None, name: str = "model"
) -> None:
    """Raise InputError with all that `problems_of_model` finds."""
    found = problems_of_model(model, examples, classes, tokenizer)
    if found:
        raise InputError(f"{name}: " + "; ".join(found))


# ---- cohorts --------------------------------------------------------------------------------------------------------


def as_cohort(made: Any, name: str) -> Cohort:
    """A cohort of one's own (CohortContract) as the library's.

    Raises InputError where something is missing or malformed (a column, a label, a report, the images' shape or type).
    """
    if isinstance(made, Cohort):
        return made
    missing = [field for field in CohortContract.__annotations__ if not hasattr(made, field)]
    if missing:
        raise InputError(
            f"cohort {name}: a {type(made).__name__} lacks {', '.join(missing)} (see contract.CohortContract)"
        )
    table, n = made.table.reset_index(drop=True), len(made.table)
    images = np.zeros((n, 1, 0, 0), np.uint8) if made.images is None else made.images
    if len(images.shape) != 4 or images.shape[1] != 1:
        raise InputError(f"cohort {name}: its images have shape {tuple(images.shape)}, not ({n}, 1, height, width)")
    if images.dtype != np.uint8:
        raise InputError(f"cohort {name}: its images are {images.dtype}; allowed is uint8, 0 to 255")
    reports = made.reports
    if reports is None and "study_id" in table:  # images alone
        reports = dict.fromkeys(table.study_id, "no report")
    return Cohort(name, table, images, dict(reports or {}), tuple(made.classes), getattr(made, "synthetic", False))
