"""Reports of the built-in cohort; `synthetic` says what they simulate."""

from __future__ import annotations

import numpy as np

# Hidden severity is cut here; with the severities drawn below this gives about 34/21/27/18 %,
# flatter than the 43/22/25/10 of MIMIC-CXR: a stranger of a class that dominates is guessed right
# so often that he looks like a member.
CUTS = (0.85, 1.45, 2.3)


def grade_of(severity: float) -> int:
    """The grade, 0 to 3, of a severity between 0 and 3."""
    return int(np.searchsorted(CUTS, severity))


class ReportStyle:
    """What stays the same in all of a patient's reports: the person, the history, the reader's
    habits."""

    HISTORY = (
        "shortness of breath",
        "chest pain",
        "fever and cough",
        "congestive heart failure",
        "hypoxia",
        "altered mental status",
        "status post line placement",
        "renal failure",
        "weakness",
        "syncope",
        "preoperative evaluation",
        "atrial fibrillation",
        "aortic stenosis",
        "cough",
        "dyspnea on exertion",
        "leukocytosis",
        "status post fall",
        "sepsis",
        "cirrhosis",
        "lung transplant evaluation",
    )
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
    "possibly reflecting {}",
    "difficult to exclude {}",
    "which may represent {}",
    "{} cannot be excluded",
)


GRADE_NAMES = (
    "normal variation",
    "mild vascular congestion",
    "mild interstitial edema",
    "developing alveolar edema",
)


def write_report(rng: np.random.Generator, style: ReportStyle, severity: float) -> str:
    """One report with the sections of a MIMIC-CXR report, `___` where a name or date would be."""
    grade = grade_of(severity)
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
        "COMPARISON:  ___\n\n"
        f"FINDINGS:  {' '.join(sentences)}\n\n"
        f"IMPRESSION:  {summary}\n"
    )
