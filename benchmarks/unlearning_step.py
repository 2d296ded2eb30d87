"""(a) and (g): Forget-MI's loop against the loop one would write first, on the small model and at
the paper's size.

The naive loop goes about it as the released code does, without its mistakes: each batch is
perturbed and taken through the original model anew, forget and retain records go through the model
apart, reports are padded to the longest that the tokenizer allows, BERT computes all positions of
its last layer, and distances are computed record by record, each brought to the host.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from measure import Row, in_processes, ratios, spread
from transformers.models.bert.modeling_bert import BertLayer

from forget_mi.data.batches import Batch
from forget_mi.data.cohort import rows_of
from forget_mi.data.cohorts import synthetic
from forget_mi.data.perturbation import noisy_images, noisy_report
from forget_mi.data.requests import draw_request
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.models.build import build_model
from forget_mi.models.config import NAMED, ModelConfig
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.joint_embedding import joint_embedding_of
from forget_mi.models.outputs import Embeddings
from forget_mi.models.tokenizers import build_tokenizer
from forget_mi.runs.params import approach_overrides
from forget_mi.runs.profiles import load_profile
from forget_mi.training.devices import make_accelerator
from forget_mi.unlearning import forget_mi
from forget_mi.unlearning.base import UnlearningData
from forget_mi.unlearning.samplers import forget_batches


def naive(
    model: ImageTextModel,
    data: UnlearningData,
    settings: forget_mi.Config,
    seed: int,
    device: str = "cpu",
) -> float:
    """As many steps on as many records as `forget_mi.unlearn` takes; the last loss."""
    original, unlearned = (whole(model).eval().to(device) for _ in range(2))
    joint = joint_embedding_of(model).to(device)
    optimizer = torch.optim.AdamW(
        unlearned.parameters(), settings.learning_rate, (0.9, settings.beta2)
    )
    weights = forget_mi.SETTINGS[settings.setting]
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(settings.epochs):
        for forget, retain in batches(data, settings, rng):
            noisy = perturbed(forget, data, settings, rng, generator)
            z_forget, z_retain = embeddings(unlearned, forget), embeddings(unlearned, retain)
            with torch.no_grad():
                t_forget, t_retain = embeddings(original, noisy), embeddings(original, retain)
            loss = 0.0
            for z, target, (unimodal, multimodal) in (
                (z_forget, t_forget, (weights.uu, weights.mu)),
                (z_retain, t_retain, (weights.ur, weights.mr)),
            ):
                for i in range(len(z[0])):
                    mine, other = (
                        Embeddings(*(tower[i : i + 1] for tower in both)) for both in (z, target)
                    )
                    d = (torch.cat(mine, -1) - torch.cat(other, -1)).norm()
                    j = (joint(mine) - joint(other)).norm()
                    loss = loss + (unimodal * d + multimodal * j) / len(z[0])
                    total += d.item() + j.item()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unlearned.parameters(), settings.clip)
            optimizer.step()
    return total


def whole(model: ImageTextModel) -> ImageTextModel:
    """A copy of the model whose text tower computes what the library's BERT does: all positions of
    the last layer."""
    model = copy.deepcopy(model)
    model.text_tower.encoder.encoder.layer[-1].__class__ = BertLayer
    return model


def batches(
    data: UnlearningData, settings: forget_mi.Config, rng: np.random.Generator
) -> Iterator[tuple[Batch, Batch]]:
    """Forget and retain batches of one pass, reports padded to max_tokens."""
    for forget in forget_batches(rng, len(data.forget), settings):
        retain = rng.choice(len(data.retain), settings.retain_batch, replace=False)
        yield padded(data.forget, forget, data), padded(data.retain, retain, data)


def padded(examples, index: np.ndarray, data: UnlearningData) -> Batch:
    """A batch whose reports are as long as the tokenizer allows."""
    batch = examples.__getitems__(index)
    short = data.max_tokens - batch["input_ids"].shape[1]
    return batch | {
        name: torch.nn.functional.pad(batch[name], (0, short))
        for name in ("input_ids", "attention_mask")
    }


def perturbed(batch: Batch, data: UnlearningData, settings, rng, generator) -> Batch:
    """The forget batch with noise drawn for this step."""
    reports = [
        noisy_report(data.forget_reports[int(i)], settings.text_noise, rng) for i in batch["index"]
    ]
    text = data.tokenizer(
        reports,
        truncation=True,
        max_length=data.max_tokens,
        padding="max_length",
        return_tensors="pt",
    )
    images = noisy_images(batch["images"], settings.mu, settings.sigma, generator)
    return batch | {
        "images": images,
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
    }


def embeddings(model, batch: Batch) -> Embeddings:
    """z of a batch, which goes where the model is."""
    device = next(model.parameters()).device
    inputs = (batch[name].to(device) for name in ("images", "input_ids", "attention_mask"))
    return model(*inputs).embeddings


def setting(model: ModelConfig, image_size: int, patients: int, fraction: float):
    """A model with random weights (the cost is the same) and a request to it."""
    cohort = synthetic.load(synthetic.SyntheticConfig(patients=patients, image_size=image_size))
    cohort = split_by_patient(cohort, SplitConfig())
    request = draw_request(cohort, fraction, seed=0)
    tokenizer = build_tokenizer(model, [cohort.report_of(row) for row in rows_of(cohort, "train")])
    built = build_model(model, len(cohort.classes), len(tokenizer), seed=0).eval()
    return built, UnlearningData.from_cohort(cohort, request, tokenizer, model.max_tokens)


def small() -> list[Row]:
    """The demo's model, request and settings; three processes, three rounds each."""
    return [Row("a", "forget_mi step, small model", *in_processes(small_rounds, processes=3))]


def small_rounds() -> list[float]:
    """Of one process."""
    model, data = setting(NAMED["small"], image_size=64, patients=400, fraction=0.1)
    settings = load_profile("demo", approach_overrides("forget_mi-multimodal", "demo")).unlearning
    return against_naive(model, data, replace(settings, stop="never"), rounds=3)


def paper() -> list[Row]:
    """114 M parameters, 512 px, a text tower of SciBERT's shape: eight forget records, two
    passes."""
    values = {**NAMED["paper"].__dict__, "text_pretrained": None}
    model, data = setting(ModelConfig(**values), image_size=512, patients=24, fraction=0.1)
    settings = forget_mi.Config(epochs=2, batch_size=4, retain_batch=4, stop="never")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    case = f"forget_mi step, paper's size ({parameters:.0f} M parameters, 512 px)"
    return [Row("g", case, *spread(against_naive(model, data, settings, rounds=3)))]


def against_naive(
    model, data: UnlearningData, settings: forget_mi.Config, rounds: int
) -> list[float]:
    """The naive loop's time over ours, whole calls, targets and all, a number a round."""
    accelerator = make_accelerator()
    device = accelerator.device

    def ours() -> None:
        forget_mi.unlearn(model, data, settings, seed=0, accelerator=accelerator, progress=False)
        wait(device)

    def plain() -> None:
        with accelerator.autocast():
            naive(model, data, settings, 0, str(device))
        wait(device)

    return ratios(plain, ours, rounds)


def wait(device: torch.device) -> None:
    """For a card to end what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
