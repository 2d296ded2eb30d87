import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forget_mi.data.perturbation import (
    CLINICAL_KEYWORDS,
    MASK,
    character_noise,
    mask_keywords,
    noisy_images,
    noisy_report,
    noisy_reports,
    word_noise,
)

REPORT = (
    "There is mild pulmonary edema. The cardiac silhouette is enlarged. No pneumothorax in the "
    "chest."
)


def test_image_noise_has_the_asked_mean_and_spread_and_stays_in_range():
    images = torch.full((4, 1, 64, 64), 0.5)
    noisy = noisy_images(images, mu=0.05, sigma=0.1, generator=torch.Generator().manual_seed(0))
    assert noisy.mean().item() == pytest.approx(0.55, abs=0.005)
    assert noisy.std().item() == pytest.approx(0.1, abs=0.005)
    strong = noisy_images(images, mu=0, sigma=5, generator=torch.Generator().manual_seed(0))
    assert 0 <= strong.min() <= strong.max() <= 1


def test_same_seed_same_noise():
    images = torch.rand(2, 1, 8, 8)
    a, b = (noisy_images(images, 0, 0.3, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert noisy_reports([REPORT] * 5, 0.5, seed=1) == noisy_reports([REPORT] * 5, 0.5, seed=1)
    assert noisy_reports([REPORT] * 5, 0.5, seed=1) != noisy_reports([REPORT] * 5, 0.5, seed=2)


def test_level_zero_gives_the_report_back():
    assert noisy_report(REPORT, 0, np.random.default_rng(0)) == REPORT


def test_at_most_two_keywords_are_masked_and_only_keywords():
    for seed in range(20):
        masked = mask_keywords(REPORT.split(), np.random.default_rng(seed))
        changed = [old for old, new in zip(REPORT.split(), masked, strict=True) if old != new]
        assert len(changed) == 2
        assert {word.strip(".").lower() for word in changed} <= set(CLINICAL_KEYWORDS)
        assert masked.count(MASK) == 2
    assert mask_keywords(["all", "clear"], np.random.default_rng(0)) == ["all", "clear"]


@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20),
    st.floats(0.01, 1),
    st.integers(0, 1000),
)
def test_noise_never_fails_and_never_leaves_an_empty_report(words, level, seed):
    assert (
        noisy_report(" ".join(words), level, np.random.default_rng(seed)).strip()
        or not " ".join(words).split()
    )


def test_the_level_is_the_share_of_changed_words():
    words = [f"word{i}" for i in range(2000)]
    changed = np.flatnonzero(np.random.default_rng(1).random(2000) < 0.3)
    noisy = character_noise(words, changed, np.random.default_rng(1))
    assert np.mean([old == new for old, new in zip(words, noisy, strict=True)]) == pytest.approx(
        0.7, abs=0.03
    )
    assert (
        len(set(words) & set(noisy_report(" ".join(words), 0.9, np.random.default_rng(0)).split()))
        < 1500
    )


def test_character_noise_changes_one_character():
    words = ["consolidation"] * 200
    for old, new in zip(
        words, character_noise(words, range(200), np.random.default_rng(0)), strict=True
    ):
        assert abs(len(new) - len(old)) <= 1


def test_word_noise_keeps_unchanged_words_and_uses_synonyms():
    assert word_noise(["a", "b"], [], np.random.default_rng(0)) == ["a", "b"]
    found = {word_noise(["mild"], [0], np.random.default_rng(seed))[0] for seed in range(40) if
             word_noise(["mild"], [0], np.random.default_rng(seed))}  # fmt: skip
    assert found >= {"slight", "minimal", "mild mild"}
