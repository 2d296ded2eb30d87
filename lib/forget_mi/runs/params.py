"""The parameters of a run, checked."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from forget_mi.config import build, config
from forget_mi.data import RequestConfig, SplitConfig, cohort_settings
from forget_mi.errors import InputError
from forget_mi.evaluation import AuditConfig
from forget_mi.models import ModelConfig, model_config
from forget_mi.runs.project import ROOT
from forget_mi.training import DeviceConfig, ReferenceConfig, ShadowConfig, TrainingConfig

SECTIONS = (
    "seed",
    "cohort",
    "split",
    "request",
    "model",
    "training",
    "retrained",
    "references",
    "unlearning",
    "beside",
    "audit",
    "shadows",
    "device",
    "tuning",
    "sweep",
)
# Parameters of earlier versions, and the value at which they asked for what is done now: an old run
# folder is read.
REMOVED = {"keep_outputs": False, "training.keep": "last", "tuning.withheld": 0.1}
MODEL_PATHS = ("image_weights", "dual_encoder", "weights", "retrained_weights", "tokenizer")


@config
class SweepConfig:
    """approaches: methods, or method-setting where a method has settings; empty for all but
    retraining, which each run has anyway. fractions: sizes of the request, as shares of the
    training images. seeds: of split, request, training and unlearning; not those of tuning. u_lira:
    requests to each shadow model for the attack of that name, on the profile's own approach, in the
    audits of the largest request. beyond: seeds of the studies past the paper (make beyond), others
    than those on which its method was developed."""

    approaches: tuple[str, ...] = ()
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.03, 0.06, 0.1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    u_lira: Annotated[int, Field(ge=0, le=100)] = 0
    beyond: tuple[Annotated[int, Field(ge=0)], ...] = (3, 4, 5)

    def __post_init__(self):
        for name in ("fractions", "seeds", "beyond"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise InputError(
                    f"parameter sweep.{name} = {list(values)}: needs at least one value, each once"
                )


@config
class TuningConfig:
    """trials: of each method, the same for all. seeds, fractions: the splits and requests on which
    each trial is scored, never those that are reported. budget: the largest share of retraining's
    work that a trial may cost. watched: share of the retained patients on whom it is measured what
    becomes of those who stay.
    patience: trials before the median rule may cut one short. seed: of the search. start: the name
    of a file in params/tuned/, whose settings of a method are its second trial; the first takes the
    method's defaults."""

    trials: Annotated[int, Field(ge=1, le=10_000)] = 16
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (10, 11)
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.03)
    budget: Annotated[float, Field(gt=0, le=1)] = 0.14
    watched: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 5
    seed: Annotated[int, Field(ge=0)] = 0
    start: str | None = None


@dataclass(frozen=True)
class Params:
    """Every parameter of a run, checked.

    seed: of the split, the request, the training and the unlearning, unless their sections say
    otherwise. cohort: the settings of the source, with its name. retrained: how many models are
    retrained without the request; two or more show how far honest models lie apart, and 0 is what a
    real user has. references: models that teach some methods what a stranger looks like. shadows:
    the models that teach the attacks of the audit. method, unlearning: the unlearning method and
    its settings. beside: other approaches that notebook 03 runs as well, for comparison, with what
    was tuned for them where the method's own settings are tuned ones. tuning: how make tune chooses
    settings. sweep: what make sweep compares.
    """

    profile: str
    seed: int
    cohort: dict[str, Any]
    split: SplitConfig
    request: RequestConfig
    model: ModelConfig
    training: TrainingConfig
    retrained: int
    references: ReferenceConfig
    method: str
    unlearning: Any
    beside: tuple[str, ...]
    audit: AuditConfig
    shadows: ShadowConfig
    device: DeviceConfig
    tuning: TuningConfig
    sweep: SweepConfig

    def as_dict(self, *names: str) -> dict[str, Any]:
        """Plain values, JSON- and YAML-ready, of the named sections or of all."""
        names = names or tuple(self.__dataclass_fields__)
        return {name: to_plain(getattr(self, name)) for name in names}

    def to_yaml(self) -> str:
        """The resolved params as a YAML text."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False)


def to_plain(value: Any) -> Any:
    """A config, path or tuple as what JSON and YAML can hold."""
    if is_dataclass(value):
        return {name: to_plain(item) for name, item in asdict(value).items()}
    if isinstance(value, Mapping):
        return {name: to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def resolve(values: Mapping[str, Any], profile: str) -> Params:
    """Check a profile's mapping and fill in defaults. A section's seed defaults to the run's seed;
    the cohort's does not, so that runs with different seeds share their patients.

    Raises InputError that names the parameter, its value and what is allowed. The unlearning
    methods, whose import takes seconds, are checked last.
    """
    values = without_removed(values, profile)
    for name in values:
        if name not in SECTIONS:
            raise InputError(
                f"unknown section {name!r} in profile {profile}; allowed are {', '.join(SECTIONS)}"
            )
    seed = _whole_number(values.get("seed", 0), "seed", 0)
    request = resolve_paths(values.get("request"), "csv") or {"fraction": 0.1}
    checked = {
        "cohort": _cohort(values.get("cohort"), profile),
        "split": build(SplitConfig, {"seed": seed, **(values.get("split") or {})}, "split"),
        "request": build(RequestConfig, {"seed": seed, **request}, "request"),
        "model": model_config(resolve_paths(values.get("model"), *MODEL_PATHS)),
        "training": build(TrainingConfig, values.get("training"), "training"),
        "retrained": _whole_number(values.get("retrained", 2), "retrained", 0),
        "references": build(
            ReferenceConfig, {"seed": seed, **(values.get("references") or {})}, "references"
        ),
        "audit": build(AuditConfig, values.get("audit"), "audit"),
        "shadows": build(ShadowConfig, values.get("shadows"), "shadows"),
        "device": build(DeviceConfig, values.get("device"), "device"),
        "tuning": build(TuningConfig, values.get("tuning"), "tuning"),
        "sweep": build(SweepConfig, values.get("sweep"), "sweep"),
        "beside": _approaches(values.get("beside"), "beside"),
    }
    _approaches(list(checked["sweep"].approaches), "sweep.approaches")
    if checked["tuning"].start is not None:
        tuned_settings(checked["tuning"].start, "tuning.start")
    method, settings = _unlearning(values.get("unlearning"), checked["references"])
    return Params(profile=profile, seed=seed, method=method, unlearning=settings, **checked)


def _cohort(section: Any, profile: str) -> dict[str, Any]:
    """The source's name and its checked settings."""
    section = resolve_paths(section, "root", "reports")
    source = section.get("source")
    kind, _ = cohort_settings(source)
    needs_root = any(field.name == "root" and field.default is MISSING for field in fields(kind))
    if needs_root and section.get("root") is None:
        raise InputError(
            f"parameter cohort.root: profile {profile} needs the folder with its data: "
            "DATA=<folder> with make, --data <folder> on the command line, or cohort.root in the "
            "profile's file"
        )
    settings = build(
        kind, {name: value for name, value in section.items() if name != "source"}, "cohort"
    )
    return {"source": source, **to_plain(settings)}


def _unlearning(section: Any, references: ReferenceConfig) -> tuple[str, Any]:
    """The method and its checked settings."""
    from forget_mi.unlearning import get_method, needs_references

    method, values = unlearning_values(section)
    settings = build(get_method(method).Config, values, "unlearning")
    if references.folds == 0 and needs_references(method, getattr(settings, "setting", None)):
        raise InputError(
            f"parameter references.folds = 0: method {method} learns from reference models; at "
            "least 2 folds are needed"
        )
    return method, settings


def _approaches(names: Any, parameter: str) -> tuple[str, ...]:
    if names is None:
        return ()
    if not isinstance(names, list):
        raise InputError(f"parameter {parameter} = {names!r}: a list of approaches is allowed")
    if names:
        from forget_mi.unlearning import parse_approach

        for name in names:
            parse_approach(name)
    return tuple(names)


def without_removed(values: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """A copy without the parameters of earlier versions. Raises InputError where one asks for what
    is gone."""
    values = copy.deepcopy(dict(values))
    for name, allowed in REMOVED.items():
        *sections, last = name.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            continue
        if (value := section.pop(last)) != allowed:
            raise InputError(
                f"parameter {name} = {value!r} in profile {profile}: was removed (CHANGELOG.md); "
                "delete the line"
            )
    return values


def _whole_number(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"parameter {name} = {value!r}: a whole number of at least {least} is allowed"
        )
    return value


def resolve_paths(section: Mapping[str, Any] | None, *names: str) -> dict[str, Any]:
    """A section whose paths `names`, if relative, are taken from the project's folder: notebooks
    run in another one. What a package carries ('package:NAME') stays as it is."""
    section = dict(section or {})
    for name in names:
        value = section.get(name)
        if isinstance(value, (list, tuple)):
            section[name] = [str(ROOT / each) for each in value]
        elif isinstance(value, (str, Path)) and not str(value).startswith("package:"):
            section[name] = str(ROOT / value)
    return section


def unlearning_values(section: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """The method and its settings as a profile's section `unlearning` gives them.

    tuned: the name of a file in params/tuned/, from which the settings that make tune chose for
    this approach are taken; what the section itself says goes before them.
    """
    from forget_mi.unlearning import get_method  # imports torch: see `resolve`

    values = {"method": "forget_mi", **(section or {})}
    method, tuned = values.pop("method"), values.pop("tuned", None)
    if tuned is None:
        return method, values
    known = tuned_settings(tuned)
    default = getattr(get_method(method).Config(), "setting", "")
    setting = values.get("setting", default)
    return method, {**known.get(f"{method}-{setting}" if setting else method, {}), **values}


def tuned_settings(name: str, parameter: str = "unlearning.tuned") -> dict[str, dict[str, Any]]:
    """The settings of each approach in params/tuned/<name>.yaml. parameter: whose value the name
    is. Raises InputError where there is no such file."""
    path = ROOT / "params" / "tuned" / f"{name}.yaml"
    if not path.is_file():
        files = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise InputError(
            f"parameter {parameter} = {name!r}: there is no {path}; known: {', '.join(files)}"
        )
    return yaml.safe_load(path.read_text()) or {}


def approach_overrides(approach: str, tuned: str | None) -> dict[str, Any]:
    """What a run overrides to use an approach, with what was tuned for it in
    params/tuned/<tuned>.yaml."""
    from forget_mi.unlearning import parse_approach  # imports torch: see `resolve`

    method, setting = parse_approach(approach)
    section = {"method": method, "setting": setting, "tuned": tuned}
    return {"unlearning": {key: value for key, value in section.items() if value is not None}}
