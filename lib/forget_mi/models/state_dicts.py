"""State dicts: read without running code, and loaded completely or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from forget_mi.errors import InputError


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, or in a pickle that torch reads without running code
    (weights_only).

    Raises InputError for a file that is missing, cut short, or would run code.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of weights")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, "cpu", weights_only=True)
        )
    except SafetensorError as error:
        raise InputError(
            f"{path}: is no whole safetensors file ({error}; {path.stat().st_size} bytes)"
        ) from None
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: is refused, since reading it would run code of its own ({reason[:160]})"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: can't be read ({reason[:160]}; {path.stat().st_size} bytes)"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise InputError(
            f"{path}: holds no state dict (names to tensors) but {type(state).__name__}"
        )
    return dict(state)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Put a state dict into a module, all of it.

    Raises InputError that names the first key that is missing, unknown or of another shape (both
    shapes).
    """
    own = module.state_dict()
    for key, tensor in state.items():
        if key in own and own[key].shape != tensor.shape:
            raise InputError(
                f"{source}: {key} has shape {tuple(tensor.shape)}, the model's is "
                f"{tuple(own[key].shape)}"
            )
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    both = ((missing, "of its tensors are missing"), (unknown, "tensors are unknown to it"))
    if missing or unknown:
        raise InputError(
            f"{source}: does not fit {type(module).__name__}: "
            + "; ".join(f"{len(keys)} {what}, such as {keys[0]}" for keys, what in both if keys)
        )
    module.load_state_dict(dict(state), strict=False)
