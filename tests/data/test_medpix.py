"""MedPix 2.0 in the layout of a clone, with made-up cases, and what can be wrong with it."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from forget_mi.data.cohorts import load_cohort, medpix
from forget_mi.data.leakage import class_named_in_reports
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.errors import InputError

CATEGORIES = ("Neoplasm, benign", "Cyst, benign", "Trauma", "Aneurysm", "Infection, NOS")
GROUPS = {"tumour": ["neoplasm*", "cyst*"], "trauma": ["Trauma*"]}


def case(number: int, category: str = "Trauma", **more) -> dict:
    return {
        "U_id": f"C{number}",
        "TAC": [f"C{number}_a"],
        "MRI": [],
        "Case": {
            "Title": "THE ANSWER",
            "History": f"seen {number} times",
            "Findings": "THE ANSWER",
            "Case Diagnosis": "THE ANSWER",
        },
        "Topic": {"Title": "THE ANSWER", "Disease Discussion": "…", "Category": category},
    } | more


def image(number: int, letter: str = "a", caption: str = "a dark spot", **more) -> dict:
    about = {"Age": str(40 + number), "Sex": "female", "Caption": caption, "Plane": "Axial"}
    return {
        "Type": "CT",
        "U_id": f"C{number}",
        "image": f"C{number}_{letter}",
        "Description": about,
        "Location Category": "Head" if number % 2 else "Thorax",
    } | more


class Clone:
    """A clone in a folder; what a test changes is written by `load`."""

    def __init__(self, folder):
        self.folder = folder / "MedPix-2-0"
        (self.folder / "images").mkdir(parents=True)
        self.cases = [case(n, CATEGORIES[n % 5]) for n in range(20)]
        self.images = [image(n) for n in range(20)] + [
            image(n, "b", "and its edge") for n in (2, 7)
        ]
        for entry in self.images:
            self.draw(entry["image"])

    def draw(self, name: str) -> None:
        pixels = np.random.default_rng(len(name)).integers(0, 255, (40, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(self.folder / "images" / f"{name}.png")

    def load(self, **more):
        (self.folder / "Case_topic.json").write_text(json.dumps(self.cases))
        (self.folder / "Descriptions.json").write_text(json.dumps(self.images))
        return self.read(**more)

    def read(self, **more):
        return load_cohort(
            {
                "source": "medpix",
                "root": str(self.folder.parent),
                "store": str(self.folder.parent / "store"),
                "image_size": 32,
                "groups": GROUPS,
            }
            | more
        )


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def reasons(cohort) -> dict[str, str]:
    return dict(zip(cohort.skipped["item"], cohort.skipped.reason, strict=True))


def test_a_case_is_a_patient_and_its_text_never_names_the_answer(clone):
    cohort = clone.load()
    assert not cohort.synthetic
    assert cohort.classes == ("tumour", "trauma")
    labels = {f"C{n}": int(n % 5 == 2) for n in range(20) if n % 5 < 3}
    assert dict(zip(cohort.table.patient_id, cohort.table.label, strict=True)) == labels
    assert cohort.report_of(0) == "age 40, female. seen 0 times a dark spot"
    assert not any("ANSWER" in text for text in cohort.reports.values())
    assert set(cohort.table.columns) >= {"sex", "view", "modality", "region"}
    assert len(split_by_patient(cohort, SplitConfig()).table) == 14
    # The folder itself is taken as well as the clone around it.
    assert clone.read(root=str(clone.folder)).fingerprint == cohort.fingerprint


def test_what_falls_in_no_group_is_listed_with_its_category(clone):
    cohort = clone.load()
    assert reasons(cohort)["C3_a"] == "its category is in no group: Aneurysm"
    assert cohort.flow()["items"]["left out: its category is in no group"] == -8


def test_the_groups_of_the_source_are_read(clone):
    clone.cases[1]["Topic"]["Category"] = "Congenital, genetic"
    cohort = clone.load(groups=medpix.GROUPS)
    assert cohort.classes[:2] == ("neoplasm", "congenital")
    label = dict(zip(cohort.table.image_id, cohort.table.label, strict=True))
    assert (label["C0_a"], label["C1_a"], label["C2_a"], label["C3_a"]) == (0, 1, 2, 3)


def test_the_region_of_the_body_is_another_label(clone):
    clone.images[0]["Location Category"] = ""
    cohort = clone.load(labels="region")
    assert cohort.classes == ("Head", "Thorax")
    assert len(cohort) == 21
    assert reasons(cohort) == {"C0_a": "no region of the body"}


def test_images_of_one_text_are_one_study(clone):
    clone.images[-1]["Description"]["Caption"] = "a dark spot"
    table = clone.load().table.set_index("image_id")
    assert table.study_id["C7_a"] == table.study_id["C7_b"]
    assert table.study_id["C2_a"] != table.study_id["C2_b"]


def test_what_is_left_out_has_a_reason(clone):
    clone.images.append(image(99))  # of no case
    clone.images.append(image(2))  # twice
    clone.images.append(image(1, "x", U_id="C7", image="C2_a"))  # under two cases
    clone.cases.append(case(2, "Cyst, benign"))  # twice
    clone.cases.append(case(50))
    clone.cases.append(case(51, TAC=[]))
    clone.cases[5]["Case"]["History"] = "N/A"
    clone.images[5]["Description"]["Caption"] = " "
    clone.images[6]["Description"]["Caption"] = ""
    cohort = clone.load()
    found = cohort.skipped[~cohort.skipped.reason.str.startswith("its category")]
    assert sorted(found.itertuples(index=False, name=None)) == [
        ("C2", "the case stands in an earlier entry"),
        ("C2_a", "the image stands in an earlier entry"),
        ("C2_a", "the image stands in an earlier entry of another case"),
        ("C50_a", "no entry in Descriptions.json"),
        ("C51", "the case has no image"),
        ("C5_a", "neither history nor caption"),
        ("C99_a", "no case has the image's id"),
    ]
    assert cohort.reports[cohort.table.study_id[cohort.table.patient_id == "C6"].iloc[0]] == (
        "age 46, female. seen 6 times"
    )
    assert cohort.table.patient_id[cohort.table.image_id == "C2_a"].tolist() == ["C2"]


def test_damaged_images_are_listed_up_to_a_share(clone):
    folder = clone.folder / "images"
    (folder / "C0_a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (folder / "C1_a.png").unlink()
    (folder / "C2_a.png").write_bytes((folder / "C2_a.png").read_bytes()[:60])
    clone.images[5]["image"] = "../C5_a"
    cohort = clone.load(max_unreadable=0.5)
    listed = reasons(cohort)
    assert listed["C0_a"] == "unreadable image: a Git LFS pointer, not the image; run git lfs pull"
    assert listed["C1_a"] == "unreadable image: the file is missing"
    assert listed["C2_a"].startswith("unreadable image: ")
    assert listed["../C5_a"] == "unreadable image: its path leads out of the data folder"
    with pytest.raises(InputError, match=r"4 of 14 images can't be used, first \.\./C5_a"):
        clone.load()


def test_captions_of_any_length_and_language(clone):
    clone.images[0]["Description"]["Caption"] = "une masse hétérogène, 腫瘤"
    clone.images[1]["Description"]["Caption"] = "word " * 10_000
    cohort = clone.load()
    assert cohort.report_of(0).endswith("une masse hétérogène, 腫瘤")
    assert len(cohort.report_of(1).split()) > 10_000


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "Case_topic.json",
            '[{"U_id": "C1", "Ca',
            "Case_topic.json: can't be read as MedPix's JSON",
        ),
        ("Descriptions.json", "{}", "Descriptions.json: holds no list of records"),
        ("Descriptions.json", "[]", "Descriptions.json: holds no list of records"),
        ("Descriptions.json", '[{"U_id": "C1"}]', "record 0 lacks image, Description"),
        (
            "Descriptions.json",
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "Descriptions.json: is a Git LFS pointer, not the file; run git lfs pull",
        ),
    ],
)
def test_broken_json_is_one_line_of_error(clone, file, text, message):
    clone.load()
    (clone.folder / file).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        clone.read()
    assert "\n" not in str(error.value)


def test_a_clone_without_its_parts_says_what_to_do(clone, tmp_path):
    clone.load()
    with pytest.raises(InputError, match=r"holds no Case_topic\.json.*clone https://github\.com"):
        clone.read(root=str(tmp_path / "elsewhere"))
    (clone.folder / "images").rename(clone.folder / "pictures")
    with pytest.raises(InputError, match=r"has no readable folder images; clone"):
        clone.read()


def test_groups_that_can_not_be_are_named(clone):
    with pytest.raises(InputError, match=r"cohort\.groups: heart \(cardiac\*\) fits no category"):
        clone.load(groups=GROUPS | {"heart": ["cardiac*"]})
    with pytest.raises(InputError, match=r"cohort\.groups: again .* that an earlier group leaves"):
        clone.load(groups=GROUPS | {"again": ["Cyst*"]})
    with pytest.raises(InputError, match=r"needs at least two classes"):
        clone.load(groups={"tumour": ["Neoplasm*"]})
    with pytest.raises(InputError, match=r"needs at least two classes, each with a pattern"):
        clone.load(groups=GROUPS | {"heart": []})


def test_a_class_of_two_cases_can_not_be_split(clone):
    clone.cases[0]["Topic"]["Category"] = clone.cases[5]["Topic"]["Category"] = "Hernia"
    cohort = clone.load(groups=GROUPS | {"hernia": ["Hernia*"]})
    with pytest.raises(InputError, match=r"class 'hernia' has 2 patient\(s\)"):
        split_by_patient(cohort, SplitConfig())


def test_reports_that_name_their_class_are_counted(clone):
    clone.images[2]["Description"]["Caption"] = "Traumatic rupture"
    clone.images[0]["Description"]["Caption"] = "no trauma; a tumour"
    named = class_named_in_reports(clone.load())
    assert named.naming.to_dict() == {"tumour": 1, "trauma": 1}
    assert named.reports.sum() == 14


def test_a_copy_of_the_clone_is_the_same_cohort_until_a_pixel_changes(clone):
    """Models that were trained on it serve the copy: it lies elsewhere, and is younger."""
    first = clone.load()
    copy = clone.folder.parent / "copy"
    shutil.copytree(clone.folder, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    again = clone.read(root=str(copy))
    assert again.store != first.store
    assert again.fingerprint == first.fingerprint
    path = next(copy.rglob(f"{first.table.image_id[0]}.*"))
    pixels = np.array(Image.open(path))
    pixels[:8, :8] = 255 - pixels[:8, :8]
    Image.fromarray(pixels).save(path)
    assert clone.read(root=str(copy)).fingerprint != first.fingerprint


def test_ids_are_hashed_and_no_setting_of_the_run_shows_them(clone):
    clone.load()
    first, second = (
        load_cohort(
            {"source": "medpix", "root": str(clone.folder), "image_size": 32, "groups": GROUPS}
            | {"store": str(clone.folder.parent / "store")},
            salt,
        )
        for salt in ("one", "two")
    )
    assert first.table.patient_id.str.fullmatch("p-[0-9a-f]{16}").all()
    assert first.table.patient_id.tolist() != second.table.patient_id.tolist()
    assert first.fingerprint == second.fingerprint
