"""The peers' adapters: what they are given, and that their code and ours take the same step where
they mean the same."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from forget_mi.data import Examples
from forget_mi.models import ModelConfig, build_model
from forget_mi.training import make_accelerator, predict
from forget_mi.unlearning import UnlearningData

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"


@pytest.fixture(autouse=True)
def _peers_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    yield
    for name in ("method", "environment", "study", "run"):
        sys.modules.pop(name, None)


def examples(n: int = 6) -> Examples:
    generator = torch.Generator().manual_seed(n)
    return Examples.from_tensors(
        torch.randint(256, (n, 1, 32, 32), generator=generator).to(torch.uint8),
        torch.arange(n) % 3,
        input_ids=torch.randint(100, (n, 9), generator=generator),
        attention_mask=torch.ones(n, 9),
    )


def model(towers: str):
    settings = ModelConfig(towers=towers, image_channels=(4, 8), text_width=8, text_heads=2)
    return build_model(settings, 3, 100, 0).eval()


@pytest.mark.parametrize("towers", ["both", "image"])
def test_a_peer_sees_the_fused_prediction_record_by_record(towers):
    from method import Classifier, Records, WorkCounter
    from torch.utils.data import DataLoader

    whole, counter = model(towers), WorkCounter()
    classifier = Classifier(whole, counter)
    records = Records(examples(), image_only=towers == "image")
    with torch.no_grad():
        logits = torch.cat([classifier(x) for x, _ in DataLoader(records, 4)])
    seen = predict(whole, examples(), make_accelerator())
    np.testing.assert_allclose(logits.softmax(-1), seen.probabilities("fused"), atol=1e-6)
    assert counter.work == pytest.approx(6 / 3)  # forward only: a third each


def test_work_of_copies_counts_and_a_frozen_teacher_costs_a_third():
    from method import Classifier, WorkCounter

    counter = WorkCounter()
    student = Classifier(model("image"), counter)
    teacher = copy.deepcopy(student).requires_grad_(False)
    x = torch.zeros(3, 1, 32, 32)
    student(x)
    teacher(x)
    assert counter.work == pytest.approx(3 + 1)


def test_a_peer_whose_weights_blow_up_is_named():
    from method import PeerMethod

    def blow_up(classifier, *_):
        next(classifier.parameters()).data.fill_(float("nan"))
        return classifier

    data = UnlearningData(examples(4), examples(6), examples(5))
    peer = PeerMethod("broken", blow_up)
    with pytest.raises(FloatingPointError, match=r"broken: image_tower.* is not finite"):
        peer.unlearn(model("image"), data, peer.Config(), seed=0, accelerator=make_accelerator())


def test_a_package_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    import environment

    monkeypatch.setattr(environment, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="nobody: can't be installed"):
        environment.python_of("nobody", ("forget-mi-no-such-package==9.9.9",))


def test_same_weights_after_a_step():
    import environment
    import supreme_peer

    pins = (f"{supreme_peer.PACKAGE}=={supreme_peer.VERSION}", *supreme_peer.NEEDS)
    try:
        python = environment.python_of("supreme", pins, supreme_peer.WHOLE)
    except SystemExit as error:
        pytest.skip(f"no package index here: {error}")
    done = subprocess.run(
        [python, PEERS / "same_step.py"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    shares = {name: f["apart"] / f["moved"] for name, f in found.items()}
    assert found["ssd"]["share_apart"] < 2e-3  # a weight on the threshold, if any
    assert shares["scrub"] < 1e-3
    # Their divergence is also divided by the number of classes, which Adam's epsilon sees.
    assert shares["bad_teacher"] < 0.1
