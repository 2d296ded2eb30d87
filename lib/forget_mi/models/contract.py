"""What a model of one's own must offer, and a checker that says what is missing
(docs/your-own-model.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from forget_mi.errors import InputError
from forget_mi.models.adapters import OUTPUTS
from forget_mi.models.outputs import ModelOutput
from forget_mi.models.tokenizers import check_vocabulary

if TYPE_CHECKING:
    from forget_mi.data import Examples


@runtime_checkable
class ModelContract(Protocol):
    """A torch module that tells `classes` classes apart. widths: of z_img and z_txt, 0 for a tower
    that is not there. max_tokens: reports are cut there; 0 where none are read."""

    classes: int
    max_tokens: int
    widths: tuple[int, int]

    def __call__(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """images float (batch, 1, height, width) in [0, 1], input_ids and attention_mask int64
        (batch, tokens) to logits (batch, classes) and an embedding (batch, width) of each tower."""


def problems_of_model(
    model: nn.Module, examples: Examples, classes: int, tokenizer: Any = None
) -> list[str]:
    """What keeps a model from being made to forget, each in a sentence; empty where nothing does.

    examples: some records, of which the first few are shown to it. classes: that the cohort has.
    tokenizer: that made their tokens.
    """
    if not isinstance(model, nn.Module):
        return [
            f"is a {type(model).__name__}, not a torch module: it has no parameters that could be "
            "changed"
        ]
    found = []
    if model.training:
        found.append(
            "is in training mode, in which dropout and batch norm change its output; call "
            "model.eval()"
        )
    missing = [name for name in ("classes", "max_tokens", "widths") if not hasattr(model, name)]
    if missing:
        return [
            *found,
            f"lacks {', '.join(missing)} (see contract.ModelContract, or contract.adapt, which "
            "adds them)",
        ]
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
    shapes = ", ".join(
        f"{name} {tuple(batch[name].shape)}" for name in ("images", "input_ids", "attention_mask")
    )
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output, second = model(*inputs), model(*inputs)
    except InputError as error:
        return [str(error)]
    except Exception as error:
        return [f"called with {shapes} it raises {type(error).__name__}: {error}"]
    finally:
        model.train(training)
    if not isinstance(output, ModelOutput):
        return [f"returns a {type(output).__name__}, not a ModelOutput ({', '.join(OUTPUTS)})"]
    found, n = [], len(inputs[0])
    for name, value, width in zip(OUTPUTS, output, (classes, classes, *model.widths), strict=True):
        there = model.widths[0 if name.startswith("image") else 1] > 0
        expected = (n, width if there else 0)
        if tuple(value.shape) != expected:
            found.append(
                f"{name} has shape {tuple(value.shape)}, not {expected} (records, "
                f"{name.split('_')[1]})"
            )
        elif not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).any(-1).sum())
            found.append(f"{name} holds NaN or infinity for {bad} of {n} records")
    if not found and any(
        not torch.allclose(a, b, atol=1e-5) for a, b in zip(output, second, strict=True)
    ):
        found.append(
            "answers differently when asked twice in evaluation mode: something in it is still "
            "random"
        )
    return found


def require_model(
    model: nn.Module, examples: Examples, classes: int, tokenizer: Any = None, name: str = "model"
) -> None:
    """Raise InputError with all that `problems_of_model` finds."""
    found = problems_of_model(model, examples, classes, tokenizer)
    if found:
        raise InputError(f"{name}: " + "; ".join(found))
