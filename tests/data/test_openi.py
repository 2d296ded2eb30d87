"""Open-i: reports alone or with their images, and what can be wrong with them."""

import io
import tarfile

import numpy as np
import pytest
from conftest import TINY_MODEL, weights
from PIL import Image

from forget_mi.data.cohort import rows_of
from forget_mi.data.cohorts import load_cohort
from forget_mi.data.cohorts.openi import frontal_views, read_report
from forget_mi.data.images import UnreadableImageError
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.errors import InputError
from forget_mi.training.config import TrainingConfig
from forget_mi.training.loop import train_new


def report(
    number: int,
    findings="Lungs are clear.",
    impression="Normal chest.",
    terms=("normal",),
    images=(),
) -> str:
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{number}"/><Abstract>'
        '<AbstractText Label="INDICATION">cough</AbstractText>'
        f'<AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract>'
        f"<MeSH>{''.join(f'<major>{term}</major>' for term in terms)}</MeSH>"
        f"{''.join(f'<parentImage id={chr(34)}{image}{chr(34)}/>' for image in images)}</eCitation>"
    )


@pytest.fixture
def collection(tmp_path):
    """Twelve reports, half of them abnormal, in a folder that a test may add to."""
    folder = tmp_path / "reports"
    folder.mkdir()
    for number in range(1, 13):
        terms = ("normal",) if number % 2 else ("Cardiomegaly/mild", "Opacity/lung/base")
        (folder / f"{number}.xml").write_text(
            report(number, terms=terms, images=(f"CXR{number}_1_IM-0001-1001",))
        )
    return folder


def settings(folder, **more) -> dict:
    return {"source": "openi", "reports": str(folder)} | more


def test_reports_alone_are_a_cohort(collection):
    cohort = load_cohort(settings(collection))
    assert not cohort.synthetic
    assert not cohort.has_images
    assert len(cohort) == 12
    assert cohort.classes == ("normal", "abnormal")
    assert cohort.table.label.tolist() == [0, 1] * 6
    assert cohort.table.patient_id.tolist() == [f"CXR{n}" for n in range(1, 13)]
    assert (
        cohort.report_of(0) == "Normal chest. Lungs are clear."
    )  # the indication is not for the model


def test_the_shipped_reports_are_read():
    cohort = load_cohort({"source": "openi"})
    flow = cohort.flow()["items"]
    assert flow["in the source"] == 3955
    assert flow["used"] == len(cohort) == 3955 - 95 - 28
    assert (
        cohort.table.label == 0
    ).sum() == 1391 - 28  # the 28 without text are all indexed normal
    assert "CXR1_IM-0001-4001" in frontal_views()
    assert "CXR1_IM-0001-3001" not in frontal_views()  # a lateral one


def test_mesh_terms_are_classes_in_their_order(collection):
    (collection / "13.xml").write_text(report(13, terms=("Opacity/lung",)))
    (collection / "14.xml").write_text(report(14, terms=("Opacity", "Cardiomegaly")))
    cohort = load_cohort(settings(collection, labels=["Cardiomegaly", "opacity"]))
    assert cohort.classes == ("none of these", "Cardiomegaly", "opacity")
    assert cohort.table.label.tolist() == [0, 1] * 6 + [2, 1]
    with pytest.raises(
        InputError, match=r"no report is indexed with 'Cardiomegali'; near it are cardiomegaly"
    ):
        load_cohort(settings(collection, labels=["Cardiomegali"]))
    with pytest.raises(InputError, match=r"cohort\.labels = \['a', 'a'\]"):
        load_cohort(settings(collection, labels=["a", "a"]))


def test_what_has_no_label_or_text_is_left_out(collection):
    (collection / "13.xml").write_text(report(13, terms=("No Indexing",)))
    (collection / "14.xml").write_text(report(14, findings=" ", impression=""))
    cohort = load_cohort(settings(collection))
    reasons = dict(zip(cohort.skipped.item, cohort.skipped.reason, strict=True))
    assert reasons == {
        "13.xml": "not indexed with MeSH terms",
        "14.xml": "neither Impression nor Findings",
    }


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><eCitation><uId '
    'id="CXR1"/>&b;</eCitation>'
)
OUTSIDE = (
    '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><eCitation><uId '
    'id="CXR1"/>&a;</eCitation>'
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        (report(1)[:150], "not a report in XML"),
        (BOMB, "not a report in XML.*DTDForbidden"),
        (OUTSIDE, "not a report in XML.*DTDForbidden"),
        ("<eCitation/>", "no uId"),
        (report(1).replace("CXR1", "../CXR1"), "no uId"),
    ],
    ids=["empty", "truncated", "bomb", "external", "no id", "id as path"],
)
def test_a_bad_report_is_skipped_and_listed(collection, text, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        read_report(text.encode())
    (collection / "99.xml").write_text(text)
    cohort = load_cohort(settings(collection, max_unreadable=0.1))
    assert len(cohort) == 12
    assert cohort.skipped.item.tolist() == ["99.xml"]
    with pytest.raises(InputError, match=r"1 of 13 .* can't be used, first 99\.xml"):
        load_cohort(settings(collection))


def test_an_archive_is_read_without_unpacking(collection, tmp_path):
    archive = tmp_path / "reports.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(collection.glob("*.xml")):
            tar.add(path, f"../../{path.name}")  # where it would land if it were unpacked
        link = tarfile.TarInfo("13.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    cohort = load_cohort(settings(archive))
    assert cohort.fingerprint == load_cohort(settings(collection)).fingerprint
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [None, b"", b"not an archive"])
def test_reports_that_are_not_there_stop(tmp_path, content):
    path = tmp_path / "reports.tgz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"reports\.tgz: can't be read as Open-i's reports"):
        load_cohort(settings(path))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no XML file"):
        load_cohort(settings(empty))


def test_with_images_a_row_is_an_image(collection, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    grey = io.BytesIO()
    Image.fromarray(np.full((40, 50), 99, np.uint8)).save(grey, "PNG")
    for number in range(1, 12):  # the twelfth is missing
        (root / f"CXR{number}_1_IM-0001-1001.png").write_bytes(grey.getvalue())
    values = settings(
        collection,
        root=str(root),
        image_size=32,
        frontal=False,
        store=str(tmp_path / "store"),
        workers=1,
    )
    with pytest.raises(
        InputError, match=r"first CXR12_1_IM-0001-1001 \(unreadable image: the file is missing\)"
    ):
        load_cohort(values)
    cohort = load_cohort({**values, "max_unreadable": 0.1})
    assert len(cohort) == 11
    assert cohort.images.shape == (11, 1, 32, 32)
    assert cohort.has_images
    with pytest.raises(InputError, match=r"cohort\.root = .*no such readable folder"):
        load_cohort({**values, "root": str(tmp_path / "nowhere")})


def test_a_model_of_reports_alone_is_trained(collection, accelerator):
    from dataclasses import replace

    cohort = split_by_patient(
        load_cohort(settings(collection)), SplitConfig(test=0.25, validation=0.25)
    )
    rows, quick = rows_of(cohort, "train"), TrainingConfig(epochs=1, batch_size=4)
    arguments = {"seed": 0, "accelerator": accelerator, "progress": False}
    with pytest.raises(
        InputError, match=r"model\.towers = 'both': cohort openi holds reports only"
    ):
        train_new(cohort, rows, TINY_MODEL, quick, **arguments)
    model, _, _ = train_new(cohort, rows, replace(TINY_MODEL, towers="text"), quick, **arguments)
    assert all(name.startswith("text_tower") for name in weights(model))
