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

from forget_mi.config import config
from forget_mi.data.cohort import Cohort
from forget_mi.data.cohorts.synthetic_radiographs import Anatomy, draw_radiograph
from forget_mi.data.cohorts.synthetic_reports import ReportStyle, grade_of, write_report
from forget_mi.data.reports import report_text

CLASSES = ("none", "vascular congestion", "interstitial edema", "alveolar edema")


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
        anatomy, style = Anatomy(rng), ReportStyle(rng)
        tendency = rng.choice([0.35, 1.15, 1.9, 2.6], p=[0.3, 0.25, 0.27, 0.18])
        image_count = 1 + rng.poisson(settings.images_per_patient - 1)
        chronic = _Chronic(settings, number, tendency) if settings.noise_of == "patient" else None
        made, study_number = 0, 0
        while made < image_count:
            study = f"{patient}-{study_number:02d}"
            severity = float(np.clip(tendency + rng.normal(0, 0.45), 0, 3))
            label = grade_of(severity)
            if rng.random() < settings.label_noise:
                label = int((label + rng.integers(1, len(CLASSES))) % len(CLASSES))
            reported = _noisy_severity(rng, severity, settings.report_noise)
            if chronic is not None:
                label, reported = chronic.label, chronic.reported
            reports[study] = report_text(write_report(rng, style, reported))
            for view in range(min(image_count - made, 1 + (rng.random() < 0.4))):
                shown = (
                    _noisy_severity(rng, severity, settings.image_noise)
                    if chronic is None
                    else chronic.shown
                )
                pictures.append(draw_radiograph(rng, anatomy, shown, settings.image_size))
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
        self.label = grade_of(tendency)
        if rng.random() < settings.label_noise:
            self.label = int((self.label + rng.integers(1, len(CLASSES))) % len(CLASSES))
        self.reported = _noisy_severity(rng, tendency, settings.report_noise)
        self.shown = _noisy_severity(rng, tendency, settings.image_noise)


def _noisy_severity(rng: np.random.Generator, severity: float, noise: float) -> float:
    """The severity that one image shows or one report describes: near the study's, or any."""
    seen = rng.uniform(0, 3) if rng.random() < noise else severity + rng.normal(0, 0.2)
    return float(np.clip(seen, 0, 3))
