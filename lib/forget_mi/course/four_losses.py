"""Checks of exercise 4."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from forget_mi.course.answers import NotYetError, array, call, close, describe, exercise, number


@exercise
def add_noise(function: Any) -> str:
    """Clipped Gaussian noise."""
    images = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    kept = images.clone()
    found = call(function, images, 0.1, 0.3, torch.Generator().manual_seed(2), name="add_noise")
    values = array(found, "the noisy images", (2, 1, 40, 40))
    if not torch.equal(images, kept):
        raise NotYetError(
            "The images that were given have been changed; make a copy (x + y, not x += y)."
        )
    if values.min() < 0 or values.max() > 1:
        raise NotYetError(
            f"There are pixels of {values.min():.2f} and {values.max():.2f}; clip to [0, 1]."
        )
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    close(
        values,
        (images + 0.1 + 0.3 * noise).clamp(0, 1),
        "the noisy image",
        {
            "The mean mu is missing.": (images + 0.3 * noise).clamp(0, 1).numpy(),
            "sigma is a standard deviation; this uses it as a variance.": (
                images + 0.1 + 0.3**0.5 * noise
            )
            .clamp(0, 1)
            .numpy(),
            "The noise is the same for all pixels or comes from uniform numbers; torch.randn draws "
            "one for each.": (images + 0.1).clamp(0, 1).numpy(),
        },
    )
    return "The same generator, the same noise: a target that is drawn once can be aimed at."


@exercise
def unimodal(function: Any) -> str:
    """Euclidean distance of both towers side by side."""
    generator = torch.Generator().manual_seed(3)
    (a, b), (c, d) = ([torch.randn(5, 3, generator=generator) for _ in range(2)] for _ in range(2))
    right = (torch.cat([a, b], 1) - torch.cat([c, d], 1)).norm(dim=1)
    found = call(function, (a, b), (c, d), name="unimodal")
    if np.ndim(found.detach() if hasattr(found, "detach") else found) == 0:
        raise NotYetError(
            "unimodal gives one number for the batch; one for each record is asked for."
        )
    close(
        array(found, "the distance", (5,)),
        right,
        "the distance",
        {
            "The distances of the two towers are added; side by side is one distance in a longer "
            "vector.": ((a - c).norm(dim=1) + (b - d).norm(dim=1)).numpy(),
            "This is the squared distance; the square root is missing.": (right**2).numpy(),
            "This is the image tower's distance alone.": (a - c).norm(dim=1).numpy(),
            "Absolute differences are added; Euclidean is the root of the squares.": torch.cat(
                [a - c, b - d], 1
            )
            .abs()
            .sum(1)
            .numpy(),
        },
    )
    return "One vector for the whole record."


@exercise
def joint(function: Any) -> str:
    """The gated multimodal unit."""
    generator = torch.Generator().manual_seed(4)
    z_img, z_txt = (torch.randn(4, 3, generator=generator) for _ in range(2))
    w_img, w_txt = (torch.randn(6, 3, generator=generator) for _ in range(2))
    w_gate = torch.randn(6, 6, generator=generator)
    gate = torch.sigmoid(torch.cat([z_img, z_txt], 1) @ w_gate.T)
    image, text = torch.tanh(z_img @ w_img.T), torch.tanh(z_txt @ w_txt.T)
    found = array(call(function, z_img, z_txt, w_img, w_txt, w_gate, name="joint"), "J", (4, 6))
    close(
        found,
        gate * image + (1 - gate) * text,
        "J",
        {
            "The gate is on the wrong tower: g belongs to the image, 1 - g to the report.": (
                (1 - gate) * image + gate * text
            ).numpy(),
            "Both towers are gated by g; the report's share is 1 - g.": (
                gate * (image + text)
            ).numpy(),
            "tanh is missing.": (gate * (z_img @ w_img.T) + (1 - gate) * (z_txt @ w_txt.T)).numpy(),
            "The gate sees the two embeddings in the order image, report.": (
                torch.sigmoid(torch.cat([z_txt, z_img], 1) @ w_gate.T) * image
                + (1 - torch.sigmoid(torch.cat([z_txt, z_img], 1) @ w_gate.T)) * text
            ).numpy(),
        },
    )
    return "How much of each tower is let through depends on both."


@exercise
def total(function: Any) -> str:
    """The weighted sum."""
    uu, ur, mu, mr = (
        torch.tensor([1.0, 3.0]),
        torch.tensor([0.5]),
        torch.tensor([2.0, 4.0]),
        torch.tensor([0.0, 1.0, 2.0]),
    )
    weights = {"uu": 0.1, "ur": 0.4, "mu": 0.2, "mr": 0.3}
    found = number(call(function, uu, ur, mu, mr, weights, name="total"), "the loss")
    close(
        found,
        0.1 * 2 + 0.4 * 0.5 + 0.2 * 3 + 0.3 * 1,
        "the loss",
        {
            "The records are summed; each part is a mean over its records.": 0.1 * 4
            + 0.4 * 0.5
            + 0.2 * 6
            + 0.3 * 3,
            "The weights are not used.": 2 + 0.5 + 3 + 1.0,
            "The sum is divided by four; the weights do that already (they sum to 1).": (
                0.2 + 0.2 + 0.6 + 0.3
            )
            / 4,
        },
    )
    return "Forget and retain halves may be of different size: each is a mean of its own."


@exercise
def pulling(answer: Any) -> str:
    """At the start only the forget losses pull."""
    if not isinstance(answer, (set, frozenset, list, tuple)) or not set(answer) <= {
        "uu",
        "ur",
        "mu",
        "mr",
    }:
        raise NotYetError(
            f"A set of names out of uu, ur, mu, mr is asked for; it is {describe(answer)}."
        )
    if {"ur", "mr"} & set(answer):
        raise NotYetError(
            "F_ul is a copy of F_og: retained records lie exactly at their targets, there is "
            "nothing to pull."
        )
    if set(answer) != {"uu", "mu"}:
        raise NotYetError(
            "One is missing: both the unimodal and the multimodal loss see the corrupted copies "
            "elsewhere."
        )
    return "The retention losses wake up as soon as the first step has moved the towers."
