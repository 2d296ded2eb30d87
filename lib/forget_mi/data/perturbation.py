"""Image and report noise: the corrupted copies I~ and T~ that Forget-MI pulls forgotten records
towards."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

CLINICAL_KEYWORDS = (
    "atelectasis",
    "lung",
    "edema",
    "cardiomegaly",
    "silhouette",
    "pneumothorax",
    "markings",
    "disease",
    "chest",
)


MASKED_KEYWORDS = 2


MASK = "[MASK]"


# Words that radiology reports use for one another. Synonyms keep the report plausible while its
# wording changes.
SYNONYM_SETS = (
    ("mild", "slight", "minimal"),
    ("moderate", "considerable"),
    ("severe", "marked", "extensive"),
    ("increased", "greater", "more prominent"),
    ("unchanged", "stable", "similar"),
    ("enlarged", "increased in size", "prominent"),
    ("opacities", "densities", "opacification"),
    ("no", "without"),
    ("seen", "noted", "identified"),
    ("consistent", "compatible"),
    ("likely", "probably"),
    ("bilateral", "both-sided"),
    ("effusion", "fluid"),
    ("normal", "unremarkable"),
    ("congestion", "engorgement"),
    ("clear", "free of opacity"),
    ("evidence", "sign"),
)


_SYNONYMS = {word: [w for w in words if w != word] for words in SYNONYM_SETS for word in words}


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def noisy_images(images: Tensor, mu: float, sigma: float, generator: torch.Generator) -> Tensor:
    """I~ = clip(I + N(mu, sigma), 0, 1), pixel by pixel, on images in [0, 1] of any shape (paper:
    sigma .1).

    The generator, a CPU one, decides the noise, so that it is the same on every device.
    """
    noise = torch.randn(images.shape, generator=generator).to(images)
    return (images + mu + sigma * noise).clamp(0, 1)


def noisy_report(report: str, level: float, rng: np.random.Generator) -> str:
    """T~: up to two clinical keywords masked, then word noise or character noise (a fair coin) on a
    share of the words.

    level: expected share of the words that are changed, in [0, 1] (paper: .5); 0 gives the report
    back. Word noise: a synonym, a deletion, a repetition, or a swap with another word. Character
    noise: an insertion, a deletion, a substitution or a swap of neighbours, one a changed word.
    """
    if level == 0:
        return report
    words = mask_keywords(report.split(), rng)
    changed = np.flatnonzero(rng.random(len(words)) < level)
    noise = word_noise if rng.random() < 0.5 else character_noise
    noisy = noise(words, changed, rng)
    return " ".join(noisy) if noisy else MASK


def noisy_reports(reports: Sequence[str], level: float, seed: int) -> list[str]:
    """`noisy_report` for each of several reports, from one seed."""
    rng = np.random.default_rng([seed, 11])
    return [noisy_report(report, level, rng) for report in reports]


def mask_keywords(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Replace up to two of the clinical keywords that occur, chosen at random, by the mask
    token."""
    words = list(words)
    present = [
        i for i, word in enumerate(words) if re.sub(r"\W", "", word).lower() in CLINICAL_KEYWORDS
    ]
    for i in rng.permutation(present)[:MASKED_KEYWORDS]:
        words[int(i)] = MASK
    return words


def word_noise(words: Sequence[str], changed: Sequence[int], rng: np.random.Generator) -> list[str]:
    """Words with each of the `changed` positions replaced by a synonym (where it has one), deleted,
    repeated or swapped with another."""
    out: list[str] = list(words)
    for i in changed:
        synonyms = _SYNONYMS.get(re.sub(r"\W", "", out[i]).lower())
        kind = rng.choice(
            ["synonym", "delete", "repeat", "swap"] if synonyms else ["delete", "repeat", "swap"]
        )
        if kind == "synonym":
            out[i] = str(rng.choice(synonyms))
        elif kind == "delete":
            out[i] = ""
        elif kind == "repeat":
            out[i] = f"{out[i]} {out[i]}"
        else:
            j = int(rng.integers(len(out)))
            out[i], out[j] = out[j], out[i]
    return [word for word in out if word]


def character_noise(
    words: Sequence[str], changed: Sequence[int], rng: np.random.Generator
) -> list[str]:
    """Words with one character of each `changed` one inserted, deleted, substituted or swapped with
    the next."""
    out = list(words)
    for i in changed:
        word, letter = out[i], _LETTERS[rng.integers(len(_LETTERS))]
        at = int(rng.integers(len(word)))
        kind = rng.choice(["insert", "delete", "substitute", "swap"])
        if kind == "insert":
            out[i] = word[:at] + letter + word[at:]
        elif kind == "delete":
            out[i] = word[:at] + word[at + 1 :]
        elif kind == "substitute":
            out[i] = word[:at] + letter + word[at + 1 :]
        else:
            out[i] = word[:at] + word[at : at + 2][::-1] + word[at + 2 :]
    return [word for word in out if word]
