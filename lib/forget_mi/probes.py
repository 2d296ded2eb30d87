"""Deeper probes than a membership attack: how fast a model learns the forgotten patients again, how its embeddings
differ from a retrained model's, and what unlearning did to everybody else."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from forget_mi.attacks import Scores
from forget_mi.attacks.linear_probe import embedding
from forget_mi.audit import ModelAudit
from forget_mi.batches import Examples, make_loader, on_device
from forget_mi.cohorts.base import Cohort
from forget_mi.devices import placed
from forget_mi.metrics import Predictions, Tower, macro_f1, mean_auc, predict
from forget_mi.models import ImageTextModel
from forget_mi.roc import FEWEST, Roc
from forget_mi.training import default_loss, make_optimizer
from forget_mi.unlearning.steps import hold_still

RELEARNING_RATE = 1e-4
PASSES = 4


# ---- relearning ---------------------------------------------------------------------------------------------------


def relearning_curve(
    model: ImageTextModel, examples: Examples, *, passes: int, seed: int, accelerator: Accelerator
) -> np.ndarray:
    """Mean cross-entropy (fused, evaluation mode) on some records after 0, 1, ... passes of training on them (passes +
    1 numbers, in nats): the training loss, AdamW at RELEARNING_RATE, batches of 32, batch norm as it is. The model is
    left alone."""
    pupil = placed(copy.deepcopy(model), accelerator).requires_grad_(True)
    optimizer = make_optimizer(pupil, RELEARNING_RATE, 0.0)
    torch.manual_seed(seed)

    def loss() -> float:
        return float(predict(pupil, examples, accelerator).cross_entropy("fused").mean())

    curve = [loss()]
    for done in range(passes):
        pupil.train()
        hold_still(pupil, all_batch_norm=True)
        for batch in on_device(make_loader(examples, 32, seed=1000 * seed + done), accelerator):
            with accelerator.autocast():
                value = default_loss(pupil, batch)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
        curve.append(loss())
    return np.array(curve)


def passes_to(curve: np.ndarray, level: float) -> float:
    """After how many passes a curve falls to a level, between two by the straight line; one more than there are passes
    where it does not get there."""
    below = np.flatnonzero(curve <= level)
    if len(below) == 0:
        return float(len(curve))
    at = int(below[0])
    return 0.0 if at == 0 else float(at - 1 + (curve[at - 1] - level) / (curve[at - 1] - curve[at]))


def stranger_samples(strangers: Examples, like: Examples, samples: int, seed: int) -> list[Examples]:
    """Sets of records of whole patients drawn from strangers, each of about as many records as `like`."""
    patients = strangers.patients.numpy()
    found = []
    for number in range(samples):
        order = np.random.default_rng([seed, number, 59]).permutation(np.unique(patients))
        sizes = np.array([(patients == p).sum() for p in order])
        taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes), len(like) + 0.5)))]
        found.append(strangers.select(np.flatnonzero(np.isin(patients, taken))))
    return found


def relearning(
    model: ImageTextModel,
    forget: Examples,
    strangers: Examples,
    level: float,
    *,
    passes: int = PASSES,
    samples: int = 6,
    seed: int,
    accelerator: Accelerator,
) -> tuple[dict[str, float], pd.DataFrame]:
    """How fast a model learns D_f, beside as many records of strangers.

    Returns (result, curves). result: forget, the passes until the cross-entropy on D_f is at `level`; strangers, the
    mean of the same over samples of D_t; low, high, where one more sample of strangers would lie with 95 % (Student's t
    prediction interval, wide since samples overlap little and are few). Below it the model still knows the forgotten
    patients. curves: set, pass, loss.
    """
    sets = {"D_f": forget}
    sets |= {f"D_t {k + 1}": each for k, each in enumerate(stranger_samples(strangers, forget, samples, seed))}
    curves = {
        name: relearning_curve(model, each, passes=passes, seed=seed, accelerator=accelerator)
        for name, each in sets.items()
    }
    needed = {name: passes_to(curve, level) for name, curve in curves.items()}
    mine, others = needed.pop("D_f"), np.array(list(needed.values()))
    half = stats.t.ppf(0.975, len(others) - 1) * others.std(ddof=1) * np.sqrt(1 + 1 / len(others))
    result = {"forget": mine, "strangers": others.mean(), "low": others.mean() - half, "high": others.mean() + half}
    lines = [{"set": n, "pass": at, "loss": loss} for n, curve in curves.items() for at, loss in enumerate(curve)]
    return result, pd.DataFrame(lines)


# ---- representations ------------------------------------------------------------------------------------------------


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of two models' embeddings (n, p) and (n, q) of the same records, 0 to 1:
    ||Y'X||^2 / (||X'X|| ||Y'Y||), columns centred (Kornblith et al., 2019, arXiv 1905.00414, equation 5)."""
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else float("nan")


def representation_table(audits: Mapping[str, ModelAudit], references: Sequence[str]) -> pd.DataFrame:
    """A row a model, reference, tower and set (forget, test): linear CKA of their embeddings."""
    rows = []
    for name, audit in audits.items():
        for other in [r for r in references if r != name]:
            for tower in audit.predictions["forget"].towers:
                for side in ("forget", "test"):
                    pair = [embedding(a.predictions[side], tower) for a in (audit, audits[other])]
                    about = {"model": name, "reference": other, "tower": tower, "set": side}
                    rows.append(about | {"cka": linear_cka(*pair)})
    return pd.DataFrame(rows)


# ---- everybody else -------------------------------------------------------------------------------------------------


def nearest(forgotten: np.ndarray, others: np.ndarray, neighbours: int) -> np.ndarray:
    """Positions, sorted and each once, of the records among `others` (m, width) that are one of the nearest
    `neighbours` of a forgotten record (n, width), by Euclidean distance."""
    search = NearestNeighbors(n_neighbors=min(neighbours, len(others))).fit(others)
    return np.unique(search.kneighbors(forgotten, return_distance=False))


def collateral(audits: Mapping[str, ModelAudit], neighbours: int) -> pd.DataFrame:
    """What became of those who look like the forgotten patients: a row a model and set (retain, test). near, far: mean
    cross-entropy (fused) of the records that are one of the nearest `neighbours` of a forgotten record in F_og's joint
    embedding, and of all others; near_f1, far_f1: macro-F1."""
    original, rows = audits["original"], []
    for side in ("retain", "test"):
        close = nearest(original.place_of("forget"), original.place_of(side), neighbours)
        mask = np.isin(np.arange(len(original.rows[side])), close)
        for name, audit in audits.items():
            row = {"model": name, "set": side, "records_near": int(mask.sum())}
            for which, part in (("near", mask), ("far", ~mask)):
                seen = audit.predictions[side].select(part)
                row[which] = float(seen.cross_entropy("fused").mean()) if len(seen) else float("nan")
                row[f"{which}_f1"] = _f1(seen, "fused")
            rows.append(row)
    return pd.DataFrame(rows).sort_values(["set", "model"], kind="stable", ignore_index=True)


def groupings(cohort: Cohort) -> dict[str, pd.Series]:
    """Each row's group in every way that the cohort offers: class, and sex, view and age (in three bands) where the
    table has them. Rows without a value have None."""
    table = cohort.table
    found = {"class": table.label.map(dict(enumerate(cohort.classes)))}
    found |= {name: table[name].where(table[name].notna()) for name in ("sex", "view") if name in table}
    if "age" in table:
        age = pd.to_numeric(table.age, errors="coerce")
        found["age"] = pd.cut(age, [-np.inf, 50, 70, np.inf], labels=["under 50", "50-69", "70 and over"], right=False)
    return {name: values.astype(object).where(values.notna(), None) for name, values in found.items()}


def by_group(audits: Mapping[str, ModelAudit], scores: Mapping[str, Scores], cohort: Cohort) -> pd.DataFrame:
    """A row a model and group: grouping, group, patients_forget, patients_test, attack_auc (D_f against D_t of the
    group, by `scores`), test_auc, test_f1.

    A number that would rest on fewer than FEWEST patients is NaN; whoever reads the table sees how many there are.
    """
    rows = []
    for grouping, values in groupings(cohort).items():
        for group in sorted({v for v in values if v is not None}, key=str):
            for name, audit in audits.items():
                mask = {side: (values.iloc[audit.rows[side]] == group).to_numpy() for side in ("forget", "test")}
                who = {side: len(np.unique(audit.predictions[side].patients[mask[side]])) for side in mask}
                row = {"model": name, "grouping": grouping, "group": group}
                row |= {f"patients_{side}": count for side, count in who.items()}
                forget, test = (scores[name][i][mask[side]] for i, side in enumerate(("forget", "test")))
                enough = min(who.values()) >= FEWEST
                row["attack_auc"] = float(Roc(forget, test).auc()) if enough else float("nan")
                seen = audit.predictions["test"].select(mask["test"])
                known = who["test"] >= FEWEST
                row["test_auc"] = mean_auc(seen.labels, seen.probabilities("fused")) if known else float("nan")
                row["test_f1"] = _f1(seen, "fused") if known else float("nan")
                rows.append(row)
    return pd.DataFrame(rows)


def _f1(seen: Predictions, tower: Tower) -> float:
    return macro_f1(seen.labels, seen.probabilities(tower)) if len(seen) else float("nan")
