"""`cvae reconstruct` and `cvae restyle`: the images that they write, compared with torch."""

import numpy as np
import pytest
from cli_helpers import DIGITS, in_torch, originals, panels, panels_show
from PIL import Image

import cvae as package


def test_restyle_keeps_the_code_and_changes_the_label(cvae, trained, image_files):
    run, (a, b) = trained["labels"], image_files
    facts = cvae("restyle", a, b, "--model", run, "--digit", 4, "--to", 7, "--to", 9, "--json").facts
    assert (facts["labels"], facts["to"]) == (["4", "4"], ["7", "9"])
    code = in_torch(run, "encode", originals(image_files), [4, 4])
    restyled = [in_torch(run, "decode", code, [label, label]) for label in (7, 9)]
    assert panels_show(panels("restyled.png", 2, 3), np.concatenate([originals(image_files), *restyled]))


def test_restyle_without_labels_infers_the_label_and_writes_every_class(cvae, trained, image_files):
    run, (a, _) = trained["labels"], image_files
    result = cvae("restyle", a, "--model", run)
    assert result.code == 0 and f"{a}: no label given" in result.err
    actual = panels("restyled.png", 11, 1)  # beside each other, for one picture
    best = cvae("reconstruct", a, "--model", run, "--json").facts["labels"]
    code = in_torch(run, "encode", originals(image_files)[:1], [int(best[0])])
    assert panels_show(actual[1:], in_torch(run, "decode", np.repeat(code, 10, axis=0), DIGITS))


@pytest.mark.parametrize(("kind", "flags", "labels"), [("plain", [], None), ("labels", ["--digit", "4"], [4, 4])])
def test_reconstruct_writes_originals_above_reconstructions_of_torch(cvae, trained, image_files, kind, flags, labels):
    facts = cvae("reconstruct", *image_files, "--model", trained[kind], *flags, "--json").facts
    images = originals(image_files)
    again = in_torch(trained[kind], "decode", in_torch(trained[kind], "encode", images, labels), labels)
    assert panels_show(panels("reconstruction.png", 2, 2), np.concatenate([images, again]))
    assert facts["labels"] == (labels and ["4", "4"])
    assert facts["mean_squared_error"] == pytest.approx(((again - images) ** 2).mean(axis=(1, 2, 3)), abs=2e-6)


def test_reconstruct_without_label_uses_and_reports_the_best_label(cvae, trained, image_files):
    result = cvae("reconstruct", *image_files, "-m", trained["labels"], "--json")
    images, model = originals(image_files), package.load(trained["labels"])
    nats = []
    for k in DIGITS:
        again = in_torch(trained["labels"], "decode", in_torch(trained["labels"], "encode", images, [k, k]), [k, k])
        mean, std = model.encode(images, k)
        rate = 0.5 * (mean**2 + std**2 - 1) - np.log(std)
        nats.append(((again - images) ** 2).sum(axis=(1, 2, 3)) / (2 * model.spec.sigma**2) + rate.sum(1))
    best = [str(k) for k in np.argmin(nats, axis=0)]
    assert result.facts["labels"] == best
    assert all(
        f"{path}: no label given; '{label}'" in result.err for path, label in zip(image_files, best, strict=True)
    )


@pytest.mark.parametrize(
    "command",
    [
        "reconstruct {picture} -m {model}",
        "restyle {picture} --digit 4 -m {model}",
        "interpolate {model} --from {picture} --digit 4",
        "plot traverse {model} --image {picture} --label 4",
    ],
)
def test_command_reports_image_that_it_resizes(cvae, trained, image_files, command):
    Image.new("L", (20, 30), 100).save("large.png")
    Image.new("RGB", (8, 8), "red").save("red.png")
    for name, words in {
        "large.png": "20x30 pixels",
        "red.png": "8x8 pixels in colour",
        str(image_files[0]): None,
    }.items():
        result = cvae(*command.format(picture=name, model=trained["labels"]).split())
        assert result.code == 0
        message = f"'{name}' has {words}, but the model takes 8x8 in grey; the image is converted to fit"
        assert (message in result.err) if words else "converted to fit" not in result.err
