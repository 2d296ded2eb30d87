"""The explorer: every figure for every kind of patient, and controls that redraw."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from forget_mi.course.explorer import LOSSES, NEIGHBOURS, Explorer
from forget_mi.course.explorer_page import explorer_widgets, picture
from forget_mi.course.lesson import open_lesson
from forget_mi.errors import InputError
from forget_mi.runs.chain import run_chain
from forget_mi.unlearning.forget_mi import SETTINGS, Weights


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorer") / "run"
    overrides = {"shadows.count": 0}
    run_chain("tiny", folder, overrides, ["01_cohort", "02_train", "03_unlearn"], progress=False)
    return Explorer(open_lesson("tiny", folder, overrides))


def of_side(explorer: Explorer, side: str) -> str:
    return next(patient for patient, where in explorer.side_of.items() if where == side)


@pytest.mark.parametrize("side", ["forget", "retain", "validation", "test"])
def test_every_figure_of_every_kind_of_patient(explorer, side):
    patient = of_side(explorer, side)
    figures = [
        explorer.answers(patient),
        explorer.attack_position(patient),
        explorer.neighbours(patient),
        explorer.corrupted(patient, 0.3, 0.5, (0.25,) * 4),
    ]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert explorer.report(patient)


def test_neighbours_are_others_and_the_nearest(explorer):
    row = explorer.rows(of_side(explorer, "forget"))[0]
    found = explorer.nearest("original", row)
    people = explorer.lesson.cohort.table.patient_id
    assert len(found) == NEIGHBOURS
    assert people[row] not in set(people[found])
    rows, places = explorer._places["original"]
    distance = dict(
        zip(
            rows.tolist(),
            np.linalg.norm(places - places[list(rows).index(row)], axis=1),
            strict=True,
        )
    )
    others = [d for other, d in distance.items() if people[other] != people[row]]
    assert sorted(others)[:NEIGHBOURS] == pytest.approx([distance[f] for f in found])


def test_retention_is_zero_before_the_first_step(explorer):
    _, losses = explorer.losses(of_side(explorer, "forget"), 0.3, 0.5, SETTINGS["equal"])
    assert losses.index[0] == "before"
    assert losses.loc["before", ["UR", "MR"]].tolist() == pytest.approx([0, 0], abs=1e-5)
    assert (losses.loc["before", ["UU", "MU"]] > 0).all()
    assert (losses.loc[explorer.unlearned, ["UR", "MR"]] > 0).all()


def test_weights_and_noise_count(explorer):
    patient = of_side(explorer, "forget")
    _, one = explorer.losses(patient, 0.3, 0.5, Weights(1, 0, 0, 0))
    _, half = explorer.losses(patient, 0.3, 0.5, Weights(0.5, 0, 0, 0))
    np.testing.assert_allclose(half["UU"], one["UU"] / 2, rtol=1e-5)
    assert one[list(LOSSES[1:])].to_numpy().sum() == 0
    (clean, copy), _ = explorer.losses(patient, 0.0, 0.0, SETTINGS["equal"])
    np.testing.assert_allclose(clean, copy)


def test_a_patient_who_is_not_there_is_named(explorer):
    with pytest.raises(InputError, match="patient 'P1'"):
        explorer.rows("P1")


def test_the_controls_redraw(explorer):
    box = explorer_widgets(explorer)
    menu = box.children[0]
    shown = [child for child in box.children if getattr(child, "value", "").startswith("<img")]
    assert len(shown) == 4
    before = [child.value for child in shown]
    menu.index = len(explorer.patients) - 1
    assert all(child.value != old for child, old in zip(shown, before, strict=True))
    sliders = next(child for child in box.children if hasattr(child, "children")).children
    before = shown[-1].value
    sliders[0].value = 0.9
    assert shown[-1].value != before


def test_pictures_say_what_they_show(explorer):
    found = picture(explorer.neighbours(of_side(explorer, "forget")), 'a "patient"')
    assert re.match(r'<img alt="a &quot;patient&quot;" ', found)
    assert 'src="data:image/png;base64,' in found
