"""The course: lessons run, solutions pass their checks, untouched exercises fail them, checks speak
in sentences."""

import importlib
import io
import json
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch

from forget_mi import course
from forget_mi.course import (
    answers,
    baselines,
    deletion_request,
    four_losses,
    gold_standard,
    held_out_targets,
    lesson,
    membership_inference,
    memorisation,
    real_patients,
    stronger_attacks,
    ways_out,
)
from forget_mi.course.answers import NOT_YET, RIGHT, NotYetError
from forget_mi.course.notebooks import LESSONS, make_exercise, remove_answers
from forget_mi.errors import InputError
from forget_mi.runs.chain import execute, run_chain
from forget_mi.runs.notebooks import clean_notebook, with_parameters
from forget_mi.runs.project import ROOT

COURSE = ROOT / "notebooks" / "course"


def text_of(name: str) -> str:
    return (COURSE / f"{name}.ipynb").read_text()


def code_of(notebook: str) -> list[str]:
    return [
        "".join(cell["source"])
        for cell in json.loads(notebook)["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """The folder of a tiny run that the lessons read."""
    folder = tmp_path_factory.mktemp("course") / "run"
    return run_chain(
        "tiny", folder, notebooks=["01_cohort", "02_train", "03_unlearn"], progress=False
    ).folder


def verdicts(notebook: str, run_dir) -> list[str]:
    """What the checks of an exercise say, its cells run one after another in this process."""
    parameters = {"profile": "tiny", "run_dir": str(run_dir)}
    namespace, said = {"__name__": "__main__"}, []
    for source in code_of(with_parameters(notebook, parameters)):
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile(source, "exercise", "exec"), namespace)
        said += [line for line in out.getvalue().splitlines() if line.startswith((RIGHT, NOT_YET))]
    return said


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_runs(name, run_dir, tmp_path):
    source = tmp_path / f"{name}.ipynb"
    source.write_text(with_parameters(text_of(name), {"profile": "tiny", "run_dir": str(run_dir)}))
    execute(source, tmp_path / "executed.ipynb", {}, progress=False)


@pytest.mark.parametrize("name", LESSONS)
def test_every_solution_passes(name, run_dir):
    solution = text_of(f"{name}_solution")
    said = verdicts(solution, run_dir)
    assert [line for line in said if not line.startswith(RIGHT)] == []
    assert len(said) == sum(source.count("check.") for source in code_of(solution)) >= 3


@pytest.mark.parametrize("name", LESSONS)
def test_every_untouched_exercise_fails(name, run_dir):
    exercise = text_of(f"{name}_exercise")
    said = verdicts(exercise, run_dir)
    assert [line for line in said if not line.startswith(NOT_YET)] == []
    assert len(said) == sum(source.count("check.") for source in code_of(exercise)) >= 3


@pytest.mark.parametrize("name", LESSONS)
def test_exercises_are_their_solutions_without_the_answers(name):
    assert text_of(f"{name}_exercise") == clean_notebook(make_exercise(text_of(f"{name}_solution")))


@pytest.mark.parametrize(
    "name", [f"{lesson}{part}" for lesson in LESSONS for part in ("", "_solution", "_exercise")]
)
def test_notebooks_of_the_course_are_clean(name):
    text = text_of(name)
    assert clean_notebook(text) == text, "make notebooks writes them clean"
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    if name.endswith("_exercise"):
        assert all(cell["execution_count"] is None and not cell["outputs"] for cell in cells)
    else:
        assert all(cell["execution_count"] for cell in cells)
        assert not any(o["output_type"] == "error" for cell in cells for o in cell["outputs"])
        assert NOT_YET not in text
    assert str(ROOT) not in text
    assert max(len(cell["source"]) for cell in cells) <= 20
    assert "choose the kernel" in "".join(
        cells[0]["source"]
    )  # of another environment: said by the first cell
    parameters = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert all('profile = "demo"' in "".join(cell["source"]) for cell in parameters)


@pytest.mark.parametrize("name", ["explore", *(f"course/{lesson}" for lesson in LESSONS)])
def test_a_kernel_of_another_environment_is_recognised_by_the_first_cell(name, monkeypatch):
    for module in ("forget_mi", "forget_mi.course"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    first = code_of((ROOT / "notebooks" / f"{name}.ipynb").read_text())[0]
    with pytest.raises(SystemExit, match=r"not the project's .*make lab.*Change Kernel"):
        exec(compile(first, "first cell", "exec"), {"__name__": "__main__"})


def test_answers_are_taken_out():
    assert (
        remove_answers("# answer:\nx = 1\ny = x + 1\n# end of answer\ncheck(y)")
        == "y = ...  # your answer\ncheck(y)"
    )
    function = "def f(x):\n    # answer:\n    return x\n    # end of answer"
    assert remove_answers(function) == "def f(x):\n    ...  # your answer"
    for wrong in ("# answer:\nx = 1", "x = 1\n# end of answer"):
        with pytest.raises(ValueError, match="without"):
            remove_answers(wrong)


# ---- what a student gets to hear -----------------------------------------------------------------


def said_of(check, *given) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        assert check(*given) is None
    return out.getvalue()


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (
            memorisation.cross_entropy,
            lambda p, y: np.log(p[np.arange(len(y)), y]),
            "sign is missing",
        ),
        (
            memorisation.cross_entropy,
            lambda p, y: -np.log(p[np.arange(len(y)), y]).mean(),
            "one for each record",
        ),
        (
            memorisation.cross_entropy,
            lambda p, y: -np.log(p),
            r"should have shape (6,); it has (6, 4)",
        ),
        (memorisation.cross_entropy, lambda p, y: p[y, 99], "stopped with IndexError"),
        (memorisation.cross_entropy, lambda p, y: np.full(6, np.nan), "has NaN in it"),
        (memorisation.cross_entropy, 3.0, "a function; it was given 3.0"),
        (memorisation.ceiling, 1.5, "can only lie between 0 and 1"),
        (memorisation.ceiling, "high", "should be a number; it is 'high'"),
        (memorisation.reply, "maybe", "Choose one of"),
        (membership_inference.auc, lambda a, b: (a[:, None] > b).mean(), "Ties are left out"),
        (
            membership_inference.draw_patients,
            lambda p, rng: np.arange(len(p)),
            "Nobody is ever drawn twice",
        ),
        (
            membership_inference.draw_patients,
            lambda p, rng: rng.integers(0, len(p), len(p)),
            "a patient comes whole",
        ),
        (gold_standard.told_apart, lambda auc: auc - 0.5, "as good to an attacker"),
        (gold_standard.floor, lambda v: np.abs(v[:, None] - v).mean(), "compared with itself"),
        (
            four_losses.unimodal,
            lambda z, t: (z[0] - t[0]).norm(dim=1) + (z[1] - t[1]).norm(dim=1),
            "side by side",
        ),
        (
            four_losses.add_noise,
            lambda x, mu, s, g: x + mu + s * torch.randn(x.shape, generator=g),
            "clip to [0, 1]",
        ),
        (four_losses.pulling, {"ur", "uu"}, "nothing to pull"),
        (baselines.stop_at, lambda losses, level: len(losses) - 1, "it should be"),
        (stronger_attacks.level, 0.95, "for one look"),
        (stronger_attacks.means, lambda m, k: (m.mean(0), m.mean(0)), "mu_in is off"),
        (
            held_out_targets.targets,
            lambda fold, said: said.mean(0),
            "one of them knows the patient",
        ),
        (
            held_out_targets.fold_of_records,
            lambda p, k, rng: np.arange(len(p)) % k,
            "is in two folds",
        ),
        (
            held_out_targets.kl,
            lambda a, b: (a.softmax(-1) * (a - b)).sum(-1).mean(),
            "divergence is",
        ),
        (deletion_request.pseudonym, lambda patient, salt: patient, "another hash"),
        (deletion_request.needed, 39, "half width"),
        (deletion_request.cheapest, lambda t, wait, gap: t.trainings.idxmin(), "monthly waits"),
        (
            deletion_request.cheapest,
            lambda t, wait, gap: t[(t.wait < wait) & (t.gap < gap)].trainings.idxmin(),
            "a queue of 31 days is allowed",
        ),
        (ways_out.touched, lambda k, s: k / s, "do not add up"),
        (ways_out.repeated, lambda first, n: (n - first + 1) / n, "not alike"),
        (ways_out.bound, lambda e, d, f: np.exp(e) * f + d, "first line alone"),
        (
            real_patients.interval,
            lambda v: v.mean() + np.array([-1, 1]) * 1.959964 * v.std(ddof=1) / len(v) ** 0.5,
            "Student's t",
        ),
        (real_patients.most, lambda n: 3 / n, "rule of thumb"),
        (real_patients.reach, "proof", "teaching cases"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(check, answer, hint):
    said = said_of(check, answer)
    assert said.startswith(NOT_YET)
    assert hint in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "given",
    [..., None, "a", [1, 2], {}, np.zeros((2, 3)), torch.zeros(2), lambda: None, True, object()],
)
@pytest.mark.parametrize(
    "check",
    [memorisation.cross_entropy, memorisation.ceiling, memorisation.reply, four_losses.pulling,
     four_losses.total,
     membership_inference.rates, gold_standard.gaps, baselines.diagnosis, stronger_attacks.means,
     held_out_targets.break_even, deletion_request.verdict, deletion_request.cheapest,
     ways_out.bound, real_patients.interval],
)  # fmt: skip
def test_whatever_is_given_a_check_answers_with_a_sentence(check, given):
    said = said_of(check, given)
    assert said.startswith(NOT_YET)
    assert said.rstrip().endswith((".", "?"))
    assert "Traceback" not in said


def test_a_check_called_with_too_few_answers_says_so():
    assert said_of(memorisation.gaps, {"image": 1}).startswith(NOT_YET)
    assert said_of(memorisation.ceiling).startswith(NOT_YET)


def test_numbers_and_arrays_may_be_tensors():
    assert answers.number(torch.tensor(2.0), "x") == 2.0
    assert answers.array(torch.ones(2, requires_grad=True), "x", (2,)).tolist() == [1, 1]
    with pytest.raises(NotYetError, match="should have shape"):
        answers.array([1, 2, 3], "x", (2,))


# ---- a lesson's start ----------------------------------------------------------------------------


def test_a_lesson_without_its_run_says_what_to_run(tmp_path):
    with pytest.raises(
        InputError, match=r"can't: .*has not been finished.*\nRun `make demo`.*run_tiny"
    ) as caught:
        course.open_lesson("demo", tmp_path / "nowhere")
    shown = caught.value._render_traceback_()
    assert shown == [str(caught.value)]
    assert "Traceback" not in shown[0]


def test_a_lesson_that_needs_shadow_models_names_the_command(run_dir):
    with pytest.raises(InputError, match="make shadows PROFILE=tiny"):
        course.open_lesson("tiny", run_dir, {"shadows.count": 0}, shadows=True)


def test_the_button_runs_the_tiny_profile(monkeypatch, capsys):
    import ipywidgets

    shown, ran = [], []
    monkeypatch.setitem(sys.modules, "ipykernel", importlib.import_module("ipykernel"))
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr(lesson, "run_tiny", lambda: ran.append("tiny"))
    lesson.offer_tiny()
    button = shown[0].children[0]
    assert isinstance(button, ipywidgets.Button)
    button.click()
    assert ran == ["tiny"]
    assert button.disabled


def test_a_lesson_reads_what_the_run_says(run_dir):
    opened = course.open_lesson("tiny", run_dir)
    rows = {side: set(opened.rows(side)) for side in lesson.SIDES}
    assert sum(map(len, rows.values())) == len(set().union(*rows.values())) == len(opened.cohort)
    assert opened.predictions("original", "test") is opened.predictions("original", "test")
    again = opened.predictions(opened.model("original").model, "test")
    np.testing.assert_allclose(
        again.image_logits, opened.predictions("original", "test").image_logits, atol=1e-5
    )
    losses = opened.losses("original", "retrained-1")
    assert losses.groupby(["model", "set"]).size()["original", "forget"] == len(
        opened.rows("forget")
    )
    assert losses.fused[
        (losses.model == "original") & (losses.set == "test")
    ].mean() == pytest.approx(opened.predictions("original", "test").cross_entropy("fused").mean())
    with pytest.raises(InputError, match="side 'everyone'"):
        opened.rows("everyone")
