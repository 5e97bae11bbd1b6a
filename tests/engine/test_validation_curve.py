"""Early stopping with `--patience`, and the warning about a validation bound that explodes."""

from dataclasses import replace

import numpy as np
import pytest
from engine_helpers import QUICK, have_equal_tensors, load_weights, read_records

from cvae.engine import resume, train
from cvae.engine.validation import Validator
from cvae.engine.validation_curve import ValidationCurve
from cvae.errors import UsageError


def curve(*bounds: float) -> ValidationCurve:
    epochs = [{"epoch": i, "validation": {"bound": bound}} for i, bound in enumerate(bounds, 1)]
    return ValidationCurve([*epochs, {"step": 9, "test": {"bound": 0.0}}])


def test_curve_finds_its_best_epoch():
    assert (curve(3.0, 1.0, 2.0, 1.0).best_epoch, curve(3.0, 1.0, 2.0, 1.0).epochs_without_improvement) == (2, 2)
    assert curve().epochs_without_improvement == 0 and not curve().has_exploded(64)


@pytest.mark.parametrize(
    ("bounds", "exploded"),
    [
        ([9000, 7708, 30_000, 90_000, 347_142], True),  # a run on 15 photos
        ([-14_000, -14_884, -10_620, 25_257, 80_000, 90_000], True),
        ([300, 90, 100, 120, 170], False),  # one bad epoch is not enough
        ([300, 90, 170, 190, 210], True),
        ([300, 90, 210, 190, 170], False),  # the bound recovers
        ([300, 90, 95, 101, 107], False),  # ordinary overfitting
        ([36, -12, -40, -51, -50, -49, -48], False),
        ([36, 1, -1, 2, 3, 4], False),  # near zero, a limit in proportion to the best bound would be too small
        ([100, 90, 80], False),
    ],
)
def test_bound_has_exploded_only_if_it_is_far_above_the_best(bounds, exploded):
    assert curve(*bounds).has_exploded(12_288 if min(bounds) < -1000 or max(bounds) > 1000 else 784) == exploded


@pytest.fixture
def scripted_bounds(monkeypatch):
    """Return a list whose items replace the validation bounds of a run, epoch by epoch."""
    bounds: list[float] = []
    evaluate = Validator.evaluate

    def scripted_evaluate(self: Validator, model, batches) -> dict[str, float]:
        metrics = evaluate(self, model, batches)
        return {**metrics, "bound": bounds.pop(0)} if bounds else metrics

    monkeypatch.setattr(Validator, "evaluate", scripted_evaluate)
    return bounds


def read_epochs(run) -> list[int]:
    return [record["epoch"] for record in read_records(run) if "epoch" in record]


@pytest.mark.integration
def test_patience_ends_the_run_and_keeps_the_best_weights(tmp_path, scripted_bounds, capsys):
    scripted_bounds += [5.0, 4.0, 4.5, 4.2, 6.0]
    config = replace(QUICK, epochs=30, patience=2)
    run = train(config, tmp_path / "run")
    assert read_epochs(run) == [1, 2, 3, 4] and "test" in read_records(run)[-1]
    output = capsys.readouterr().err
    assert "ended early: the validation bound has not improved for 2 epochs" in output
    assert "best epoch   2 of 4, validation bound 4.00 nats" in output and " 4/30 " in output
    assert "it rose to 4.20 afterwards" in " ".join(output.split())
    with pytest.raises(KeyboardInterrupt):
        train(replace(config, patience=0), tmp_path / "second-epoch", quiet=True, on_epoch=stop_at(2))
    assert have_equal_tensors(load_weights(run), load_weights(tmp_path / "second-epoch"))


def stop_at(epoch: int):
    """Return a callback that interrupts a run after an epoch."""

    def on_epoch(record) -> None:
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_epoch


@pytest.mark.slow
@pytest.mark.integration
def test_resumed_run_counts_the_epochs_before_the_interruption(tmp_path, scripted_bounds, capsys):
    scripted_bounds += [5.0, 4.0, 4.5]
    config = replace(QUICK, epochs=30, patience=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", quiet=True, on_epoch=stop_at(3))
    scripted_bounds[:] = [4.2]
    run = resume(tmp_path / "run", quiet=True)
    assert read_epochs(run) == [1, 2, 3, 4]
    before = load_weights(run)
    assert read_epochs(resume(run)) == [1, 2, 3, 4] and have_equal_tensors(load_weights(run), before)
    assert "ended early (patience 2); to continue it, raise patience, or set it to 0" in capsys.readouterr().err
    scripted_bounds[:] = [4.4]
    assert read_epochs(resume(run, patience=3, quiet=True)) == [1, 2, 3, 4, 5]
    scripted_bounds[:] = [4.4] * 25
    assert read_epochs(resume(run, patience=0, quiet=True)) == [*range(1, 31)]


@pytest.mark.integration
def test_patience_does_not_change_the_training_steps(tmp_path, quick_run):
    assert have_equal_tensors(
        load_weights(train(replace(QUICK, patience=3), tmp_path / "run", quiet=True)), load_weights(quick_run)
    )


def test_patience_requires_validation_images(tmp_path):
    with pytest.raises(UsageError, match=r"--patience 3 compares bounds on validation images, .* remove --patience"):
        train(replace(QUICK, patience=3, validation=0.0), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.integration
def test_exploding_bound_causes_a_single_warning(tmp_path, scripted_bounds, capsys):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(tmp_path / "few.npz", train=images)
    scripted_bounds += [9.0, 7.0, *(40.0 + 9 * i for i in range(8))]
    config = replace(QUICK, data=f"npz:{tmp_path / 'few.npz'}", conditional=False, limit=None, epochs=10)
    train(config, tmp_path / "run")
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cvae: warning: ")]
    assert "was 7.00 nats at epoch 2 and is now 58.00: the network overfits its 36 training images" in warning
    assert "--patience" in warning
