"""The built-in cohort: radiograph-like pictures and reports drawn from a seed, with no real person
behind them.

What is simulated. A patient has an anatomy (thorax, lungs, heart, ribs, mediastinum), an exposure,
a reporting style and a tendency towards congestion. Each of the patient's studies has a hidden
severity between 0 and 3 near that tendency. The image and the report each see it through noise of
their own: perihilar haze, vessel prominence, interstitial texture, effusion and heart size on one
side; findings, hedges and negations on the other. The label is the rounded hidden severity, or with
probability `label_noise` another class. What generalises is therefore limited, and what a model
knows beyond it, it has memorised.

What is not: disease other than edema, laterality, devices, priors, the physics of X-rays. It is a
cohort for teaching and testing; no number from it says anything about patients.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.ndimage import gaussian_filter, map_coordinates

from forget_mi.config import config
from forget_mi.data.cohort import Cohort
from forget_mi.data.reports import report_text

CLASSES = ("none", "vascular congestion", "interstitial edema", "alveolar edema")


# Hidden severity is cut here; with the severities drawn below this gives about 34/21/27/18 %,
# flatter than the 43/22/25/10 of MIMIC-CXR: a stranger of a class that dominates is guessed right
# so often that he looks like a member.
CUTS = (0.85, 1.45, 2.3)


@config
class SyntheticConfig:
    """patients: how many. image_size: height and width in pixels. images_per_patient: the mean (a
    study has one or two). label_noise: share of studies labelled as another class. image_noise,
    report_noise: share of the images (reports) that show (describe) a severity drawn at random
    instead of the study's. noise_of: what the noise belongs to: each study, image and report has
    its own, or each patient one that all of them share, as with a chronic state that is always read
    alike; what a model learns by heart is then the patient's. seed: of everything drawn."""

    patients: Annotated[int, Field(ge=8, le=100_000)] = 400
    image_size: Annotated[int, Field(ge=32, le=2048)] = 64
    images_per_patient: Annotated[float, Field(ge=1, le=40)] = 4.0
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.1
    image_noise: Annotated[float, Field(ge=0, le=1)] = 0.45
    report_noise: Annotated[float, Field(ge=0, le=1)] = 0.06
    noise_of: Literal["record", "patient"] = "record"
    seed: Annotated[int, Field(ge=0)] = 0


def load(settings: SyntheticConfig) -> Cohort:
    """Draw the cohort: byte-identical for the same settings on the same machine."""
    rows, pictures, reports = [], [], {}
    for number in range(settings.patients):
        # One generator a patient: adding patients to a cohort leaves the earlier ones as they were.
        rng = np.random.default_rng([settings.seed, number])
        patient = f"S{number:05d}"
        anatomy, style = _Anatomy(rng), _Style(rng)
        tendency = rng.choice([0.35, 1.15, 1.9, 2.6], p=[0.3, 0.25, 0.27, 0.18])
        image_count = 1 + rng.poisson(settings.images_per_patient - 1)
        chronic = _Chronic(settings, number, tendency) if settings.noise_of == "patient" else None
        made, study_number = 0, 0
        while made < image_count:
            study = f"{patient}-{study_number:02d}"
            severity = float(np.clip(tendency + rng.normal(0, 0.45), 0, 3))
            label = int(np.searchsorted(CUTS, severity))
            if rng.random() < settings.label_noise:
                label = int((label + rng.integers(1, len(CLASSES))) % len(CLASSES))
            reported = _noisy_severity(rng, severity, settings.report_noise)
            if chronic is not None:
                label, reported = chronic.label, chronic.reported
            reports[study] = report_text(_report(rng, style, reported))
            for view in range(min(image_count - made, 1 + (rng.random() < 0.4))):
                shown = (
                    _noisy_severity(rng, severity, settings.image_noise)
                    if chronic is None
                    else chronic.shown
                )
                pictures.append(_radiograph(rng, anatomy, shown, settings.image_size))
                rows.append((patient, study, f"{study}-{view}", label, style.sex, style.age))
                made += 1
            study_number += 1
    columns = ["patient_id", "study_id", "image_id", "label", "sex", "age"]
    return Cohort(
        name="synthetic",
        table=pd.DataFrame(rows, columns=columns),
        images=np.stack(pictures)[:, None],
        reports=reports,
        classes=CLASSES,
        synthetic=True,
    )


class _Chronic:
    """A patient's one severity, label, and what all of the images show and all of the reports
    describe."""

    def __init__(self, settings: SyntheticConfig, number: int, tendency: float):
        rng = np.random.default_rng([settings.seed, number, 1])
        self.label = int(np.searchsorted(CUTS, tendency))
        if rng.random() < settings.label_noise:
            self.label = int((self.label + rng.integers(1, len(CLASSES))) % len(CLASSES))
        self.reported = _noisy_severity(rng, tendency, settings.report_noise)
        self.shown = _noisy_severity(rng, tendency, settings.image_noise)


def _noisy_severity(rng: np.random.Generator, severity: float, noise: float) -> float:
    """The severity that one image shows or one report describes: near the study's, or any."""
    seen = rng.uniform(0, 3) if rng.random() < noise else severity + rng.normal(0, 0.2)
    return float(np.clip(seen, 0, 3))


# ---- the picture ---------------------------------------------------------------------------------


class _Anatomy:
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


def _lungs(x: np.ndarray, y: np.ndarray, a: _Anatomy, breath: float) -> np.ndarray:
    """Where the lungs are, 0 to 1."""
    lungs = np.zeros_like(x)
    for side, dome in zip((-1, 1), a.dome, strict=True):
        u = (side * x - 0.40) / (0.30 - 0.10 * np.clip(-y, 0, 1))
        v = (y + 0.06) / (a.lung_height + 0.08)
        inside = 1 - (np.abs(u) ** 2.4 + np.abs(v) ** 2.8)
        diaphragm = dome + breath + 0.55 * (side * x - 0.36) ** 2 - y
        lungs = np.maximum(lungs, _edge(inside, 0.07) * _edge(diaphragm, 0.025))
    return lungs


def _heart(x: np.ndarray, y: np.ndarray, a: _Anatomy, severity: float) -> np.ndarray:
    """Where the heart is, 0 to 1; a little larger in the sick."""
    size = a.heart * (1 + 0.05 * severity)
    hx, hy = x - 0.12, y - 0.33
    across = np.cos(a.heart_tilt) * hx + np.sin(a.heart_tilt) * hy
    along = -np.sin(a.heart_tilt) * hx + np.cos(a.heart_tilt) * hy
    return _edge(1 - (across / (0.37 * size)) ** 2 - (along / (0.29 * size)) ** 2, 0.16)


def _hila(x: np.ndarray, y: np.ndarray, a: _Anatomy) -> tuple[np.ndarray, np.ndarray]:
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


def _radiograph(rng: np.random.Generator, a: _Anatomy, severity: float, size: int) -> np.ndarray:
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


# ---- the report ----------------------------------------------------------------------------------


class _Style:
    """What stays the same in all of a patient's reports: the person, the history, the reader's
    habits."""

    HISTORY = (
        "shortness of breath", "chest pain", "fever and cough", "congestive heart "
                                                                "failure", "hypoxia",
        "altered mental status", "status post line "
                                 "placement", "renal failure", "weakness", "syncope",
        "preoperative "
        "evaluation", "atrial fibrillation", "aortic stenosis", "cough", "dyspnea on exertion",
        "leukocytosis", "status post fall", "sepsis", "cirrhosis", "lung transplant evaluation",
    )  # fmt: skip
    FILLER = (
        "The mediastinal contours are {stable}.",
        "There is no pneumothorax.",
        "The osseous structures are {unremarkable}.",
        "A right internal jugular catheter ends {n}.{m} cm below the carina.",
        "The endotracheal tube terminates {n}.{m} cm above the carina.",
        "Median sternotomy wires are intact.",
        "Left-sided pacemaker leads are in {stable} position.",
        "There is {side} basilar atelectasis.",
        "No focal consolidation concerning for pneumonia.",
        "The aorta is tortuous and calcified.",
        "Surgical clips project over the {side} upper quadrant.",
        "Degenerative changes of the thoracic spine are {stable}.",
        "The cardiac silhouette is {heart}.",
        "Lung volumes are low.",
        "An enteric tube courses below the diaphragm.",
        "Old {side} rib fractures are noted.",
        "A {m} mm calcified granuloma is seen in the {side} lung.",
        "There is mild scoliosis.",
        "The {side} hemidiaphragm is elevated.",
        "A {side} PICC tip is in the mid SVC.",
        "Biapical pleural thickening is {stable}.",
        "Hyperinflation suggests emphysema.",
        "A {side} shoulder prosthesis is partly seen.",
        "Skin folds project over the {side} hemithorax.",
        "A hiatal hernia is {stable}.",
        "A {n}.{m} cm nodule in the {side} lower lobe is {stable}.",
    )

    def __init__(self, rng: np.random.Generator):
        self.sex = str(rng.choice(["F", "M"]))
        self.age = int(np.clip(rng.normal(66, 14), 19, 97))
        self.history = [str(h) for h in rng.choice(self.HISTORY, size=2, replace=False)]
        self.words = {
            "stable": str(
                rng.choice(["stable", "unchanged", "similar to prior", "within normal limits"])
            ),
            "unremarkable": str(
                rng.choice(["unremarkable", "intact", "without acute abnormality"])
            ),
            "heart": str(
                rng.choice(["normal in size", "mildly enlarged", "enlarged", "top normal in size"])
            ),
            "side": str(rng.choice(["left", "right"])),
        }
        self.habits = [self.FILLER[i] for i in rng.choice(len(self.FILLER), size=6, replace=False)]
        self.hedging = rng.uniform(0.05, 0.5)


# What a reader writes at each grade; several ways, overlapping with the neighbouring grades through
# the noise.
GRADE_PHRASES = (
    (
        "There is no pulmonary edema.",
        "No evidence of pulmonary vascular congestion or edema.",
        "The lungs are clear without vascular congestion.",
        "Pulmonary vasculature is normal. No interstitial edema.",
        "No overt pulmonary edema is seen.",
        "The lungs are well expanded and clear.",
    ),
    (
        "There is mild pulmonary vascular congestion.",
        "Pulmonary vascular engorgement without overt interstitial edema.",
        "Mild cephalization of the pulmonary vessels.",
        "Prominence of the pulmonary vasculature, no frank edema.",
        "Mild fluid overload with hilar fullness.",
    ),
    (
        "There is mild to moderate interstitial pulmonary edema.",
        "Interstitial markings are increased, consistent with interstitial edema.",
        "Kerley B lines and peribronchial cuffing indicate interstitial edema.",
        "Moderate pulmonary edema with septal thickening.",
        "Diffuse increased interstitial opacities. No alveolar edema.",
    ),
    (
        "There is severe pulmonary edema with bilateral alveolar opacities.",
        "Perihilar airspace opacities consistent with alveolar edema.",
        "Extensive bilateral parenchymal opacities compatible with severe edema.",
        "Worsening severe edema with moderate bilateral pleural effusions.",
    ),
)


HEDGES = (
    "possibly reflecting {}", "difficult to exclude {}", "which may represent {}", "{} cannot be "
                                                                                   "excluded",
)  # fmt: skip


GRADE_NAMES = (
    "normal variation",
    "mild vascular congestion",
    "mild interstitial edema",
    "developing alveolar edema",
)


def _report(rng: np.random.Generator, style: _Style, severity: float) -> str:
    """One report with the sections of a MIMIC-CXR report, `___` where a name or date would be."""
    grade = int(np.searchsorted(CUTS, severity))
    finding = str(rng.choice(GRADE_PHRASES[grade]))
    if rng.random() < style.hedging:
        # A hedge names the neighbouring grade: the word is in the report, the finding is not.
        neighbour = int(np.clip(grade + rng.choice([-1, 1]), 0, 3))
        finding = (
            finding.rstrip(".")
            + ", "
            + str(rng.choice(HEDGES)).format(GRADE_NAMES[neighbour])
            + "."
        )
    chosen = rng.permutation(style.habits)[: rng.integers(2, 5)]
    sentences = [
        s.format(**style.words, n=rng.integers(1, 7), m=rng.integers(1, 10)) for s in chosen
    ]
    sentences.insert(int(rng.integers(0, len(sentences) + 1)), finding)
    summary = {
        0: "No acute cardiopulmonary process.",
        1: "Mild pulmonary vascular congestion.",
        2: "Interstitial pulmonary edema.",
        3: "Severe pulmonary edema.",
    }[grade]
    if rng.random() < 0.45:
        summary = "No significant change from ___." if rng.random() < 0.6 else "Findings as above."
    person = "woman" if style.sex == "F" else "man"
    return (
        "FINAL REPORT\n"
        "EXAMINATION:  CHEST (PORTABLE AP)\n\n"
        f"INDICATION:  ___ year old {person} with {' and '.join(style.history)}\n\n"
        f"COMPARISON:  ___\n\n"
        f"FINDINGS:  {' '.join(sentences)}\n\n"
        f"IMPRESSION:  {summary}\n"
    )
