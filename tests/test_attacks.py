import numpy as np
import pytest
from sklearn.svm import SVC

from forget_mi.attacks import ATTACKS, Evidence
from forget_mi.metrics import TOWERS, Predictions


def with_losses(losses) -> Predictions:
    """Predictions of two classes whose cross-entropy, in both towers, is as given; the label is 0."""
    p = np.exp(-np.asarray(losses, float))
    logits = np.stack([np.log(p), np.log1p(-p)], 1).astype(np.float32)
    n = len(p)
    return Predictions(logits, logits, logits, logits, np.zeros(n, int), np.arange(n))


def scores(evidence, tower="fused") -> dict[str, float]:
    return {m.name: m.value() for attack in ATTACKS.values() for m in attack(evidence, tower)}


@pytest.fixture
def draws():
    rng = np.random.default_rng(0)
    return {"member": lambda n: rng.gamma(1, 0.02, n) + 1e-4, "stranger": lambda n: rng.gamma(4, 0.4, n) + 1e-4}


@pytest.mark.parametrize("tower", TOWERS)
def test_a_model_that_certainly_saw_the_patients_is_caught(draws, tower):
    evidence = Evidence(
        *(with_losses(draws[kind](n)) for kind, n in (("member", 60), ("member", 300), ("stranger", 120)))
    )
    found = scores(evidence, tower)
    assert found["mia_svc"] > 0.95
    assert found["mia_svc_balanced"] > 0.95
    assert found["attack_auc"] > 0.98
    assert found["attack_tpr_1"] > 0.8


@pytest.mark.parametrize("tower", TOWERS)
def test_a_model_that_never_saw_them_is_not(draws, tower):
    evidence = Evidence(
        *(with_losses(draws[kind](n)) for kind, n in (("stranger", 2000), ("member", 3000), ("stranger", 2000)))
    )
    found = scores(evidence, tower)
    assert found["mia_svc"] < 0.1
    assert found["attack_auc"] == pytest.approx(0.5, abs=0.03)
    assert found["attack_tpr_1"] == pytest.approx(0.01, abs=0.01)
    assert found["attack_tpr_5"] == pytest.approx(0.05, abs=0.02)


def test_svc_is_the_papers(draws):
    forget, retain, test = (with_losses(draws[kind](n)) for kind, n in
                            (("stranger", 50), ("member", 90), ("stranger", 40)))  # fmt: skip
    x = np.concatenate([retain.cross_entropy("image"), test.cross_entropy("image")]).reshape(-1, 1)
    classifier = SVC(C=3, gamma="auto", kernel="rbf").fit(x, [1] * 90 + [0] * 40)
    expected = classifier.predict(forget.cross_entropy("image").reshape(-1, 1)).mean()
    assert scores(Evidence(forget, retain, test), "image")["mia_svc"] == expected
