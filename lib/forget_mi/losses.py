"""Losses as plain functions of tensors, named as in the paper (Forget-MI, arXiv 2506.23145)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from forget_mi.models import Embeddings, JointEmbedding, ModelOutput

MISSING = -1  # a label that is not known


def ranking_loss(z: Embeddings, labels: Tensor, studies: Tensor) -> Tensor:
    """Ranking loss between pairs and impostors (Chauhan et al., MICCAI 2020), all pairs of the
    batch at once.

    For each pair i and its neighbour j = i + 1 (the last one's neighbour is the first):
        hinge(sim(img_j, txt_i) - sim(img_i, txt_i) + m)
        + hinge(sim(img_i, txt_j) - sim(img_i, txt_i) + m),
    sim the dot product; m = max(.5, |y_i - y_j|), 0 where both come from one study, .5 where a
    label is missing.

    z: (batch, width) each; labels (int, MISSING where unknown) and studies (batch). Returns the
    mean, a scalar.
    """
    image_j, text_j = z.image.roll(-1, 0), z.text.roll(-1, 0)
    labels_j, studies_j = labels.roll(-1), studies.roll(-1)
    margin = (labels - labels_j).abs().clamp(min=0.5)
    margin = torch.where((labels == MISSING) | (labels_j == MISSING), 0.5, margin)
    margin = torch.where(studies == studies_j, 0.0, margin)
    paired = (z.image * z.text).sum(-1)
    impostor_image = (image_j * z.text).sum(-1)
    impostor_text = (z.image * text_j).sum(-1)
    return (
        F.relu(impostor_image - paired + margin) + F.relu(impostor_text - paired + margin)
    ).mean()


def classification_loss(output: ModelOutput, labels: Tensor) -> Tensor:
    """CE(image) + CE(text), averaged over the batch; missing labels are passed over, and so is a
    missing tower."""
    return sum(F.cross_entropy(logits, labels, ignore_index=MISSING) for logits in output.logits)


def training_loss(
    output: ModelOutput, labels: Tensor, studies: Tensor, ranking: float = 1.0
) -> Tensor:
    """CE(image) + CE(text) + ranking * ranking loss: what F_og and F_re are trained with (the paper
    has ranking = 1). With one tower, or two of different widths, there is nothing to rank: CE
    alone."""
    loss = classification_loss(output, labels)
    return (
        loss + ranking * ranking_loss(output.embeddings, labels, studies)
        if output.embeddings.are_paired
        else loss
    )


def unimodal_distance(z: Embeddings, target: Embeddings) -> Tensor:
    """d([z_img; z_txt], [z_img'; z_txt']), Euclidean, of each record (batch): UU with F_og's noisy
    forget targets, UR with its clean retain ones."""
    return torch.linalg.vector_norm(torch.cat(z, -1) - torch.cat(target, -1), dim=-1)


def multimodal_distance(z: Embeddings, target: Embeddings, joint: JointEmbedding) -> Tensor:
    """d(J(z_img, z_txt), J(z_img', z_txt')), Euclidean, of each record (batch): MU with F_og's
    noisy forget targets, MR with its clean retain ones."""
    return torch.linalg.vector_norm(joint(z) - joint(target), dim=-1)
