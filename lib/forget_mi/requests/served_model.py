"""A model that is in use, and the ledger of the requests that it served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from forget_mi.data import Cohort, Request, check_request, cohort_ids, read_forget_csv
from forget_mi.errors import InputError
from forget_mi.evaluation import FORGOTTEN
from forget_mi.models import MANIFEST, WEIGHTS
from forget_mi.requests.ledger import append_entry, read_ledger
from forget_mi.runs import SECTIONS, Params, Run, display_path, resolve, run_salt

DELETED = "deleted"  # the side of rows whose records were destroyed


@dataclass(frozen=True)
class ServedModel:
    """A trained run whose model is in use, with the requests that were served. lines: how many
    lines of the ledger count, for the model as it was after them; None for all."""

    folder: Path
    lines: int | None = None

    @cached_property
    def params(self) -> Params:
        """Of the run, as notebook 02 resolved them. Raises InputError where it has not been
        finished."""
        trained = self.folder / "02_train"
        if not (trained / "manifest.json").is_file():
            raise InputError(
                f"MODEL {display_path(self.folder)}: holds no trained model (02_train is missing "
                "or unfinished); run notebooks 01_cohort and 02_train on it, or name another run "
                "folder"
            )
        values = yaml.safe_load((trained / "params.yaml").read_text())
        return resolve(profile_sections(values), values["profile"])

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """One entry a served request, in order. Raises InputError where the file is damaged."""
        return read_ledger(self.folder)[: self.lines]

    def served(self) -> dict[str, dict[str, Any]]:
        """By hashed id, the entry of each patient whose request was served."""
        return {patient: entry for entry in self.ledger for patient in entry["patients"]}

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append an entry to the ledger."""
        append_entry(self.folder, entry)

    def checkpoint(self) -> Path:
        """The folder of the model as it is now: the last request's, or the run's original."""
        if not self.ledger:
            return self.folder / "02_train" / "original"
        return self.folder / self.ledger[-1]["checkpoint"]

    def alone_since(self) -> int:
        """How many lines of the ledger stand before the requests that were served one by one since
        a retraining, or since several were served together."""
        return self._lines_to(lambda entry: entry["approach"] == "retrain" or entry.get("again"))

    def trained_since(self) -> int:
        """How many lines of the ledger stand before the requests that were served since the model
        was trained last."""
        return self._lines_to(lambda entry: entry["approach"] == "retrain")

    def _lines_to(self, ends: Callable[[Mapping[str, Any]], Any]) -> int:
        """How many lines of the ledger there are to the last that is of some kind, with it."""
        places = enumerate(self.ledger, start=1)
        return max((k for k, entry in places if ends(entry)), default=0)

    def last_trained(self) -> Path:
        """The folder of the model as it was trained last: the run's original, or the last
        retraining's."""
        return ServedModel(self.folder, self.trained_since()).checkpoint()

    def destroyed(self) -> str:
        """Why the model as it was trained last is not there any more; empty where it is."""
        trained = self.last_trained()
        if (trained / WEIGHTS).is_file():
            return ""
        return (
            f"{display_path(trained)}: the model as it was trained was destroyed with the records "
            "of those served"
        )

    def reference(self, name: str) -> Path | None:
        """The folder of a reference model as it is now: the last request's, or the run's; None
        where it is lost, or was left behind by a request that was served without it."""
        folder = self.checkpoint().parent / (name if not self.ledger else f"references/{name}")
        return folder if (folder / MANIFEST).is_file() else None

    def cohort(self) -> Cohort:
        """The run's cohort, with the patients of served requests on the side 'forgotten'."""
        cohort = Run(self.folder, self.params).cohort()
        gone = cohort.table.patient_id.map(self.hashed).isin(self.served())
        there = gone & (cohort.table.split != DELETED)
        return replace(
            cohort, table=cohort.table.assign(split=cohort.table.split.where(~there, FORGOTTEN))
        )

    def hashed(self, patient: str) -> str:
        """A patient's id as ledger and reports show it."""
        return Run(self.folder, self.params).hashed(patient)

    def request(self, cohort: Cohort, patients: Path) -> Request:
        """The request in a forget CSV.

        Raises InputError where it names a patient whose request was served, and as `check_request`
        does.
        """
        if self.params.cohort.get("ids") == "hashed":
            cohort = replace(cohort, salt=run_salt(self.folder))
        request = Request(
            f"request-{len(self.ledger) + 1:03d}", cohort_ids(cohort, read_forget_csv(patients))
        )
        served = self.served()
        for number, patient in enumerate(request.patients, start=1):
            if entry := served.get(self.hashed(patient)):
                raise InputError(
                    f"{patients}: patient {self.hashed(patient)} ({number} of "
                    f"{len(request.patients)} named) was forgotten by request "
                    f"{entry['number']:03d} on {entry['served'][:10]}; a request is served once"
                )
        return check_request(cohort, request)


def profile_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Resolved params as a profile's file has them: the method inside its section."""
    sections = {name: values[name] for name in SECTIONS if name in values}
    return {**sections, "unlearning": {"method": values["method"], **values["unlearning"]}}
