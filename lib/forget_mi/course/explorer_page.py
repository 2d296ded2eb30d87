"""The explorer as a page of widgets."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from forget_mi.course.explorer import Explorer
from forget_mi.errors import InputError
from forget_mi.unlearning import SETTINGS, Weights

if TYPE_CHECKING:
    import ipywidgets

TITLES = {
    "report": "The report",
    "answers": "What the models say",
    "attack": "What an attacker sees",
    "neighbours": "Who lies nearest",
    "corrupted": "Forget-MI's target and losses",
}


def explorer_widgets(explorer: Explorer) -> ipywidgets.VBox:
    """The controls of an explorer and what they show."""
    import ipywidgets as w

    menu = w.Dropdown(
        options=explorer.patients, description="patient", layout={"width": "min(26em, 100%)"}
    )
    sliders = _sliders()
    parts = {name: w.HTML() for name in TITLES}

    def show_patient(_: object = None) -> None:
        patient = menu.value
        report = html.escape(explorer.report(patient))
        parts["report"].value = f"<pre style='white-space: pre-wrap'>{report}</pre>"
        for name, figure, alt in (
            ("answers", explorer.answers, "Radiographs of {} and what the models say"),
            ("attack", explorer.attack_position, "Where the attack puts {}"),
            ("neighbours", explorer.neighbours, "Nearest neighbours of {}"),
        ):
            draw(parts[name], partial(figure, patient), alt.format(patient))
        show_losses()

    def show_losses(_: object = None) -> None:
        sigma, text_noise, *weights = (slider.value for slider in sliders)
        figure = partial(explorer.corrupted, menu.value, sigma, text_noise, weights)
        draw(parts["corrupted"], figure, f"Corrupted copy and losses of {menu.value}")

    menu.observe(show_patient, names="value")
    for slider in sliders:
        slider.observe(show_losses, names="value")
    show_patient()
    rows = [menu]
    for name, title in TITLES.items():
        rows.append(w.HTML(f"<h3>{title}</h3>"))
        if name == "corrupted":
            rows.append(w.HBox(sliders, layout={"flex_flow": "row wrap"}))
        rows.append(parts[name])
    return w.VBox(rows)


def _sliders() -> list[ipywidgets.FloatSlider]:
    """Of the noise of images and reports, and of Forget-MI's four weights."""
    import ipywidgets as w

    sliders = [
        w.FloatSlider(0.3, min=0, max=1, step=0.05, description="image noise"),
        w.FloatSlider(0.5, min=0, max=1, step=0.1, description="report noise"),
    ]
    for name in Weights._fields:
        value = getattr(SETTINGS["multimodal"], name)
        label = f"weight {name.upper()}"
        sliders.append(w.FloatSlider(value, min=0, max=1, step=0.05, description=label))
    for slider in sliders:
        slider.continuous_update = False
    return sliders


def draw(place: ipywidgets.HTML, figure: Callable[[], Figure], alt: str) -> None:
    """Put a picture into a widget, or the sentence that says why there is none."""
    try:
        place.value = picture(figure(), alt)
    except InputError as error:
        place.value = html.escape(str(error))


def picture(figure: Figure, alt: str) -> str:
    """A figure as an HTML image that needs nothing else."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90)
    encoded = base64.b64encode(data.getvalue()).decode()
    return (
        f'<img alt="{html.escape(alt)}" style="max-width: 100%" '
        f'src="data:image/png;base64,{encoded}">'
    )
