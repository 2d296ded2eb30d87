import pytest
from conftest import make_cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from forget_mi.data.cohort import rows_of
from forget_mi.data.requests import (
    Request,
    RequestConfig,
    check_request,
    draw_request,
    make_request,
    read_forget_csv,
)
from forget_mi.data.splits import SplitConfig, assert_disjoint, split_by_patient
from forget_mi.errors import InputError


@st.composite
def cohorts(draw):
    """Patients with one to four images each; every class has at least three patients."""
    patients, labels = [], []
    for number in range(draw(st.integers(12, 40))):
        images = draw(st.integers(1, 4))
        patients += [f"p{number}"] * images
        labels += [number % 2] + [draw(st.integers(0, 1)) for _ in range(images - 1)]
    return make_cohort(patients, labels)


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.1, 0.2]), st.integers(0, 99))
def test_no_patient_is_on_two_sides(cohort, test, validation, seed):
    split = split_by_patient(cohort, SplitConfig(test=test, validation=validation, seed=seed))
    sides = [rows_of(split, side) for side in ("train", "validation", "test")]
    assert sum(len(rows) for rows in sides) == len(cohort)
    assert all(len(rows) for rows in sides)
    assert split.table.groupby("patient_id").split.nunique().max() == 1
    assert_disjoint(split, sides)


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.sampled_from([0.1, 0.2, 0.4]), st.integers(0, 99))
def test_drawn_requests_are_whole_training_patients_of_about_the_size(cohort, fraction, seed):
    split = split_by_patient(cohort, SplitConfig(seed=seed))
    try:
        request = draw_request(split, fraction, seed)
    except InputError as error:  # so few images that no patient fits, or a class would be lost
        assert "request" in str(error)  # noqa: PT017
        return
    forget, retain = request.forget_rows(split), request.retain_rows(split)
    assert set(split.table.patient_id.iloc[forget]) == set(request.patients)
    assert len(forget) + len(retain) == len(rows_of(split, "train"))
    assert_disjoint(split, [forget, retain])
    assert len(forget) <= fraction * len(rows_of(split, "train")) + 0.5
    assert request == draw_request(split, fraction, seed)


def test_split_is_stratified_and_of_the_asked_size(cohort):
    shares = cohort.table.groupby("split").label.value_counts(normalize=True).unstack(fill_value=0)
    assert (shares.loc["train"] - shares.loc["test"]).abs().max() < 0.15
    assert (cohort.table.split == "test").mean() == pytest.approx(0.25, abs=0.05)
    assert (cohort.table.split == "validation").mean() == pytest.approx(0.2, abs=0.05)


def test_a_patient_on_two_sides_is_noticed():
    cohort = make_cohort(["a", "a", "b"], [0, 1, 0])
    with pytest.raises(InputError, match="'a' is on two sides"):
        assert_disjoint(cohort, [[0], [1, 2]])


def test_a_class_with_a_single_patient_stops():
    cohort = make_cohort([f"p{i}" for i in range(20)], [1] + [0] * 19)
    with pytest.raises(InputError, match=r"class 'yes' has 1 patient.*at least 3"):
        split_by_patient(cohort, SplitConfig())


@pytest.fixture(scope="module")
def split():
    return split_by_patient(
        make_cohort([f"p{i // 2}" for i in range(60)], [i % 2 for i in range(60)]), SplitConfig()
    )


@pytest.mark.parametrize(
    ("patients", "message"),
    [
        ([], "names no patient"),
        (["nobody"], r"'nobody' \(1 of 1 named\) is not in the cohort"),
        (["TEST"], "is in test, not in training"),
        (["ALL"], "nothing would be left"),
    ],
)
def test_impossible_requests_stop(split, patients, message):
    train = split.table.patient_id[split.table.split == "train"].unique()
    test = split.table.patient_id[split.table.split == "test"].iloc[0]
    named = [p for name in patients for p in {"TEST": [test], "ALL": train}.get(name, [name])]
    with pytest.raises(InputError, match=message):
        check_request(split, Request("r", tuple(named)))


def test_a_request_that_empties_a_class_stops():
    cohort = make_cohort([f"p{i}" for i in range(30)], [int(i < 6) for i in range(30)])
    split = split_by_patient(cohort, SplitConfig())
    train = split.table[split.table.split == "train"]
    with pytest.raises(InputError, match="no training example of class 'yes'"):
        check_request(split, Request("r", tuple(train.patient_id[train.label == 1])))


def test_a_fraction_smaller_than_any_patient_stops(split):
    with pytest.raises(InputError, match=r"fraction of 0\.01.*ask for at least"):
        draw_request(split, 0.01, 0)


def test_one_way_to_ask_at_a_time():
    with pytest.raises(InputError, match="exactly one of fraction, patients and csv"):
        RequestConfig(fraction=0.1, patients=("a",))
    with pytest.raises(InputError, match="exactly one"):
        RequestConfig()


def test_request_from_a_list_or_a_file_is_the_same(split, tmp_path):
    some = tuple(split.table.patient_id[split.table.split == "train"].unique()[:3])
    listed = make_request(split, RequestConfig(patients=some))
    listed.save(tmp_path / "forget.csv", split)
    read = make_request(split, RequestConfig(csv=tmp_path / "forget.csv"))
    assert set(read.patients) == set(listed.patients) == set(some)
    assert read.name == "forget"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "subject_id,study_id,dicom_id,edema_severity\n10,5,a,1\n11,6,b,0\n10,7,c,2\n",
            ["10", "11"],
        ),
        (
            "subject_id,study_id\n10,5\nsubject_id,study_id\n11,6\n",
            ["10", "11"],
        ),  # a repeated header, as published
        ("\ufeffpatient_id\nx\n\n", ["x"]),
        ("subject_id;study_id\n10;5\n11;6\n", ["10", "11"]),
    ],
)
def test_forget_csv(tmp_path, text, expected):
    (tmp_path / "f.csv").write_text(text)
    assert read_forget_csv(tmp_path / "f.csv") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a forget CSV is expected"),
        ("id,study\n1,2\n", "lacks the column subject_id or patient_id; it has id, study"),
        ("subject_id\n", "names no patient"),
        ("subject_id,study_id\n10\n", "line 2"),
        ("subject_id,study_id\n,5\n", "line 2 names no patient"),
    ],
)
def test_bad_forget_csv_stops(tmp_path, text, message):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_forget_csv(tmp_path / "f.csv")


def test_missing_forget_csv_stops(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv"):
        read_forget_csv(tmp_path / "gone.csv")
