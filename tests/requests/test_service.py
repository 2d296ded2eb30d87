"""The service: what it takes, refuses, and keeps whatever happens; the ledger's chain."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forget_mi.cli import main
from forget_mi.data import read_forget_csv
from forget_mi.errors import InputError
from forget_mi.models import WEIGHTS
from forget_mi.requests.ledger import ledger_path, ledger_problems
from forget_mi.requests.served_model import ServedModel
from forget_mi.requests.service import Service
from forget_mi.runs.chain import NotebookError, run_chain
from forget_mi.runs.policies import POLICIES, QUICK

START = datetime(2026, 1, 5, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service") / "tiny"
    run_chain("tiny", folder, notebooks=["01_cohort", "02_train"], progress=False)
    return folder


@pytest.fixture
def model(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "model"))


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def patients(trained):
    cohort = ServedModel(trained).cohort()
    return cohort.table.patient_id[cohort.table.split == "train"].unique().tolist()


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


def quick_serve(model, patients, overrides, pause=0.0):
    """What `serve` leaves in the ledger, without a model."""
    served = ServedModel(model)
    request = served.request(served.cohort(), patients)
    time.sleep(pause)
    number = len(served.ledger) + 1
    served.add(
        {
            "number": number,
            "served": "",
            "patients": sorted(map(served.hashed, request.patients)),
            "approach": "made up",
            "checkpoint": "02_train/original",
        }
    )
    time.sleep(pause)
    return model / "requests" / f"{number:03d}"


def drop(inbox, name, ids, age=0.0):
    path = inbox / name
    pd.DataFrame({"subject_id": ids}).to_csv(path, index=False)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def service(model, inbox, policy="at_once", clock=None, serve=quick_serve) -> Service:
    return Service(model, inbox, policy, clock=clock or Clock(), serve=serve)


def reasons(inbox) -> dict[str, str]:
    found = sorted((inbox / "refused").glob("*.reason.txt"))
    return {path.name.removesuffix(".reason.txt"): path.read_text() for path in found}


def served(model) -> list[list[str]]:
    return [entry["patients"] for entry in ServedModel(model).ledger]


def test_requests_are_taken_once_each_in_order(model, inbox, patients):
    hashed = ServedModel(model).hashed
    drop(inbox, "b.csv", patients[:2], age=10)
    drop(inbox, "a.csv", patients[2:3], age=5)
    service(model, inbox).run(once=True)
    assert served(model) == [sorted(map(hashed, patients[:2])), [hashed(patients[2])]]
    assert not list(inbox.glob("*.csv"))
    assert not list((model / "requests" / "queue").iterdir())
    service(model, inbox).run(once=True)
    assert len(served(model)) == 2


def test_a_weekly_queue_waits_and_urgent_requests_do_not(model, inbox, patients):
    clock, hashed = Clock(), ServedModel(model).hashed
    drop(inbox, "one.csv", patients[:1])
    here = service(model, inbox, "weekly", clock)
    here.run(once=True)
    assert served(model) == []
    clock.now += timedelta(days=3)
    drop(inbox, "two.csv", patients[1:2])
    drop(inbox, "urgent-three.csv", patients[2:3])
    here.run(once=True)
    assert served(model) == [[hashed(patients[2])]]
    status = json.loads((model / "requests" / "status.json").read_text())
    assert status["next_due"] == (START + timedelta(days=7)).isoformat()
    assert [item["number"] for item in status["waiting"]] == [1, 2]
    clock.now += timedelta(days=4)
    here.run(once=True)
    assert served(model)[1:] == [sorted(map(hashed, patients[:2]))]


def test_a_clock_that_goes_back_delays_nothing_twice(model, inbox, patients):
    clock = Clock()
    drop(inbox, "one.csv", patients[:1])
    here = service(model, inbox, "weekly", clock)
    here.run(once=True)
    clock.now -= timedelta(days=400)
    drop(inbox, "two.csv", patients[1:2])
    here.run(once=True)
    received = [item["received"] for item in here._state()["items"]]
    assert received == [START.isoformat()] * 2
    clock.now = START + timedelta(days=7)
    here.run(once=True)
    assert len(served(model)) == 1


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (["nobody"], "nobody"),
        ([], "it names no patient"),
        ([f"p{i}" for i in range(100_000)], "names 100000 patients, more than 10000"),
    ],
)
def test_what_cannot_be_served_is_moved_aside_with_a_reason(ids, reason, model, inbox, patients):
    drop(inbox, "bad.csv", ids, age=9)
    drop(inbox, "good.csv", patients[:1])
    service(model, inbox).run(once=True)
    said = reasons(inbox)["bad.csv"]
    assert reason in said
    assert said.count("\n") == 1
    assert (inbox / "refused" / "bad.csv").is_file()
    assert len(served(model)) == 1
    status = json.loads((model / "requests" / "status.json").read_text())
    assert [item["file"] for item in status["refused"]] == ["bad.csv"]


def test_a_patient_who_waits_or_was_served_is_refused(model, inbox, patients):
    clock = Clock()
    drop(inbox, "one.csv", patients[:2], age=5)
    drop(inbox, "two.csv", patients[1:3])
    here = service(model, inbox, "monthly", clock)
    here.run(once=True)
    assert "already waits, named by one.csv" in reasons(inbox)["two.csv"]
    clock.now += timedelta(days=31)
    here.run(once=True)
    drop(inbox, "one.csv", patients[:2])  # the same file once more
    here.run(once=True)
    assert "was forgotten by request 001" in reasons(inbox)["one.csv"]
    assert len(served(model)) == 1


def test_a_file_that_is_being_written_is_left_for_the_next_round(
    model, inbox, patients, monkeypatch
):
    path = drop(inbox, "one.csv", patients[:1])
    plain = Path.read_bytes

    def while_it_grows(self):
        content = plain(self)
        if self == path:
            with open(path, "a") as file:
                file.write(f"{patients[1]}\n")
        return content

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", while_it_grows)
        service(model, inbox).run(once=True)
    assert served(model) == []
    service(model, inbox).run(once=True)
    assert [len(one) for one in served(model)] == [2]


def test_an_inbox_that_is_gone_is_said_in_a_line(model, inbox):
    inbox.rmdir()
    with pytest.raises(InputError, match=r"inbox .*inbox: can't be read \(No such file"):
        service(model, inbox).run(once=True)
    with pytest.raises(InputError, match="policy 'daily': allowed are at_once, weekly, monthly"):
        service(model, inbox, "daily")


def test_a_second_service_says_who_holds_the_model(model, inbox, patients):
    first = service(model, inbox)
    who = f"is served by process {os.getpid()} on .*--wait"
    with first._lock(wait=False), pytest.raises(InputError, match=who):
        service(model, inbox).run(once=True)
    service(model, inbox).run(once=True)


@pytest.mark.parametrize("error", [InputError, NotebookError])
def test_a_request_that_fails_stays_in_the_queue_and_the_status_says_so(
    model, inbox, patients, error
):
    def full(*_):
        raise error("the disk is full")

    drop(inbox, "one.csv", patients[:1])
    with pytest.raises(InputError, match="the disk is full"):
        service(model, inbox, serve=full).run(once=True)
    status = json.loads((model / "requests" / "status.json").read_text())
    assert status["trouble"] == "request not served: the disk is full"
    assert len(status["waiting"]) == 1
    service(model, inbox).run(once=True)
    assert len(served(model)) == 1


def test_the_status_page_shows_hashed_ids_only(model, inbox, patients, chromium):
    drop(inbox, "one.csv", patients[:1], age=1)
    drop(inbox, "two.csv", ["nobody"])
    service(model, inbox).run(once=True)
    page = chromium.new_page()
    page.goto((model / "requests" / "status.html").as_uri())
    text = page.inner_text("body")
    assert ServedModel(model).hashed(patients[0]) in text
    assert patients[0] not in page.content()
    assert "Served (1)" in text
    assert "Refused (1)" in text
    page.close()


# ---- killed at any moment ------------------------------------------------------------------------


def in_child(work) -> int:
    """The process id of a child that does the work and ends."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_killed_at_random_moments_nothing_is_lost_and_nothing_served_twice(
    model, inbox, patients, tmp_path
):
    """A hundred times kill -9 while requests of one patient are taken and served."""
    count = min(30, len(patients) - 8)
    undisturbed = Path(shutil.copytree(model, tmp_path / "undisturbed"))
    for number in range(count):
        drop(inbox, f"{number:02d}.csv", [patients[number]], age=100 - number)
    calm = Path(shutil.copytree(inbox, tmp_path / "calm"))
    service(undisturbed, calm).run(once=True)

    rng = random.Random(0)

    def work():
        def slow(*request):
            return quick_serve(*request, pause=0.02)

        service(model, inbox, serve=slow).run(once=True)

    for _ in range(100):
        child = in_child(work)
        time.sleep(rng.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    service(model, inbox).run(once=True)
    assert served(model) == served(undisturbed)
    assert len(served(model)) == count
    assert ledger_problems(model) == []
    assert not list(inbox.glob("*.csv"))
    assert not list((model / "requests" / "queue").glob("[0-9]*.csv"))
    assert not reasons(inbox)


def stop_of(here: Service) -> str:
    """Why a service stopped; empty where it did all it had to."""
    try:
        here.run(once=True)
    except InputError as error:
        return str(error)
    return ""


def test_twenty_times_a_full_disk_nothing_is_lost(model, inbox, patients, tmp_path, monkeypatch):
    """The disk is full at a write drawn at random; then there is room again."""
    import errno

    from forget_mi import files

    count = 12
    for number in range(count):
        drop(inbox, f"{number:02d}.csv", [patients[number]], age=100 - number)
    rng, plain, stopped = random.Random(1), os.replace, 0
    for _ in range(20):
        left = rng.randrange(1, 12)

        def full(*paths):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[1]))
            plain(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", full)
            said = stop_of(service(model, inbox))
            stopped += "No space left on device" in said
    assert stopped > 5
    service(model, inbox).run(once=True)
    assert len(served(model)) == count
    assert len({one for entry in served(model) for one in entry}) == count
    assert ledger_problems(model) == []
    assert not list(inbox.glob("*.csv"))


# ---- the ledger ----------------------------------------------------------------------------------


@pytest.fixture
def kept(model, inbox, patients):
    """A model with five lines in its ledger."""
    for number in range(5):
        drop(inbox, f"{number}.csv", [patients[number]], age=100 - number)
    service(model, inbox).run(once=True)
    assert ledger_problems(model) == []
    return model


def rewritten(model, change) -> list[str]:
    path = ledger_path(model)
    before = path.read_text()
    entries = json.loads(before)["requests"]
    path.write_text(json.dumps({"requests": change(entries)}))
    found = ledger_problems(model)
    path.write_text(before)
    return found


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 4), field=st.sampled_from(["patients", "served", "approach", "number"]))
def test_a_changed_line_is_named(place, field, kept):
    def change(entries):
        entries[place][field] = "something else"
        return entries

    assert any(said.startswith(f"line {place + 1} ") for said in rewritten(kept, change))


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(5)))
def test_another_order_is_found(order, kept):
    found = rewritten(kept, lambda entries: [entries[i] for i in order])
    assert bool(found) == (list(order) != list(range(5)))


def test_a_dropped_line_is_found(kept):
    gone = rewritten(kept, lambda entries: entries[:2] + entries[3:])
    assert gone == ["line 3 (request 4): the one before it is gone"]
    (kept / "requests" / "005").mkdir()
    (kept / "requests" / "005" / "report.json").write_text("{}")
    assert rewritten(kept, lambda entries: entries[:4]) == ["request 5: has a report and no line"]


def test_a_ledger_of_another_model_is_found(kept):
    manifest = kept / "02_train" / "original" / "manifest.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {"weights_sha256": "0" * 64}))
    assert ledger_problems(kept) == ["line 1 (request 1): is of another model"]


def test_a_changed_line_with_a_new_hash_breaks_the_next_link(kept):
    from forget_mi.requests.ledger import entry_hash

    def change(entries):
        entries[1]["approach"] = "another"
        entries[1]["hash"] = entry_hash(entries[1])
        return entries

    assert rewritten(kept, change) == ["line 3 (request 3): the one before it is gone"]


def test_a_ledger_from_before_the_chain_goes_on(kept, inbox, patients):
    path = ledger_path(kept)
    entries = json.loads(path.read_text())["requests"][:2]
    plain = [{k: v for k, v in e.items() if k not in ("hash", "previous")} for e in entries]
    path.write_text(json.dumps({"requests": plain}))
    drop(inbox, "more.csv", patients[6:7])
    service(kept, inbox).run(once=True)
    assert len(served(kept)) == 3
    assert ledger_problems(kept) == [
        f"line {n}: has no hash; an earlier version wrote it" for n in (1, 2)
    ]


def test_verify_ledger_says_what_is_wrong_and_fails(kept, capsys):
    assert main(["verify-ledger", str(kept)]) == 0
    assert "5 lines, each follows the one before" in capsys.readouterr().out
    path = ledger_path(kept)
    path.write_text(path.read_text().replace("made up", "made down", 1))
    assert main(["verify-ledger", str(kept)]) == 1
    assert "line 1 (request 1): was changed" in capsys.readouterr().out


def test_a_forget_csv_of_the_queue_names_everybody_once(model, inbox, patients):
    seen = []

    def watching(model, path, overrides):
        seen.append(read_forget_csv(path))
        return quick_serve(model, path, overrides)

    clock = Clock()
    drop(inbox, "one.csv", patients[:2], age=2)
    # The ids need not stand in the first column.
    pd.DataFrame({"note": "x", "patient_id": patients[2:3]}).to_csv(inbox / "two.csv", index=False)
    here = service(model, inbox, "weekly", clock, watching)
    here.run(once=True)
    clock.now += timedelta(days=8)
    here.run(once=True)
    assert seen == [patients[:3]]


# ---- policies that retrain -----------------------------------------------------------------------


def quick_retrain(model):
    """What `retrain` leaves in the ledger, without a model."""
    served = ServedModel(model)
    number = len(served.ledger) + 1
    served.add({"number": number, "served": "", "patients": [], "approach": "retrain",
                "checkpoint": "02_train/original"})  # fmt: skip
    return model / "requests" / f"{number:03d}"


def retraining_service(model, inbox, policy, clock, serve=quick_serve) -> Service:
    here = service(model, inbox, policy, clock, serve)
    here.retrain = quick_retrain
    return here


def approaches_in(model) -> list[str]:
    return [entry["approach"] for entry in ServedModel(model).ledger]


def test_a_quarterly_policy_retrains_once_a_quarter_and_only_after_requests(model, inbox, patients):
    clock = Clock()
    here = retraining_service(model, inbox, "at_once-quarterly", clock)
    here.run(once=True)
    clock.now += timedelta(days=92)
    here.run(once=True)
    assert approaches_in(model) == []  # nobody was served
    drop(inbox, "one.csv", patients[:1])
    here.run(once=True)
    assert approaches_in(model) == ["made up", "retrain"]
    clock.now += timedelta(days=10)
    drop(inbox, "two.csv", patients[1:2])
    here.run(once=True)
    here.run(once=True)
    assert approaches_in(model) == ["made up", "retrain", "made up"]
    clock.now += timedelta(days=91)
    here.run(once=True)
    here.run(once=True)
    assert approaches_in(model) == ["made up", "retrain", "made up", "retrain"]


def quick_together(seen):
    """What `serve_together` leaves in the ledger, without a model."""

    def serve_together(model, overrides, afresh):
        served = ServedModel(model)
        since = served.trained_since() if afresh else served.alone_since()
        alone = served.ledger[since:]
        number = len(served.ledger) + 1
        seen.append(([entry["number"] for entry in alone], overrides))
        served.add({"number": number, "served": "", "approach": "together",
                    "patients": sorted(p for entry in alone for p in entry["patients"]),
                    "again": seen[-1][0], "checkpoint": "02_train/original"})  # fmt: skip
        return model / "requests" / f"{number:03d}"

    return serve_together


def test_requests_are_served_at_once_and_together_at_the_end_of_the_month(model, inbox, patients):
    alone, together, clock = [], [], Clock()

    def watching(model, patients, overrides):
        alone.append(overrides)
        return quick_serve(model, patients, overrides)

    here = service(model, inbox, "at_once-together", clock, watching)
    here.overrides = {"audit.draws": 50}
    here.serve_together = quick_together(together)
    here.run(once=True)
    for number in range(3):
        clock.now += timedelta(days=12)
        drop(inbox, f"{number}.csv", patients[number : number + 1])
        here.run(once=True)
        here.run(once=True)
    # The month ended on day 30, after the first two and the third had not come.
    few = {f"unlearning.{name}": value for name, value in QUICK.items()}
    assert alone == [few | {"audit.draws": 50}] * 3
    assert approaches_in(model) == ["made up", "made up", "made up", "together"]
    assert together == [([1, 2, 3], {"audit.draws": 50})]
    clock.now += timedelta(days=60)
    here.run(once=True)
    assert len(together) == 1  # nobody was served since
    drop(inbox, "late.csv", patients[3:4])
    here.run(once=True)
    clock.now += timedelta(days=31)
    here.run(once=True)
    assert [numbers for numbers, _ in together] == [[1, 2, 3], [5]]
    assert ledger_problems(model) == []


AFRESH = POLICIES["at_once-together-afresh"]


def test_requests_are_served_afresh_each_month_until_the_model_is_retrained(
    model, inbox, patients, monkeypatch
):
    together, clock = [], Clock()
    monkeypatch.setitem(POLICIES, "made-up", replace(AFRESH, retrain="quarterly"))
    here = retraining_service(model, inbox, "made-up", clock)
    here.serve_together = quick_together(together)
    here.run(once=True)
    letters = iter(patients)
    for days, comes in ((12, True), (19, False), (9, True), (22, False), (38, True), (10, True),
                        (15, False)):  # fmt: skip
        clock.now += timedelta(days=days)
        if comes:
            drop(inbox, f"{days}.csv", [next(letters)])
        here.run(once=True)
    # 2, 4 and 8 stand for others; 6 is the retraining: nobody before it is served again.
    assert [numbers for numbers, _ in together] == [[1], [1, 2, 3], [7]]
    assert approaches_in(model)[5] == "retrain"


def test_a_queue_is_served_afresh_as_long_as_the_trained_model_is_there(model, inbox, patients):
    here = service(model, inbox, "at_once-afresh")
    afresh = []

    def watching(model, patients, overrides):
        afresh.append(len(ServedModel(model).ledger))
        return quick_serve(model, patients, overrides)

    here.serve_afresh = watching
    for number in range(2):
        drop(inbox, f"{number}.csv", patients[number : number + 1])
        here.run(once=True)
    assert afresh == [0, 1]
    (model / "02_train" / "original" / WEIGHTS).unlink()
    drop(inbox, "2.csv", patients[2:3])
    here.run(once=True)
    assert len(served(model)) == 3  # by itself: a request does not wait for what is gone
    assert afresh == [0, 1]
    status = json.loads((model / "requests" / "status.json").read_text())
    assert "as it was trained was destroyed" in status["trouble"]


def test_what_cannot_be_served_together_any_more_stands_in_the_status(model, inbox, patients):
    clock = Clock()
    here = service(model, inbox, "at_once-together", clock)

    def destroyed(model, overrides, afresh):
        raise InputError("02_train/original: this model was destroyed")

    here.serve_together = destroyed
    drop(inbox, "one.csv", patients[:1])
    here.run(once=True)
    clock.now += timedelta(days=31)
    drop(inbox, "two.csv", patients[1:2])
    here.run(once=True)
    assert len(served(model)) == 2  # the queue goes on
    status = json.loads((model / "requests" / "status.json").read_text())
    assert "not served together: 02_train/original: this model was destroyed" in status["trouble"]


def test_an_alarm_policy_without_a_calibrated_alarm_is_refused(model, inbox):
    with pytest.raises(InputError, match="at_once-alarm: no alarm is calibrated for profile tiny"):
        service(model, inbox, "at_once-alarm")


def test_killed_right_after_a_retraining_the_quarter_is_not_retrained_again(model, inbox, patients):
    clock = Clock()
    here = retraining_service(model, inbox, "at_once-quarterly", clock)
    drop(inbox, "one.csv", patients[:1])
    here.run(once=True)
    clock.now += timedelta(days=92)

    def killed(model):
        quick_retrain(model)
        raise KeyboardInterrupt

    here.retrain = killed
    with pytest.raises(KeyboardInterrupt):
        here.run(once=True)
    again = retraining_service(model, inbox, "at_once-quarterly", clock)
    drop(inbox, "two.csv", patients[1:2])
    again.run(once=True)
    assert approaches_in(model) == ["made up", "retrain", "made up"]


def test_an_alarm_policy_retrains_when_the_ledger_says_so(model, inbox, patients, monkeypatch):
    monkeypatch.setattr("forget_mi.requests.service.load_alarm", lambda _: "calibrated")
    worn = iter([False, True, False])

    def serve_with_alarm(model, patients, overrides):
        folder = quick_serve(model, patients, overrides)
        entries = ServedModel(model).ledger
        path = model / "requests" / "ledger.json"
        last = {k: v for k, v in entries[-1].items() if k not in ("hash", "previous")}
        path.write_text(json.dumps({"requests": entries[:-1]}))
        due = next(worn)
        ServedModel(model).add(last | {"wear": {"retrain": due, "in_words": f"due: {due}"}})
        return folder

    here = retraining_service(model, inbox, "at_once-alarm", Clock(), serve_with_alarm)
    for number in range(3):
        drop(inbox, f"{number}.csv", patients[number : number + 1])
        here.run(once=True)
    assert approaches_in(model) == ["made up", "made up", "retrain", "made up"]
    status = json.loads((model / "requests" / "status.json").read_text())
    assert status["alarm"]["in_words"] == "due: False"
    assert ledger_problems(model) == []


def test_a_policy_may_retrain_instead_of_unlearning(model, inbox, patients):
    seen = []

    def watching(model, patients, overrides):
        seen.append(overrides)
        return quick_serve(model, patients, overrides)

    clock = Clock()
    here = retraining_service(model, inbox, "retrain_monthly", clock, watching)
    drop(inbox, "urgent-one.csv", patients[:1])
    here.run(once=True)
    assert seen == []  # not even an urgent one pays for a training
    clock.now += timedelta(days=31)
    here.run(once=True)
    assert seen == [{"unlearning": {"method": "retrain"}}]
