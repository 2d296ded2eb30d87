"""MIMIC-CXR's layout, written and read back, and everything that can be wrong with its files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_MODEL, differs, weights

from forget_mi.data import store
from forget_mi.data.cohort import Cohort, rows_of
from forget_mi.data.cohorts import load_cohort
from forget_mi.data.export import LABELS, export_cohort
from forget_mi.data.images import UnreadableImageError, inside
from forget_mi.data.requests import RequestConfig, make_request
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.data.tables import read_table
from forget_mi.errors import InputError
from forget_mi.training.config import TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train_new


def settings(root: Path, **more) -> dict:
    return {
        "source": "mimic_cxr",
        "root": str(root),
        "image_size": 32,
        "store": str(root / "store"),
        "workers": 1,
    } | more


@pytest.fixture(scope="module")
def exported(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimic")
    export_cohort(cohort, folder, "dicom")
    return folder


@pytest.fixture
def mimic(exported, tmp_path):
    """A copy that a test may damage; its labels as a table, and how to write them back."""
    root = tmp_path / "mimic"
    shutil.copytree(exported, root)
    labels = pd.read_csv(root / LABELS, dtype=str)

    def image(row: int) -> Path:
        subject, study, name = labels.subject_id[row], labels.study_id[row], labels.dicom_id[row]
        return root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{name}.dcm"

    def report(row: int) -> Path:
        return image(row).parent.with_suffix(".txt")

    return root, labels, image, report


# ---- the round trip ------------------------------------------------------------------------------


def test_what_was_exported_as_dicom_comes_back_to_the_byte(cohort, exported):
    back = load_cohort(settings(exported))
    assert np.array_equal(np.asarray(back.images), cohort.images)
    assert back.table.label.tolist() == cohort.table.label.tolist()
    assert [back.report_of(i) for i in range(len(back))] == [
        cohort.report_of(i) for i in range(len(cohort))
    ]
    assert (back.table.fold == "TEST").tolist() == (cohort.table.split == "test").tolist()
    assert back.skipped.empty
    assert not back.synthetic


def test_as_jpg_it_comes_back_within_a_few_levels(cohort, tmp_path):
    export_cohort(cohort, tmp_path, "jpg")
    back = load_cohort(settings(tmp_path))
    difference = np.asarray(back.images).astype(int) - cohort.images
    assert 0 < np.abs(difference).max() <= 6


def test_a_model_trained_either_way_is_the_same(cohort, exported):
    back = load_cohort(settings(exported))
    back = Cohort(**{**vars(back), "table": back.table.assign(split=cohort.table.split)})
    models = []
    for each in (cohort, back):
        model, _, _ = train_new(
            each,
            rows_of(each, "train"),
            TINY_MODEL,
            TrainingConfig(epochs=1, batch_size=16),
            seed=1,
            accelerator=make_accelerator(),
            progress=False,
        )
        models.append(weights(model))
    assert not differs(*models)


def test_export_does_not_overwrite(cohort, exported):
    with pytest.raises(InputError, match="already holds files/"):
        export_cohort(cohort, exported)


def test_a_cohort_of_a_store_is_saved_without_its_pixels(exported, tmp_path):
    back = load_cohort(settings(exported))
    back = split_by_patient(back, SplitConfig(published=True, validation=0.2))
    back.save(tmp_path / "cohort")
    assert (tmp_path / "cohort" / "images.npy").stat().st_size < 8 * len(back) + 200
    again = Cohort.load(tmp_path / "cohort")
    assert again.fingerprint == back.fingerprint
    assert np.array_equal(np.asarray(again.images), np.asarray(back.images))
    assert again.select([3, 1]).images[0].tolist() == back.images[3].tolist()


# ---- the published files -------------------------------------------------------------------------


def published(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    """A label CSV of the published shape: 6,742 images, 531 TEST, with a repeated header line,
    and three forget CSVs of 201, 401 and 674 images; one small picture serves all rows through a
    stub."""
    rng = np.random.default_rng(0)
    rows, subject = [], 10_000_000
    forget = {201: [], 401: [], 674: []}
    counts = {"TEST": 531, **{str(fold): 1242 for fold in range(1, 5)}, "5": 1243}
    for fold, images in counts.items():
        left = images
        while left:
            n = int(min(left, rng.integers(1, 9)))
            subject += 1
            study = 50_000_000 + 10 * (subject - 10_000_000)
            rows += [
                (subject, study + i // 2, f"i{subject}-{i}", int(rng.integers(4)), fold)
                for i in range(n)
            ]
            left -= n
    table = pd.DataFrame(
        rows, columns=["subject_id", "study_id", "dicom_id", "edeme_severity", "fold"]
    )
    assert len(table) == 6742
    train = table[table.fold != "TEST"]
    sizes = train.subject_id.value_counts()
    for wanted in forget:
        left = wanted
        for patient in rng.permutation(sizes.index.to_numpy()):
            if sizes[patient] <= left:
                forget[wanted].append(patient)
                left -= sizes[patient]
        assert left == 0
    root = tmp_path / "mimic"
    root.mkdir()
    lines = table.to_csv(index=False).splitlines()
    (root / LABELS).write_text("\n".join([*lines[:3000], lines[0], *lines[3000:]]) + "\n")
    for wanted, patients in forget.items():
        part = train[train.subject_id.isin(patients)].rename(
            columns={"edeme_severity": "edema_severity"}
        )
        (root / f"forget_{wanted}.csv").write_text(part.to_csv(index=False))
    return root, table


def test_the_published_counts_to_the_row(tmp_path, monkeypatch):
    from forget_mi.data.cohorts import mimic_cxr

    root, _ = published(tmp_path)
    (root / "files").mkdir()
    monkeypatch.setattr(mimic_cxr, "_report", lambda path: "clear lungs")
    monkeypatch.setattr(store, "read_image", lambda path, size: np.zeros((size, size), np.uint8))
    cohort = load_cohort(settings(root))
    kept = tuple(root / f"forget_{n}.csv" for n in (201, 401, 674))
    split = split_by_patient(
        cohort, SplitConfig(published=True, validation=0.1, keep_in_training=kept)
    )
    assert len(split) == 6742
    assert len(rows_of(split, "test")) == 531
    assert 500 < len(rows_of(split, "validation")) < 850
    left = {}
    for path, n in zip(kept, (201, 401, 674), strict=True):
        request = make_request(split, RequestConfig(csv=path))
        assert len(request.forget_rows(split)) == n
        left[n] = len(request.retain_rows(split)) + len(rows_of(split, "validation"))
    assert left == {201: 6010, 401: 5810, 674: 5537}


def test_folds_are_needed_for_the_published_split(cohort):
    with pytest.raises(
        InputError, match=r"split\.published = True: cohort synthetic was not published with folds"
    ):
        split_by_patient(cohort, SplitConfig(published=True))


@pytest.mark.parametrize("spelling", ["edeme_severity", "edema_severity"])
def test_both_spellings_are_read(mimic, spelling):
    root, labels, *_ = mimic
    labels.rename(columns={"edeme_severity": spelling}).to_csv(root / LABELS, index=False)
    assert len(load_cohort(settings(root))) == len(labels)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_in_any_dialect(tmp_path, delimiter, encoding):
    path = tmp_path / "t.csv"
    path.write_text(
        f"a{delimiter}b\n1{delimiter} x \n\na{delimiter}b\n2{delimiter}y\n", encoding=encoding
    )
    table = read_table(path, ["a", ("c", "b")], "a table")
    assert table.values.tolist() == [["1", "x", 2], ["2", "y", 5]]
    assert list(table) == ["a", "c", "line"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("subject_id,study_id\n1,2\n", "lacks the column dicom_id; it has subject_id, study_id"),
        (
            "subject_id,study_id,dicom_id,fold\n1,2,3,4\n",
            "lacks the column edema_severity or edeme_severity",
        ),
        (
            "subject_id,study_id,dicom_id,edema_severity,fold\n1,2,3\n",
            "line 2 has 3 cells, the header 5",
        ),
    ],
)
def test_a_malformed_label_file_stops(mimic, text, message):
    root, *_ = mimic
    (root / LABELS).write_text(text)
    with pytest.raises(InputError, match=message):
        load_cohort(settings(root))
    (root / LABELS).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="can't be read as MIMIC-CXR's edema labels"):
        load_cohort(settings(root))


def test_a_root_that_is_not_there_stops(tmp_path):
    with pytest.raises(InputError, match=r"parameter cohort\.root = .*there is no readable folder"):
        load_cohort(settings(tmp_path / "nowhere"))


def test_a_root_that_may_not_be_read_stops(mimic):
    root, *_ = mimic
    (root / "files").chmod(0)
    root_user = os.geteuid() == 0  # who may read everything
    if root_user:
        os.seteuid(65534)
    try:
        with pytest.raises(
            InputError, match=r"parameter cohort\.root = .*there is no readable folder"
        ):
            load_cohort(settings(root))
    finally:
        if root_user:
            os.seteuid(0)
        (root / "files").chmod(0o755)


# ---- single bad files are skipped and listed -----------------------------------------------------


def damage_truncated(path: Path):
    path.write_bytes(path.read_bytes()[:-500])


def damage_header(path: Path):
    path.write_bytes(path.read_bytes()[:100])


def damage_empty(path: Path):
    path.write_bytes(b"")


def damage_missing(path: Path):
    path.unlink()


def edited(change):
    def damage(path: Path):
        import pydicom

        file = pydicom.dcmread(path)
        change(file)
        file.save_as(path)

    return damage


def no_pixels(file):
    del file.PixelData


def many_frames(file):
    file.NumberOfFrames = 2
    file.PixelData = file.PixelData * 2


def colour(file):
    file.PhotometricInterpretation, file.SamplesPerPixel, file.PlanarConfiguration = "RGB", 3, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.PixelData = bytes(file.Rows * file.Columns * 3)


def palette(file):
    file.PhotometricInterpretation = "PALETTE COLOR"


def wrong_syntax(file):
    from pydicom.uid import JPEG2000Lossless

    file.file_meta.TransferSyntaxUID = JPEG2000Lossless
    from pydicom.encaps import encapsulate

    file.PixelData = encapsulate([b"not a codestream"])
    file["PixelData"].is_undefined_length = True


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncated, "unreadable image: "),
        (damage_header, "unreadable image: "),
        (damage_empty, "unreadable image: the file is empty"),
        (damage_missing, "unreadable image: the file is missing"),
        (edited(no_pixels), "unreadable image: no pixel data"),
        (edited(many_frames), r"unreadable image: multi-frame \(2 frames\)"),
        (edited(colour), "unreadable image: photometric interpretation RGB"),
        (edited(palette), "unreadable image: photometric interpretation PALETTE COLOR"),
        (edited(wrong_syntax), "unreadable image: "),
    ],
)
def test_one_bad_image_is_skipped_and_listed(mimic, damage, reason):
    root, labels, image, _ = mimic
    damage(image(3))
    cohort = load_cohort(settings(root, max_unreadable=0.05))
    assert len(cohort) == len(labels) - 1
    assert cohort.skipped.item.tolist() == [labels.dicom_id[3]]
    assert pd.Series(cohort.skipped.reason).str.match(reason).all()
    with pytest.raises(
        InputError, match=r"1 of \d+ images can't be used, first .*max_unreadable = 0\.0 allows 0"
    ):
        load_cohort(settings(root, max_unreadable=0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "the report is missing"),
        (lambda path: path.write_text(" \n"), "the report is empty"),
        (
            lambda path: path.write_bytes(b"FINDINGS: caf\xe9"),
            r"the report is not UTF-8 \(byte 13\)",
        ),
    ],
)
def test_one_bad_report_is_skipped_and_listed(mimic, change, reason):
    root, labels, _, report = mimic
    change(report(3))
    cohort = load_cohort(settings(root, max_unreadable=0.1))
    gone = labels.study_id == labels.study_id[3]
    assert len(cohort) == len(labels) - gone.sum()
    assert cohort.skipped.reason.str.match(reason).all()
    assert set(cohort.skipped.item) == set(labels.dicom_id[gone])


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("edeme_severity", "4", "severity 4, not 0 to 3"),
        ("edeme_severity", "", "severity missing"),
        ("edeme_severity", "1.5", "severity 1.5"),
        ("edeme_severity", "nan", "severity nan"),
        ("fold", "7", "fold 7, not 1 to 5 or TEST"),
        ("subject_id", "", "subject_id is empty"),
        ("dicom_id", "../../../etc/passwd", "leads out of the data folder"),
        ("study_id", "/etc", "leads out of the data folder|is missing"),
        ("subject_id", "../..", "leads out of the data folder"),
    ],
)
def test_one_bad_row_is_skipped_and_listed(mimic, column, value, reason):
    root, labels, *_ = mimic
    labels.loc[3, column] = value
    labels.to_csv(root / LABELS, index=False)
    cohort = load_cohort(settings(root, max_unreadable=0.05))
    assert len(cohort) == len(labels) - 1
    assert cohort.skipped.reason.str.contains(reason).all()


def test_an_image_id_in_two_rows_is_in_none(mimic):
    root, labels, *_ = mimic
    labels.loc[4, "dicom_id"] = labels.dicom_id[3]
    labels.to_csv(root / LABELS, index=False)
    cohort = load_cohort(settings(root, max_unreadable=0.05))
    assert len(cohort) == len(labels) - 2
    assert set(cohort.skipped.reason) == {"the image id stands in more than one row"}


def test_a_patient_in_test_and_in_training_stays_in_test(mimic):
    root, labels, *_ = mimic
    patient = labels.subject_id[labels.fold == "TEST"].iloc[0]
    rows = labels.index[labels.subject_id == patient]
    assert len(rows) > 1
    labels.loc[rows[0], "fold"] = "1"
    labels.to_csv(root / LABELS, index=False)
    cohort = load_cohort(settings(root, max_unreadable=0))
    assert cohort.skipped.reason.tolist() == ["the patient is in TEST too: one person on two sides"]
    assert len(cohort) == len(labels) - 1


def test_a_link_out_of_the_root_is_not_followed(mimic, tmp_path):
    root, _, image, _ = mimic
    outside = tmp_path / "outside.dcm"
    image(3).rename(outside)
    image(3).symlink_to(outside)
    cohort = load_cohort(settings(root, max_unreadable=0.05))
    assert cohort.skipped.reason.str.contains("link out of the data folder").all()
    with pytest.raises(UnreadableImageError, match="leads out"):
        inside(root, "a", "..", "..", "b")


# ---- from the command line -----------------------------------------------------------------------


def test_exporting_from_the_command_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "forget_mi",
        "export",
        "tiny",
        str(tmp_path / "out"),
        "--kind",
        "jpg",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "out" / LABELS)) == len(
        list((tmp_path / "out" / "files").rglob("*.jpg"))
    )
    assert json.dumps(done.stdout).count("images") == 1
