"""Which part of the two towers a method trains (the last k layers of each, and the heads), and what the part below it
says, which never changes."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from forget_mi.data.batches import Examples
from forget_mi.errors import InputError
from forget_mi.models.build import reinitialized
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.towers import ImageTower, TextTower
from forget_mi.training.prediction import predict


def last_layers(model: ImageTextModel, k: int) -> list[nn.Module]:
    """The last k blocks of each tower (residual blocks, encoder layers), what comes after them (pooler, projection),
    and the heads. Where a tower has fewer than k blocks, all of them (stem and token embeddings stay out).

    Raises InputError for a tower whose blocks can't be told apart.
    """
    found = []
    for tower in model.towers():
        blocks = tower.blocks()
        if not blocks:
            raise InputError(
                f"the {type(tower).__name__}'s layers can't be told apart, so there is no last {k} of them; CF-k and "
                "EU-k need a tower whose blocks() lists them"
            )
        found += [*blocks[-k:], *tower.after_blocks(), tower.head]
    return found


def train_only(model: ImageTextModel, layers: list[nn.Module]) -> None:
    """Let only the given layers be trained, in place."""
    model.requires_grad_(False)
    for layer in layers:
        layer.requires_grad_(True)


def reinitialise(model: ImageTextModel, k: int, seed: int) -> None:
    """Give the last k layers and the heads the weights of a new model drawn from the seed, in place."""
    fresh = reinitialized(model, seed)
    for old, new in zip(last_layers(model, k), last_layers(fresh, k), strict=True):
        old.load_state_dict(new.state_dict())


# ---- what the layers below say ----------------------------------------------------------------------------------


MOST_BYTES = 2**30  # that one tower's kept features may take


class FrozenFeatures:
    """What the frozen layers below the trained ones say of some records: computed at most once a record, when it is
    first drawn, and put in their place from then on, so that a step runs only the layers that it trains.

    Only for towers whose first layers are known (the built-in ones), and only where the kept features of all records
    fit into MOST_BYTES a tower; the other towers run whole. Frozen layers are in evaluation mode (`hold_still`), so
    that they say the same of a record each time. To be used as a context: afterwards the model is as it was.
    """

    def __init__(self, model: ImageTextModel, examples: Examples, accelerator: Accelerator):
        self._model, self._examples, self._accelerator = model, examples, accelerator
        below = [(tower, frozen_below(tower)) for tower in model.towers()]
        self._towers = [_Kept(modules, len(examples), tower is model.text_tower) for tower, modules in below if modules]
        self._known = np.zeros(len(examples), dtype=bool)

    def __enter__(self) -> FrozenFeatures:
        return self

    def __exit__(self, *_: object) -> None:
        for kept in self._towers:
            kept.put_back()

    @property
    def towers(self) -> int:
        """How many towers are spared their lower layers."""
        return len(self._towers)

    def prepare(self, index: np.ndarray) -> None:
        """Compute what is still missing of the records at `index`, in one pass."""
        missing = np.unique(index[~self._known[index]])
        if len(missing) == 0 or not self._towers:
            return
        for kept in self._towers:
            kept.listen()
        predict(self._model, self._examples.select(missing), self._accelerator)
        self._towers = [kept for kept in self._towers if kept.keep(missing)]
        self._known[missing] = True

    def show(self, index: np.ndarray) -> None:
        """Let the next forward pass be of the records at `index`, which were prepared."""
        index = torch.from_numpy(index)
        tokens = int(self._examples.attention_mask[index].sum(1).max()) if self._examples.input_ids.shape[1] else 0
        for kept in self._towers:
            kept.show(index, tokens)


def frozen_below(tower: nn.Module) -> list[nn.Module]:
    """The layers of a tower, from its input on, none of which is trained; empty where its first layers are unknown."""
    if isinstance(tower, ImageTower):
        first = [tower.conv1, tower.bn1]
    elif isinstance(tower, TextTower) and hasattr(tower.encoder, "embeddings"):
        first = [tower.encoder.embeddings]
    else:
        return []
    layers = [*first, *tower.blocks()]
    frozen = list(takewhile(lambda layer: not any(p.requires_grad for p in layer.parameters()), layers))
    return frozen if len(frozen) >= len(first) else []


class _Kept:
    """One tower's frozen layers, and what the last of them said of each record."""

    def __init__(self, modules: list[nn.Module], records: int, of_text: bool):
        self._modules, self._records, self._of_text = modules, records, of_text
        self._values: Tensor | None = None
        self._now: Tensor | None = None
        self._heard: list[Tensor] = []
        self._hook = None

    def listen(self) -> None:
        """Run as always, and hear what the last layer says."""
        self.put_back()
        self._hook = self._modules[-1].register_forward_hook(lambda module, given, said: self._heard.append(said))

    def keep(self, index: np.ndarray) -> bool:
        """Keep what was heard as that of the records at `index`, and stand in for the layers from now on; False where
        there would be too much of it."""
        self._hook.remove()
        heard, self._heard = self._heard, []
        if not isinstance(heard[0], Tensor):
            return False
        if self._of_text:  # (batch, tokens, width), each batch as long as its longest report
            longest = max(t.shape[1] for t in heard)
            heard = [nn.functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in heard]
        new = torch.cat(heard)
        if new[0].numel() * new.element_size() * self._records > MOST_BYTES:
            return False
        if self._values is None:
            self._values = new.new_zeros(self._records, *new.shape[1:])
        if self._of_text and new.shape[1] != self._values.shape[1]:
            longest = max(new.shape[1], self._values.shape[1])
            new, self._values = (nn.functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in (new, self._values))
        self._values[torch.from_numpy(index).to(new.device)] = new
        self._modules[0].forward = lambda *given, **named: self._now
        for module in self._modules[1:]:
            module.forward = _hand_on
        return True

    def show(self, index: Tensor, tokens: int) -> None:
        """Say this of the next batch."""
        found = self._values[index.to(self._values.device)]
        self._now = found[:, :tokens] if self._of_text else found

    def put_back(self) -> None:
        """Let the layers run again."""
        for module in self._modules:
            module.__dict__.pop("forward", None)


def _hand_on(given: Tensor, *_: object, **__: object) -> Tensor:
    return given
