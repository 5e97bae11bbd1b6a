"""Web page that generates images, made with Gradio: `python app.py`.

CVAE_MODEL is a run folder, an exported file, a zoo model or hf://owner/name. By default, it is the zoo's default model.
"""

import os

import gradio

import cvae
from cvae import imaging
from cvae.conditions import Condition
from cvae.runtime.array import Images

model = cvae.load(os.environ.get("CVAE_MODEL"))
conditions = model.spec.conditions


def make_control(condition: Condition) -> gradio.components.Component:
    """Return a control for a condition. The choice "any" and an empty number stand for an unknown value."""
    label, choices = f"{condition.name}: {condition.describe()}", [*condition.values, *["any"] * condition.optional]
    if condition.kind == "number":
        return gradio.Number(label=label, minimum=condition.low, maximum=condition.high)
    if condition.kind == "category":
        return gradio.Dropdown(choices, value="any" if condition.optional else choices[0], label=label)
    if len(condition.values) == 1:
        return gradio.Radio(["yes", "no", "any"], value="any", label=label)
    return gradio.CheckboxGroup(choices, value=["any"], label=label)


def to_value(choice: object) -> object:
    if isinstance(choice, list):  # names of attributes
        return None if "any" in choice else ",".join(choice) or "none"
    return None if choice == "any" else choice


def generate(*inputs: object) -> Images:
    """Return 16 images, given a choice for each condition and a seed."""
    *choices, seed = inputs
    values = {condition.name: to_value(choice) for condition, choice in zip(conditions, choices, strict=True)}
    try:
        return model.generate(16, seed=seed, **values)
    except cvae.UsageError as error:
        raise gradio.Error(str(error)) from error


def draw(*inputs: object) -> object:
    return imaging.enlarge(generate(*inputs).to_pil())


controls = [*map(make_control, conditions), gradio.Slider(0, 1000, step=1, label="Seed")]
page = gradio.Interface(
    draw,
    controls,
    gradio.Image(draw(*[control.value for control in controls]), format="png", show_label=False),
    live=True,
    flagging_mode="never",
    analytics_enabled=False,
)

if __name__ == "__main__":
    page.launch()
