"""Choice of classes by names, lists and ranges."""

import pytest

from cvae.api.classes import choose_class, choose_classes, choose_image_classes
from cvae.conditions import label_condition
from cvae.errors import UsageError
from cvae.spec import Spec

DIGITS, WORDS, WITH_SEPARATORS = (
    tuple("0123456789"),
    ("hatchback", "sedan", "sports-car", "suv"),
    ("a,b", "3-4", "3", "4", "x-y"),
)
UNSORTED, SIGNED = ("7", "10", "2", "3"), ("-5", "-2", "0", "1.5")


def spec(classes: tuple[str, ...] | None) -> Spec:
    return Spec(
        role="decoder", name="cars", architecture="mlp", image_shape=(1, 8, 8), latent_dim=2,
        conditions=label_condition(classes),
        likelihood="bernoulli", prior="normal", data="folder", data_license="free", weights="0" * 64,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "label", "names"),
    [
        (DIGITS, "3", ["3"]),
        (DIGITS, 3, ["3"]),
        (DIGITS, ["3", "4"], ["3", "4"]),
        (DIGITS, "3,4", ["3", "4"]),
        (DIGITS, "0-9", list(DIGITS)),
        (DIGITS, ["0-2", "7, 9"], ["0", "1", "2", "7", "9"]),
        (DIGITS, "5-3", ["5", "4", "3"]),
        (DIGITS, "3,3", ["3", "3"]),
        (UNSORTED, "2-7", ["2", "3", "7"]),  # a range follows the numbers, not the order of the names
        (SIGNED, "-5--2", ["-5", "-2"]),
        (SIGNED, "-2-2", None),
        (SIGNED, "-2-1.5", ["-2", "0", "1.5"]),
        (WORDS, "sedan-suv", ["sedan", "sports-car", "suv"]),
        (WORDS, "sports-car", ["sports-car"]),
        (WORDS, "hatchback-sports-car", ["hatchback", "sedan", "sports-car"]),
        (WORDS, "suv,1", ["suv", "sedan"]),  # no name is a number, so 1 is an index
        (WORDS, "0-2", ["hatchback", "sedan", "sports-car"]),
        (WITH_SEPARATORS, "a,b", ["a,b"]),  # a value that is a class name stands for this class
        (WITH_SEPARATORS, "3-4", ["3-4"]),
        (WITH_SEPARATORS, "3,4", ["3", "4"]),
        (WITH_SEPARATORS, "3-x-y", ["3", "4", "x-y"]),
    ],
    ids=str,
)
def test_names_lists_and_ranges_choose_classes(classes, label, names):
    if names is None:
        with pytest.raises(UsageError, match="no label"):
            choose_classes(spec(classes), label=label)
    else:
        assert choose_classes(spec(classes), label=label) == [classes.index(name) for name in names]


@pytest.mark.parametrize(
    ("value", "indices"), [(2, [2]), ("2", [2]), ("0,3", [0, 3]), ("1-3", [1, 2, 3]), (["3", "1-0"], [3, 1, 0])]
)
def test_indices_can_be_lists_and_ranges(value, indices):
    assert choose_classes(spec(WORDS), label_index=value) == indices


@pytest.mark.parametrize(
    ("classes", "flags", "words"),
    [
        (DIGITS, {"label": "3-12"}, "no label '12'"),
        (DIGITS, {"label": "12-3"}, "no label '12'"),
        (DIGITS, {"label": "3,12"}, "no label '12'"),
        (DIGITS, {"label": "-1"}, "no label '-1'"),
        (DIGITS, {"label": "3,"}, "no label ''"),
        (WORDS, {"label": "sedann-suv"}, "no label 'sedann'"),
        (
            WORDS,
            {"label": "Hatchbak"},
            r"no label 'Hatchbak' \(did you mean 'hatchback'\?\); its classes",
        ),
        (WORDS, {"label": "x-y"}, "no label 'x-y'"),
        (WORDS, {"label_index": "0-4"}, "index 4; its classes are 0..3"),
        (WORDS, {"label_index": "-1"}, "index -1"),
        (WORDS, {"label_index": "x"}, "class index 'x': it must be an integer, a list such as 0,2, or a range"),
        (DIGITS, {"label": "3,4", "digit": "3"}, "--label '3,4' and --digit '3' contradict each other; pass only one"),
        (DIGITS, {"label": "1", "label_index": "2"}, "--label '1' and --label-index 2 contradict"),
        (WORDS, {"digit": "1"}, "--digit '1': the classes of 'cars' are not digits but hatchback, .*--label hatchback"),
        (WORDS, {"digit": "suv"}, "are not digits"),
        (None, {"digit": "7"}, "without labels, so it does not accept --digit '7'; .*-m mnist-resnet-conditional"),
        (None, {"label": "3,4"}, "without labels, so it does not accept label '3,4'"),
        (None, {"label_index": 1}, "without labels"),
    ],
    ids=str,
)
def test_invalid_class_is_rejected_in_one_line(classes, flags, words):
    with pytest.raises(UsageError, match=words) as caught:
        choose_classes(spec(classes), **flags)
    assert "\n" not in str(caught.value)


def test_images_share_one_class_or_have_one_each():
    digits = spec(DIGITS)
    assert choose_class(digits, label="7", digit=["7"]) == 7 and choose_class(digits, label=None) is None
    with pytest.raises(UsageError, match=r"^--label '3-5': 3 classes, but only one is allowed; pass a single class$"):
        choose_class(digits, label=["3-5"])
    assert choose_image_classes(digits, 3, label="7") == [7] * 3
    assert choose_image_classes(digits, 2, label=["7", "1"]) == [7, 1] and choose_image_classes(digits, 2) is None
    with pytest.raises(UsageError, match=r"^--digit '3,4': 2 classes for 3 images; give one class for all images, or"):
        choose_image_classes(digits, 3, digit="3,4")
