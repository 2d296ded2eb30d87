"""Near-duplicates across the split."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from forget_mi.data.cohort import rows_of
from forget_mi.data.leakage import near_duplicates, nearest_in_training


def with_copy(cohort, change):
    """The cohort with the first test record replaced by a copy of the first training record."""
    train, test = rows_of(cohort, "train")[0], rows_of(cohort, "test")[0]
    images, reports = cohort.images.copy(), dict(cohort.reports)
    images[test] = change(images[train])
    reports[cohort.table.study_id[test]] = cohort.report_of(train) + " Thank you."
    return replace(cohort, images=images, reports=reports), train, test


def compressed(image: np.ndarray) -> np.ndarray:
    """Enlarged, compressed, brought back to size, brightened."""
    file = io.BytesIO()
    Image.fromarray(image[0]).resize((80, 80), Image.Resampling.BILINEAR).save(
        file, "JPEG", quality=75
    )
    again = Image.open(file).resize(image.shape[1:][::-1], Image.Resampling.BILINEAR)
    return np.clip(np.asarray(again, dtype=float) * 0.9 + 10, 0, 255).astype(np.uint8)[None]


def test_a_copy_under_another_name_is_found(cohort):
    changed, train, test = with_copy(cohort, compressed)
    for kind in ("image", "report"):
        before = near_duplicates(nearest_in_training(cohort, kind), kind)
        nearest = nearest_in_training(changed, kind)
        assert near_duplicates(nearest, kind).test == before.test + 1
        found = nearest.set_index("row").loc[test]
        assert (
            changed.table.study_id[found.nearest] == changed.table.study_id[train]
            or kind == "image"
        )
        assert found.nearest == train or kind == "report"
        assert found.similarity < 1.0001


def test_every_judging_record_has_a_nearest_one_in_training(cohort):
    nearest = nearest_in_training(cohort, "image")
    expected = np.concatenate([rows_of(cohort, "validation"), rows_of(cohort, "test")])
    assert nearest.row.tolist() == expected.tolist()
    assert (cohort.table.split[nearest.nearest] == "train").all()
    # Reports: one a study.
    studies = cohort.table.study_id[expected].nunique()
    assert len(nearest_in_training(cohort, "report")) == studies
