import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_cohort
from PIL import Image

from forget_mi.data.cohort import Cohort
from forget_mi.data.cohorts import synthetic
from forget_mi.data.cohorts.registry import load_cohort
from forget_mi.data.images import read_image
from forget_mi.data.reports import report_text
from forget_mi.errors import InputError

SMALL = {"source": "synthetic", "patients": 12, "image_size": 32}
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "covid-chestxray"


# ---- synthetic -----------------------------------------------------------------------------------


def test_same_seed_same_bytes():
    first, second = load_cohort(SMALL), load_cohort(SMALL)
    assert first.images.tobytes() == second.images.tobytes()
    assert first.reports == second.reports
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.fingerprint == second.fingerprint
    assert load_cohort({**SMALL, "seed": 1}).fingerprint != first.fingerprint


def test_more_patients_leave_the_first_ones_as_they_were():
    few, more = load_cohort(SMALL), load_cohort({**SMALL, "patients": 15})
    assert np.array_equal(more.images[: len(few)], few.images)
    assert few.reports.items() <= more.reports.items()


def test_the_default_cohort_is_as_documented():
    cohort = synthetic.load(synthetic.SyntheticConfig(patients=300))
    assert cohort.synthetic
    assert len(cohort) / 300 == pytest.approx(4, abs=0.3)
    shares = cohort.table.label.value_counts(normalize=True).sort_index()
    assert shares.tolist() == pytest.approx([0.34, 0.21, 0.27, 0.18], abs=0.05)
    text = " ".join(cohort.reports.values())
    assert "No interstitial edema" in text  # negations
    assert "cannot be excluded" in text  # hedges
    assert "INDICATION" not in text


def test_severity_shows_in_the_lungs():
    quiet = {"label_noise": 0, "image_noise": 0, "report_noise": 0}
    cohort = load_cohort({**SMALL, "patients": 150, **quiet})
    lungs = cohort.images[:, 0, 10:20, 6:11].reshape(len(cohort), -1).astype(float)
    haze, texture = lungs.mean(1), lungs.std(1)
    for measure in (haze, texture):
        means = [measure[cohort.table.label == label].mean() for label in (0, 3)]
        assert means[1] > means[0]


# ---- the interface -------------------------------------------------------------------------------


def test_save_and_load_are_inverse(tmp_path, cohort):
    cohort.save(tmp_path / "c")
    loaded = Cohort.load(tmp_path / "c")
    assert loaded.fingerprint == cohort.fingerprint
    assert loaded.reports == cohort.reports
    assert np.array_equal(loaded.images, cohort.images)
    assert loaded.table.patient_id.tolist() == cohort.table.patient_id.tolist()
    assert not list((tmp_path / "c").glob(".*tmp"))


def test_patients_who_changed_places_are_told(tmp_path, cohort):
    folder = tmp_path / "c"
    cohort.save(folder)
    table = pd.read_csv(folder / "cohort.csv", dtype=str, keep_default_na=False)
    one, other = table.patient_id.unique()[:2]
    table["patient_id"] = table.patient_id.replace({one: other, other: one})
    table.to_csv(folder / "cohort.csv", index=False)
    with pytest.raises(InputError, match=r"cohort\.csv: ids were changed after it was written"):
        Cohort.load(folder)


@pytest.mark.parametrize("harm", ["pixel", "report", "label", "truncated", "gone"])
def test_a_changed_or_half_written_cohort_is_refused(tmp_path, cohort, harm):
    folder = tmp_path / "c"
    cohort.save(folder)
    if harm == "pixel":
        images = np.load(folder / "images.npy")
        images[3, 0, 5, 5] ^= 1
        np.save(folder / "images.npy", images)
    elif harm == "report":
        reports = json.loads((folder / "reports.json").read_text())
        reports[next(iter(reports))] += " More."
        (folder / "reports.json").write_text(json.dumps(reports))
    elif harm == "label":
        table = pd.read_csv(folder / "cohort.csv")
        table.loc[0, "label"] = (table.label[0] + 1) % 4
        table.to_csv(folder / "cohort.csv", index=False)
    elif harm == "truncated":
        data = (folder / "images.npy").read_bytes()
        (folder / "images.npy").write_bytes(data[: len(data) // 2])
    else:
        (folder / "cohort.json").unlink()
    with pytest.raises(InputError, match="run notebook 01_cohort"):
        Cohort.load(folder)


def test_an_empty_report_stops():
    good = make_cohort(["a", "b"], [0, 1])
    with pytest.raises(InputError, match="study 's1' has no report or an empty one"):
        Cohort("made", good.table, good.images, {"s0": "text", "s1": "  "}, good.classes, True)


def test_a_label_out_of_range_stops():
    with pytest.raises(InputError, match=r"image 'i1' has label 2; allowed are 0 to 1"):
        make_cohort(["a", "b"], [0, 2])


def test_a_repeated_image_id_stops():
    good = make_cohort(["a", "b"], [0, 1])
    table = good.table.assign(image_id="same")
    with pytest.raises(InputError, match="image id 'same' stands in more than one row"):
        Cohort("made", table, good.images, good.reports, good.classes, True)


def test_unknown_sources_and_parameters_stop():
    with pytest.raises(InputError, match=r"cohort.source = 'mimic'.*synthetic"):
        load_cohort({"source": "mimic"})
    with pytest.raises(
        InputError, match=r"unknown parameter cohort.patient = 3; allowed are patients"
    ):
        load_cohort({"source": "synthetic", "patient": 3})
    with pytest.raises(
        InputError, match=r"parameter cohort.label_noise = 2: .*less than or equal to 1"
    ):
        load_cohort({"source": "synthetic", "label_noise": 2})


# ---- reports -------------------------------------------------------------------------------------


def test_sections_are_taken_as_published():
    report = (
        "                                 FINAL REPORT\n EXAMINATION:  CHEST\n\n INDICATION:  ___F "
        "with dyspnea\n\n"
        " FINDINGS:  \n \n Lungs are clear.\n No effusion.\n \n IMPRESSION:  Normal chest.\n"
        " RECOMMENDATION(S):  None.\n"
    )
    assert report_text(report) == "Normal chest. Lungs are clear. No effusion. None."


def test_without_sections_the_final_report_is_taken():
    assert (
        report_text("WET READ: x\n FINAL REPORT\n Portable view.\n Clear lungs.")
        == "Portable view. Clear lungs."
    )
    assert report_text("just   text") == "just text"


# ---- the COVID-19 image data collection ----------------------------------------------------------


@pytest.fixture
def collection(tmp_path):
    """A small collection in the upstream layout, with one case of each kind of trouble."""
    (tmp_path / "images").mkdir()
    rows = []

    def add(
        patient,
        filename,
        finding="COVID-19",
        view="PA",
        modality="X-ray",
        notes="Some notes.",
        offset="0",
    ):
        rows.append(
            {"patientid": patient, "offset": offset, "sex": "M", "finding": finding, "view": view}
        )
        rows[-1] |= {
            "modality": modality,
            "folder": "images",
            "filename": filename,
            "clinical_notes": notes,
        }

    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 30), np.uint8)).save(
            tmp_path / "images" / f"x{i}.png"
        )
        add(str(i), f"x{i}.png", finding="COVID-19" if i % 2 else "ARDS")
    add("1", "x1.png")  # repeated row
    add("99", "x2.png")  # the same file under another patient
    add("7", "ct.png", modality="CT")
    add("7", "lateral.png", view="L")
    add("7", "todo.png", finding="todo")
    add("7", "silent.png", notes="  ")

    def write():
        pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
        return {"source": "covid_chestxray", "root": str(tmp_path), "image_size": 32}

    return tmp_path, add, write


def test_what_is_used_and_what_is_left_out(collection):
    _, _, write = collection
    cohort = load_cohort(write())
    assert not cohort.synthetic
    assert len(cohort) == 6
    assert cohort.table.label.tolist() == [0, 1, 0, 1, 0, 1]
    reasons = dict(zip(cohort.skipped.item, cohort.skipped.reason, strict=True))
    assert reasons["ct.png"] == "modality CT, not X-ray"
    assert reasons["lateral.png"] == "view L, not frontal"
    assert reasons["todo.png"] == "finding todo"
    assert reasons["silent.png"] == "no clinical notes"
    assert reasons["x2.png"] == "the same image file stands under another patient"
    assert reasons["x1.png"] == "the image file stands in an earlier row"


def test_colour_jpegs_are_used_and_volumes_are_not(collection):
    root, add, write = collection
    Image.fromarray(np.full((40, 30, 3), 120, np.uint8)).save(
        root / "images" / "colour.jpeg", quality=95
    )
    add("8", "colour.jpeg")
    (root / "images" / "volume.nii.gz").write_bytes(b"\x1f\x8b\x08\x00")
    add("8", "volume.nii.gz", modality="CT", view="Axial")
    add("9", "volume.nii.gz")  # a row that calls a volume an X-ray
    cohort = load_cohort({**write(), "max_unreadable": 0.2})
    assert cohort.table.image_id.tolist()[-1] == "colour.jpeg"
    assert np.abs(cohort.images[len(cohort) - 1, 0][:, 8:24].astype(int) - 120).max() <= 2
    reasons = cohort.skipped[cohort.skipped.item == "volume.nii.gz"].reason.tolist()
    assert reasons[0] == "modality CT, not X-ray"
    assert reasons[1].startswith("unreadable image: cannot identify image file")


def test_unreadable_images_stop_above_the_limit_and_are_listed_below_it(collection):
    root, add, write = collection
    add("8", "gone.png")
    (root / "images" / "torn.png").write_bytes((root / "images" / "x0.png").read_bytes()[:60])
    add("9", "torn.png")
    with pytest.raises(
        InputError, match=r"2 of 8 images can't be used, first gone\.png .*allows 0"
    ):
        load_cohort(write())
    cohort = load_cohort({**write(), "max_unreadable": 0.3})
    assert len(cohort) == 6
    assert set(cohort.skipped.item[cohort.skipped.reason.str.startswith("unreadable")]) == {
        "gone.png",
        "torn.png",
    }


@pytest.mark.parametrize("name", ["../metadata.csv", "/etc/hostname", "a/../../metadata.csv"])
def test_nothing_outside_the_folder_is_opened(collection, name):
    _, add, write = collection
    add("8", name)
    with pytest.raises(InputError, match="leads out of the data folder"):
        load_cohort(write())


def test_malformed_metadata_stops(collection):
    root, _, write = collection
    settings = write()
    text = (root / "metadata.csv").read_text()
    (root / "metadata.csv").write_text(text.replace("clinical_notes", "notes"))
    with pytest.raises(InputError, match=r"metadata\.csv: lacks the column clinical_notes"):
        load_cohort(settings)
    (root / "metadata.csv").write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(InputError, match=r"metadata\.csv"):
        load_cohort(settings)
    (root / "metadata.csv").unlink()
    with pytest.raises(InputError, match=r"metadata\.csv: can't be read"):
        load_cohort(settings)
    with pytest.raises(InputError, match=r"parameter cohort\.root = None"):
        load_cohort({**settings, "root": None})


def test_images_of_any_depth_become_grey_squares(tmp_path):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, :] = 200
    Image.fromarray(wide).save(tmp_path / "g.png")
    Image.fromarray(np.stack([wide] * 3, -1)).save(tmp_path / "c.png")
    Image.fromarray(wide.astype(np.uint16) * 257).save(tmp_path / "d.png")
    pictures = [read_image(tmp_path / f"{name}.png", 30) for name in "gcd"]
    for picture in pictures:
        assert picture.shape == (30, 30)
        assert picture[15, 15] == 200
        assert picture[1, 15] == 0  # padded with black, not stretched
        assert np.abs(picture.astype(int) - pictures[0]).max() <= 1


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the real sample is not beside the project")
def test_the_real_sample_is_read():
    cohort = load_cohort(
        {"source": "covid_chestxray", "root": str(SAMPLE), "image_size": 32, "max_unreadable": 0}
    )
    assert len(cohort) + len(cohort.skipped) == 187
    assert len(cohort) >= 180
    assert cohort.table.image_id.is_unique
