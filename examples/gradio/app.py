"""Web page that generates digits, made with Gradio: `python app.py`."""

import gradio

import cvae

model = cvae.load()


def generate(label: str, seed: int) -> object:
    return model.generate(16, label=label, seed=seed).to_pil().resize((460, 460))


page = gradio.Interface(
    generate,
    [gradio.Radio(model.spec.classes, value="7", label="Digit"), gradio.Slider(0, 1000, step=1, label="Seed")],
    gradio.Image(generate("7", 0), format="png", show_label=False),
    live=True,
    flagging_mode="never",
    analytics_enabled=False,
)

if __name__ == "__main__":
    page.launch()
