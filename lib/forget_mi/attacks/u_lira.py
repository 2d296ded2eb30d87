"""U-LiRA (Hayes et al., 2024, arXiv 2403.01218): the shadow models are unlearned too, so the
attacker knows what the method leaves behind."""

from __future__ import annotations

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.attacks.lira import likelihood_ratio
from forget_mi.training import Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = log N(m; mu_ul(x), sigma_ul) - log N(m; mu_out(x), sigma_out): as LiRA, with
    shadow models that knew x and were made to forget it in place of those that know it (their
    section 4).

    It catches what a method leaves behind in either direction, over-forgetting as well. Assumes
    that the attacker knows the method and its settings. Costs some runs of the method on every
    shadow model, once a method and request.
    """
    return Scores(
        likelihood_ratio(evidence.forget, evidence.unlearned["forget"], tower),
        likelihood_ratio(evidence.test, evidence.unlearned["test"], tower),
    )
