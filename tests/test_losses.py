import itertools

import pytest
import torch
import torch.nn.functional as F

from forget_mi.losses import (
    MISSING,
    classification_loss,
    multimodal_distance,
    ranking_loss,
    training_loss,
    unimodal_distance,
)
from forget_mi.models.joint_embedding import JointEmbedding
from forget_mi.models.outputs import Embeddings, ModelOutput
from forget_mi.unlearning.forget_mi import SETTINGS, four_losses, weighted_sum


def ranking_loss_by_loop(z, labels, studies):
    """The definition, pair by pair."""
    total, n = 0.0, len(labels)
    for i in range(n):
        j = (i + 1) % n
        if studies[i] == studies[j]:
            margin = 0.0
        elif MISSING in (labels[i], labels[j]):
            margin = 0.5
        else:
            margin = max(0.5, abs(int(labels[i]) - int(labels[j])))
        pair = float(z.image[i] @ z.text[i])
        total += max(0.0, float(z.image[j] @ z.text[i]) - pair + margin)
        total += max(0.0, float(z.image[i] @ z.text[j]) - pair + margin)
    return total / n


def test_ranking_loss_by_hand():
    # Two pairs in one dimension: sim(i, i) = 1 and 0; impostors 2 * 1 = 2 and 1 * 0 = 0; margin |3
    # - 0|.
    z = Embeddings(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [0.0]]))
    labels, studies = torch.tensor([0, 3]), torch.tensor([0, 1])
    # pair 0: (2 - 1 + 3) + (0 - 1 + 3); pair 1: (1 * 0 - 0 + 3) + (2 * 1 - 0 + 3)
    assert ranking_loss(z, labels, studies).item() == pytest.approx((4 + 2 + 3 + 5) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_ranking_loss_equals_the_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    z = Embeddings(torch.randn(7, 4, generator=generator), torch.randn(7, 4, generator=generator))
    labels = torch.randint(-1, 4, (7,), generator=generator)
    studies = torch.randint(0, 3, (7,), generator=generator)
    assert ranking_loss(z, labels, studies).item() == pytest.approx(
        ranking_loss_by_loop(z, labels, studies), rel=1e-5
    )


def test_one_pair_has_no_impostor():
    z = Embeddings(torch.ones(1, 3), torch.ones(1, 3))
    assert ranking_loss(z, torch.tensor([2]), torch.tensor([0])).item() == 0


def test_training_loss_is_the_sum_of_its_parts():
    torch.manual_seed(0)
    output = ModelOutput(torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 3), torch.randn(5, 3))
    labels, studies = torch.tensor([0, 1, 2, 3, 1]), torch.arange(5)
    expected = F.cross_entropy(output.image_logits, labels) + F.cross_entropy(
        output.text_logits, labels
    )
    assert classification_loss(output, labels).item() == pytest.approx(expected.item())
    expected = expected + ranking_loss(output.embeddings, labels, studies)
    assert training_loss(output, labels, studies).item() == pytest.approx(expected.item())
    tenth = expected - 0.9 * ranking_loss(output.embeddings, labels, studies)
    assert training_loss(output, labels, studies, 0.1).item() == pytest.approx(tenth.item())


def test_unimodal_distance_by_hand():
    a = Embeddings(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    b = Embeddings(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 4.0]]))
    assert unimodal_distance(a, b).tolist() == [5.0]  # sqrt(1 + 4 + 4 + 16)


def test_joint_embedding_is_fixed_and_as_written():
    z = Embeddings(torch.randn(3, 4), torch.randn(3, 4))
    joint = JointEmbedding(4, seed=7)
    assert torch.equal(joint(z), JointEmbedding(4, seed=7)(z))
    assert not torch.equal(joint(z), JointEmbedding(4, seed=8)(z))
    assert not list(joint.parameters())
    gate = torch.sigmoid(torch.cat([z.image, z.text], 1) @ joint.gate_weight.T)
    by_hand = gate * torch.tanh(z.image @ joint.image_weight.T) + (1 - gate) * torch.tanh(
        z.text @ joint.text_weight.T
    )
    torch.testing.assert_close(joint(z), by_hand)


def test_multimodal_distance_is_zero_only_for_the_same():
    z = Embeddings(torch.randn(3, 4), torch.randn(3, 4))
    joint = JointEmbedding(4, seed=0)
    assert multimodal_distance(z, z, joint).tolist() == [0, 0, 0]
    assert (multimodal_distance(z, Embeddings(z.image + 1, z.text), joint) > 0).all()


def test_four_losses_pull_forgotten_and_hold_retained():
    torch.manual_seed(0)
    f, t, r, s = (Embeddings(torch.randn(3, 4), torch.randn(3, 4)) for _ in range(4))
    joint = JointEmbedding(4, seed=0)
    uu, ur, mu, mr = four_losses(f, t, r, s, joint)
    assert uu.item() == pytest.approx(unimodal_distance(f, t).mean().item())
    assert ur.item() == pytest.approx(unimodal_distance(r, s).mean().item())
    assert mu.item() == pytest.approx(multimodal_distance(f, t, joint).mean().item())
    assert mr.item() == pytest.approx(multimodal_distance(r, s, joint).mean().item())


def test_no_noise_maximises_up_to_the_margin_record_by_record():
    joint = JointEmbedding(1, seed=0)
    origin = Embeddings(torch.zeros(2, 1), torch.zeros(2, 1))
    moved = Embeddings(torch.tensor([[3.0], [9.0]]), torch.zeros(2, 1))
    uu, *_ = four_losses(moved, origin, origin, origin, joint, margin=5.0)
    assert uu.item() == pytest.approx((2 + 0) / 2)  # hinge(5 - 3), hinge(5 - 9)


def test_settings_are_the_papers_and_sum_to_one():
    assert SETTINGS["multimodal"] == (0.1, 0.1, 0.4, 0.4)
    assert SETTINGS["unimodal"] == (0.4, 0.4, 0.1, 0.1)
    assert SETTINGS["retention"] == (0.1, 0.4, 0.1, 0.4)
    for weights in SETTINGS.values():
        assert sum(weights) == pytest.approx(1)
    # uu, ur, mu, mr each weigh on their own loss.
    for k, weights in itertools.product(range(4), SETTINGS.values()):
        losses = tuple(torch.tensor(float(i == k)) for i in range(4))
        assert weighted_sum(losses, weights).item() == pytest.approx(weights[k])
