"""A peer's method in the shape of one of ours, so that our audit judges it and our rule tunes it.

A peer's code gets a classifier (logits from one argument) and records one by one, as its packages
expect them; it never sees that there are two towers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from forget_mi.config import config
from forget_mi.data import Examples
from forget_mi.models import ImageTextModel, fused_probabilities
from forget_mi.unlearning import SearchSpace, UnlearningData, UnlearningLog
from forget_mi.unlearning.base import FORWARD_ONLY


class Record(dict):
    """Image and report as one input; moves between devices as a tensor does."""

    def to(self, device: Any, **how: Any) -> Record:
        """The same on a device."""
        return Record({name: tensor.to(device, **how) for name, tensor in self.items()})


class WorkCounter:
    """Counts records that go through a model and its copies, as `UnlearningLog.work` does: forward
    and backward as 1, forward only as a third."""

    def __init__(self):
        self.work = 0.0

    def __deepcopy__(self, _: dict) -> WorkCounter:
        return self

    def add(self, records: int, module: nn.Module) -> None:
        """Count a batch."""
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
        self.work += records * (1 if learns else FORWARD_ONLY)


class Classifier(nn.Module):
    """An image-text model as a classifier: logits (batch, classes) of a tensor of images where it
    has an image tower alone, and of a Record where it has both (the log of the fused prediction,
    whose softmax is that prediction)."""

    def __init__(self, model: ImageTextModel, counter: WorkCounter):
        super().__init__()
        self.model, self.counter = model, counter

    def forward(self, x: Tensor | Record | None = None, **parts: Tensor) -> Tensor:
        """Logits. parts: of a Record, by name, as some code hands over what is a dict."""
        x = Record(parts) if x is None else x
        if isinstance(x, Tensor):
            images = x
            ids = mask = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        else:
            images, ids, mask = x["images"], x["input_ids"], x["attention_mask"]
        self.counter.add(len(images), self)
        output = self.model(images, ids, mask)
        if self.model.text_tower is None:
            return output.image_logits
        fused = fused_probabilities(output.image_logits, output.text_logits)
        return fused.clamp_min(torch.finfo(fused.dtype).tiny).log()


class Records(Dataset):
    """Examples one by one: (x, label), or (x, label, label) with `twice`. x: a tensor (channels,
    height, width) in [0, 1], or a Record."""

    def __init__(self, examples: Examples, *, image_only: bool, twice: bool = False):
        self.images = examples.float_images()
        self.ids, self.mask = examples.input_ids.long(), examples.attention_mask.long()
        self.labels = examples.labels.tolist()
        self.image_only, self.twice = image_only, twice

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple:
        x: Any = self.images[i]
        if not self.image_only:
            x = Record(images=x, input_ids=self.ids[i], attention_mask=self.mask[i])
        return (x, self.labels[i], self.labels[i]) if self.twice else (x, self.labels[i])


# (classifier, data, settings, image_only, seed) -> the classifier that forgot
Call = Callable[[Classifier, UnlearningData, Mapping[str, Any], bool, int], nn.Module]


@dataclass(frozen=True)
class PeerMethod:
    """What our search and studies ask of a method: Config, SEARCH and unlearn.

    name: as the peer calls it. defaults: the settings it publishes. SEARCH: what our rule may
    choose of them; empty where the peer fixes them in its code. towers: on which models it runs.
    patched: what had to be done for it to run at all.
    """

    name: str
    call: Call
    defaults: Mapping[str, Any] = field(default_factory=dict)
    SEARCH: SearchSpace = field(default_factory=dict)
    towers: tuple[str, ...] = ("both", "image")
    patched: str = ""

    @property
    def Config(self) -> type:  # noqa: N802 (as in a method's module)
        """The settings, checked by type."""
        kinds = {name: type(value) for name, value in self.defaults.items()}
        return config(type("Config", (), {"__annotations__": kinds, **self.defaults}))

    def unlearn(
        self,
        model: ImageTextModel,
        data: UnlearningData,
        settings: Any,
        *,
        seed: int,
        accelerator: Accelerator,
        progress: bool = False,
    ) -> tuple[ImageTextModel, UnlearningLog]:
        """F_ul from F_og by the peer's code."""
        log, counter = UnlearningLog(), WorkCounter()
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        classifier = Classifier(copy.deepcopy(model).to(accelerator.device), counter)
        values = {name: getattr(settings, name) for name in self.defaults}
        found = self.call(classifier, data, values, model.text_tower is None, seed)
        for p in found.model.parameters():
            p.requires_grad_(True)
        broken = [name for name, t in found.model.state_dict().items() if not t.isfinite().all()]
        if broken:
            raise FloatingPointError(f"{self.name}: {broken[0]} is not finite")
        log.work = counter.work
        return found.model.eval(), log.finish("the peer's code returned")
