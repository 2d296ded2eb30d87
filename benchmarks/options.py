"""(a), each of the ways to make a step or what goes around it cheaper, before and after: the
outputs of F_og kept for the run, reports cut to the longest of a batch, the fused optimiser, no
loss read in the loop, [CLS] alone in BERT's last layer, channels innermost, torch.compile, all
measures from one pass, and models trained side by side."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from measure import Row, alternately
from training_epoch import ours
from unlearning_step import padded, setting, whole

from forget_mi.evaluation.audit import measure_all
from forget_mi.evaluation.config import AuditConfig
from forget_mi.evaluation.measures import measures_of
from forget_mi.losses import training_loss
from forget_mi.models.config import NAMED
from forget_mi.runs.parallel import run_parallel
from forget_mi.training.config import DeviceConfig
from forget_mi.training.devices import make_accelerator, to_device
from forget_mi.training.loop import make_optimizer
from forget_mi.training.prediction import predict
from forget_mi.unlearning import forget_mi
from forget_mi.unlearning.teacher_outputs import NOT_COMPUTED, TeacherOutputs

STEPS = 12


def rows() -> list[Row]:
    """On the demo's model and request."""
    model, data = setting(NAMED["small"], image_size=64, patients=400, fraction=0.1)
    return [*teacher(model, data), *stepped(model, data), *around(model, data)]


def teacher(model, data) -> list[Row]:
    """The outputs of F_og, which each pass could ask for again."""
    once = partial(forget, data, model)
    again = with_changed(once, TeacherOutputs, "compute", without_memory(TeacherOutputs.compute))
    return [Row("a", "forget_mi, F_og asked in each pass over once", *alternately(again, once, 5))]


def stepped(model, data) -> list[Row]:
    """Training steps on the same records."""
    plain = stepping(model, data)
    found = [
        Row("a", f"training step, {name}", *alternately(slower, plain, 9))
        for name, slower in (
            (
                "reports as long as the tokenizer allows over the batch's longest",
                stepping(model, data, padding=True),
            ),
            ("AdamW tensor by tensor over fused", stepping(model, data, fused=False)),
            ("loss read at each step over never", stepping(model, data, reads=True)),
            ("all positions of BERT's last layer over [CLS] alone", stepping(whole(model), data)),
            (
                "channels outermost over innermost",
                stepping(model, data, DeviceConfig(channels_last="off")),
            ),
        )
    ]
    faster = stepping(model, data, DeviceConfig(compile="inductor"))
    return [
        *found,
        Row("a", "training step, plain over torch.compile", *alternately(plain, faster, 9)),
    ]


def around(model, data) -> list[Row]:
    """Evaluation, and several models."""
    accelerator = make_accelerator()
    sets = {
        "forget": data.forget,
        "retain": data.retain,
        "validation": data.validation,
        "test": data.validation,
    }
    settings = AuditConfig()

    def once() -> None:
        measure_all(
            {side: predict(model, examples, accelerator) for side, examples in sets.items()},
            settings,
        )

    def for_each() -> None:
        predictions = {
            side: predict(model, examples, accelerator) for side, examples in sets.items()
        }
        for measure in measures_of(predictions, "fused")[1:]:
            for side in measure.sets:
                predict(model, sets[side], accelerator)
        measure_all(predictions, settings)

    threads = os.cpu_count()

    def two(threads: int) -> None:
        run_parallel(
            partial(seeded, model, data, threads),
            [0, 1],
            DeviceConfig(threads=threads),
            progress=False,
        )

    one_by_one, beside = partial(two, threads), partial(two, 1)

    return [
        Row(
            "a",
            "measures of a model, a pass for each over one for all",
            *alternately(for_each, once, 5),
        ),
        Row(
            "a",
            "two trainings, one after another on all cores over side by side",
            *alternately(one_by_one, beside, 3),
        ),
    ]


def with_changed(work: Callable[[], None], owner, name: str, value) -> Callable[[], None]:
    """The work while an attribute of a class or module is another."""

    def changed() -> None:
        with patch.object(owner, name, value):
            work()

    return changed


def without_memory(compute: Callable) -> Callable:
    """`TeacherOutputs.compute` that computes everything again at each call."""

    def compute_again(self, index=None) -> None:
        self._position[:] = NOT_COMPUTED
        self._values = None
        compute(self, index)

    return compute_again


def forget(data, model) -> None:
    """Four passes of Forget-MI."""
    settings = forget_mi.Config(epochs=4, stop="never")
    forget_mi.unlearn(model, data, settings, seed=0, accelerator=make_accelerator(), progress=False)


def seeded(model, data, threads: int, seed: int) -> None:
    """A training of a seed, on so many threads."""
    ours(model, data.retain, data.validation, threads, seed)


def stepping(
    model,
    data,
    settings: DeviceConfig | None = None,
    padding: bool = False,
    fused: bool = True,
    reads: bool = False,
) -> Callable[[], None]:
    """STEPS training steps on the same batches each time, after the model has been prepared (and
    compiled) once."""
    accelerator = make_accelerator(settings)
    mine = to_device(copy.deepcopy(model), accelerator).train()
    optimizer = make_optimizer(mine, 1e-4, 0.0)
    if not fused:
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=False)
    wrapped, optimizer = accelerator.prepare(mine, optimizer)
    indices = torch.arange(32 * STEPS).split(32)
    batches = [
        padded(data.retain, i, data) if padding else data.retain.__getitems__(i) for i in indices
    ]

    def steps() -> None:
        for batch in batches:
            output = wrapped(batch["images"], batch["input_ids"], batch["attention_mask"])
            loss = training_loss(output, batch["labels"], batch["studies"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if reads:
                loss.item()

    return steps
