"""Radiograph-like pictures of the built-in cohort; `synthetic` says what they simulate."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates


class Anatomy:
    """What stays the same in all of a patient's images."""

    def __init__(self, rng: np.random.Generator):
        self.width = rng.normal(1.0, 0.07)
        self.lung_height = rng.normal(0.66, 0.05)
        self.heart = rng.normal(1.0, 0.13)
        self.heart_tilt = rng.normal(0.45, 0.12)
        self.dome = rng.normal([0.52, 0.56], 0.05)
        self.rib_count = rng.normal(8.5, 0.7)
        self.rib_phase = rng.uniform(0, 2 * np.pi)
        self.rib_contrast = rng.uniform(0.02, 0.06)
        self.aorta = rng.uniform(0.6, 1.4)
        self.gain = rng.normal(1.0, 0.08)
        self.gamma = np.exp(rng.normal(0, 0.12))
        self.vessel_phase = rng.uniform(0, 2 * np.pi, size=(2, 4))
        self.soft_tissue = rng.uniform(0.42, 0.62)
        # A coarse parenchymal pattern of the patient's own (scars, fat, breast shadow).
        self.pattern = rng.normal(size=(9, 9))


def _edge(distance: np.ndarray, softness: float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(distance / softness, -30, 30)))


def _lungs(x: np.ndarray, y: np.ndarray, a: Anatomy, breath: float) -> np.ndarray:
    """Where the lungs are, 0 to 1."""
    lungs = np.zeros_like(x)
    for side, dome in zip((-1, 1), a.dome, strict=True):
        u = (side * x - 0.40) / (0.30 - 0.10 * np.clip(-y, 0, 1))
        v = (y + 0.06) / (a.lung_height + 0.08)
        inside = 1 - (np.abs(u) ** 2.4 + np.abs(v) ** 2.8)
        diaphragm = dome + breath + 0.55 * (side * x - 0.36) ** 2 - y
        lungs = np.maximum(lungs, _edge(inside, 0.07) * _edge(diaphragm, 0.025))
    return lungs


def _heart(x: np.ndarray, y: np.ndarray, a: Anatomy, severity: float) -> np.ndarray:
    """Where the heart is, 0 to 1; a little larger in the sick."""
    size = a.heart * (1 + 0.05 * severity)
    hx, hy = x - 0.12, y - 0.33
    across = np.cos(a.heart_tilt) * hx + np.sin(a.heart_tilt) * hy
    along = -np.sin(a.heart_tilt) * hx + np.cos(a.heart_tilt) * hy
    return _edge(1 - (across / (0.37 * size)) ** 2 - (along / (0.29 * size)) ** 2, 0.16)


def _hila(x: np.ndarray, y: np.ndarray, a: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """The vessels that leave the hila, and the haze around them."""
    vessels, haze = np.zeros_like(x), np.zeros_like(x)
    for side in (0, 1):
        hilum = (-0.24, 0.24)[side]
        radius = np.hypot(x - hilum, (y - 0.02) * 0.9)
        angle = np.arctan2(y - 0.02, x - hilum)
        phases = enumerate(a.vessel_phase[side])
        streaks = sum(np.cos((3 + 2 * k) * angle + p + 2 * radius) for k, p in phases) / 4
        vessels += np.clip(streaks, 0, None) ** 2 * np.exp(-radius / 0.26)
        haze += np.exp(-((radius / 0.34) ** 2))
    return vessels, haze


def draw_radiograph(rng: np.random.Generator, a: Anatomy, severity: float, size: int) -> np.ndarray:
    """One frontal picture as uint8 (size, size); severity 0 to 3."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x0, y0 = np.meshgrid(axis, axis)
    # Positioning differs from image to image: rotation, shift, inspiration.
    turn, (dx, dy), breath = rng.normal(0, 0.03), rng.normal(0, 0.035, size=2), rng.normal(0, 0.03)
    x = np.cos(turn) * x0 - np.sin(turn) * y0 + dx
    y = np.sin(turn) * x0 + np.cos(turn) * y0 + dy
    x = x / a.width

    body = _edge(0.93 - 0.42 * _edge(-y - 0.72, 0.07) - np.abs(x), 0.03)
    lungs, heart = _lungs(x, y, a, breath), _heart(x, y, a, severity)
    mediastinum = np.exp(-(((x - 0.02) / (0.15 + 0.05 * np.clip(y, 0, 1))) ** 4))
    spine = 0.07 * np.exp(-((x / 0.09) ** 4)) * (1 + 0.5 * np.cos(18 * y))
    abdomen = _edge(y - min(a.dome) - breath - 0.02, 0.06)
    knob = np.exp(-(((x - 0.15) / 0.09) ** 2 + ((y + 0.33) / 0.1) ** 2)) * a.aorta * 0.4

    ribs = a.rib_contrast * np.cos(a.rib_count * np.pi * (y + 0.45 * x**2 * 1.2) + a.rib_phase)
    clavicles = 0.12 * np.exp(-(((y + 0.62 + 0.18 * np.abs(x)) / 0.035) ** 2)) * (np.abs(x) > 0.08)

    vessels, haze = _hila(x, y, a)
    fine = rng.normal(size=x.shape)
    lines = gaussian_filter(fine, size / 64 * 0.7) - gaussian_filter(fine, size / 64 * 2.0)
    lines = lines / lines.std()
    coarse = gaussian_filter(rng.normal(size=x.shape), size / 64 * 4.5)
    clouds = np.clip(coarse / coarse.std() + 0.2, 0, None)
    where = np.stack(np.meshgrid(np.linspace(0, 8, size), np.linspace(0, 8, size), indexing="ij"))
    own = map_coordinates(a.pattern, where, order=3, mode="nearest")

    congestion = np.clip(severity, 0, 1.4) * rng.normal(1, 0.15)
    interstitial = np.clip(severity - 0.7, 0, 1.6) * rng.normal(1, 0.15)
    alveolar = np.clip(severity - 1.8, 0, 1.4) * rng.normal(1, 0.15)
    lung_signal = (
        0.16
        + (0.10 + 0.16 * congestion) * vessels
        + (0.03 + 0.07 * congestion + 0.08 * interstitial + 0.1 * alveolar) * haze
        + (0.012 + 0.028 * interstitial) * lines
        + 0.12 * alveolar * clouds * haze
        + 0.035 * own
        + ribs
    )
    if severity > 2.2 and rng.random() < 0.7:  # effusion: the costophrenic angle fills
        side = rng.choice([-1, 1])
        lung_signal = lung_signal + 0.3 * _edge(y - 0.38 + 0.25 * (0.6 - side * x), 0.05) * (
            side * x > 0
        )
    tissue = a.soft_tissue + 0.14 * abdomen
    picture = tissue * (1 - lungs) + lung_signal * lungs
    # Heart and mediastinum lie over the lungs: what they cover keeps a trace of the lung behind.
    central = np.maximum(heart, mediastinum)
    picture = (
        picture * (1 - central) + (0.14 + a.soft_tissue + 0.12 * heart + 0.1 * picture) * central
    )
    picture = picture + spine + knob * (1 - heart) * 0.6 + clavicles
    picture = body * picture + 0.03
    picture = np.clip(picture * a.gain * rng.normal(1, 0.03), 0, 1) ** (
        a.gamma * np.exp(rng.normal(0, 0.04))
    )
    picture = picture + rng.normal(0, 0.018, size=x.shape)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
