"""Generation of many images into files: interrupted, continued, and split into blocks of any size."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cvae
from cvae.atomic import lock_folder
from cvae.conditions import label_condition
from cvae.errors import CvaeError, UsageError
from cvae.runtime import bulk, session

N = 150
LABELS = np.arange(N) % 10


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for name in ("BLOCK_BYTES", "SHARD_BYTES"):
        monkeypatch.setattr(bulk, name, 28 * 28 * 64)  # 64 images per block, so that there are three blocks


@pytest.fixture(scope="module")
def model():
    return cvae.load()


@pytest.fixture(scope="module")
def expected(model):
    return np.rint(model.generate(N, seed=5) * 255).astype(np.uint8)


class Interruption(Exception):
    """Stand-in for Ctrl-C."""


def stop_after(blocks: int):
    def progress(count: int, total: int) -> None:
        if count and count >= min(blocks * 64, total):
            raise Interruption

    return progress


def read(suffix: str, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of the files, in order."""
    if suffix == ".npy":
        return np.load(out), np.load(out.with_name(f"{out.stem}-labels.npy"))
    if suffix == ".npz":
        shards = [np.load(path) for path in sorted(out.parent.glob("x*.npz"))]
        assert all(shard["classes"].tolist() == list("0123456789") for shard in shards)
        return np.concatenate([s["images"] for s in shards]), np.concatenate([s["labels"] for s in shards])
    files = sorted(out.rglob("*.png"), key=lambda path: path.name)
    images = np.stack([np.asarray(Image.open(path)) for path in files])[:, None]  # (N, H, W) -> (N, 1, H, W)
    return images, np.array([int(path.parent.name) for path in files])


@pytest.mark.parametrize("suffix", bulk.WRITERS)
def test_files_contain_the_images_that_generate_returns(suffix, model, expected, tmp_path):
    files, seed = bulk.generate(model, N, out := tmp_path / f"x{suffix}", seed=5)
    images, labels = read(suffix, out)
    assert seed == 5 and images.dtype == np.uint8 and np.array_equal(images, expected)
    assert np.array_equal(labels, LABELS)
    names = {path.name for path in files} | {f".x{suffix}.json"}
    assert {path.name for path in tmp_path.iterdir()} == names, "there are leftover files"


@pytest.mark.parametrize("suffix", bulk.WRITERS)
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_interrupted_generation_continues_with_its_seed(suffix, blocks, model, tmp_path):
    out = tmp_path / f"x{suffix}"
    with pytest.raises(Interruption):
        bulk.generate(model, N, out, progress=stop_after(blocks))
    if suffix == ".npy":
        assert not out.exists(), "the array appears before it is complete"
    counts = []
    _, seed = bulk.generate(model, N, out, progress=lambda count, total: counts.append(count))
    assert counts == [64, 128, 150][blocks - 1 :], "finished blocks were generated twice"
    expected = np.rint(model.generate(N, seed=seed) * 255).astype(np.uint8)
    assert np.array_equal(read(suffix, out)[0], expected)


def test_images_depend_on_neither_threads_nor_chunk_size(model, expected, tmp_path, monkeypatch):
    for threads, chunk in [(1, 64), (2, 64), (2, 16)]:
        monkeypatch.setattr(session, "CHUNK", chunk)
        monkeypatch.setattr(bulk, "CHUNK", chunk)
        bulk.generate(cvae.load(threads=threads), N, tmp_path / "x.npy", seed=5)
        assert np.array_equal(np.load(tmp_path / "x.npy"), expected), (threads, chunk)


def test_bulk_generation_uses_label_and_temperature(model, tmp_path):
    bulk.generate(model, 70, tmp_path / "x.npz", label="3", seed=2, temperature=0.5)
    actual = np.load(tmp_path / "x-00001.npz")
    assert actual["labels"].tolist() == [3] * 6
    expected = model.generate(70, 3, seed=2, temperature=0.5)[64:]
    assert np.array_equal(actual["images"], np.rint(expected * 255).astype(np.uint8))


def test_unfinished_file_of_another_request_is_not_continued(model, tmp_path):
    with pytest.raises(Interruption):
        bulk.generate(model, N, out := tmp_path / "x.npy", seed=1, progress=stop_after(1))
    for n, seed in [(N, 2), (N - 1, 1)]:
        with pytest.raises(UsageError, match=r"partly written by a call for 150 images, label_index 0, .* 9, seed 1"):
            bulk.generate(model, n, out, seed=seed)
    (tmp_path / ".x.npy.json").write_text("{")
    with pytest.raises(CvaeError, match="remove it"):
        bulk.generate(model, N, out, seed=1)


@pytest.mark.parametrize("suffix", bulk.WRITERS)
def test_call_that_failed_before_its_first_block_is_not_continued(suffix, model, expected, tmp_path):
    def fail(count: int, total: int) -> None:
        raise Interruption

    with pytest.raises(Interruption):
        bulk.generate(model, 20, out := tmp_path / f"x{suffix}", seed=1, progress=fail)
    bulk.generate(model, N, out, seed=5)
    assert np.array_equal(read(suffix, out)[0], expected)


@pytest.mark.parametrize("suffix", bulk.WRITERS)
@pytest.mark.parametrize("first", [3, 32, 50], ids=lambda n: f"{n} images first")
def test_finished_generation_can_be_extended_and_repeated(suffix, first, model, tmp_path):
    _, seed = bulk.generate(model, first, out := tmp_path / f"x{suffix}", label=[7, 3])
    names = {path.name for path in out.rglob("*.png")}
    expected = np.rint(model.generate(150, [7, 3] * 75, seed=seed) * 255).astype(np.uint8)
    counts: list[int] = []
    for n in (75, 75):
        files, _ = bulk.generate(model, n, out, label=[7, 3], progress=lambda count, total: counts.append(count))
        images, labels = read(suffix, out)
        assert np.array_equal(images, expected) and labels.tolist() == [7, 3] * 75
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files} | {f".x{suffix}.json"}
    assert counts == [2 * first, *(count for count in (64, 128, 150) if count > 2 * first), 150]
    assert names <= {path.name for path in out.rglob("*.png")}, "files were renamed"


@pytest.mark.parametrize("suffix", bulk.WRITERS)
def test_interrupted_extension_keeps_the_images_and_can_be_continued(suffix, model, expected, tmp_path):
    bulk.generate(model, 40, out := tmp_path / f"x{suffix}", seed=5)
    with pytest.raises(Interruption):
        bulk.generate(model, 100, out, seed=5, progress=stop_after(1))
    assert len(read(suffix, out)[0]) >= 40
    bulk.generate(model, N, out, seed=5)
    assert np.array_equal(read(suffix, out)[0], expected)


@pytest.mark.parametrize("suffix", bulk.WRITERS)
def test_generation_starts_over_if_its_files_were_removed(suffix, model, expected, tmp_path):
    files, _ = bulk.generate(model, N, out := tmp_path / f"x{suffix}", seed=4)
    for path in files:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    bulk.generate(model, N, out, seed=5)
    assert np.array_equal(read(suffix, out)[0], expected)


def test_folder_with_a_missing_image_is_not_continued(model, tmp_path):
    bulk.generate(model, 5, out := tmp_path / "x", seed=5)
    next(out.rglob("*.png")).unlink()
    with pytest.raises(UsageError, match="already contains other images"):
        bulk.generate(model, 6, out, seed=5)


def test_message_after_ctrl_c_says_how_to_continue(model, tmp_path, cvae, monkeypatch):
    decode = model.decode_rows

    def interrupt(self, noise: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if interrupt.calls == 2:
            raise KeyboardInterrupt
        interrupt.calls += 1
        return decode(noise, rows)

    interrupt.calls = 0
    flags = ["-n", 150, "--label", "3,4", "--out", "a folder"]
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "decode_rows", interrupt)
        result = cvae("generate", *flags)
    assert result.code == 130 and result.out == ""
    command = "cvae generate -n 150 --label 3,4 --out 'a folder'"
    assert result.err.splitlines()[-1] == (
        f"cvae: 'a folder' has 128 of 300 images; continue with the same call: {command}"
    )
    result = cvae(*shlex.split(command)[1:])
    assert result.code == 0 and "a folder (300 images, seed " in result.out
    assert len(list(Path("a folder").rglob("*.png"))) == 300


def test_class_names_cannot_escape_the_folder(model, tmp_path, monkeypatch):
    names = ("..", "/tmp/x", *"23456789")
    monkeypatch.setattr(
        model._decoder, "spec", type(model.spec)(**{**vars(model.spec), "conditions": label_condition(names)})
    )
    bulk.generate(model, 10, tmp_path / "out" / "x", seed=1)
    assert sorted(path.name for path in (tmp_path / "out" / "x").iterdir()) == list("0123456789")
    assert {path.name for path in tmp_path.rglob("*")} & {"tmp", "..", "x"} == {"x"}


@pytest.mark.parametrize(
    ("first", "then", "n"), [("x", "x", 3), ("x.npz", "x.npz", 70), ("x.npz", "x.npz", 3), ("x.NPZ", "x.NPZ", 3)]
)
def test_images_of_two_requests_are_not_mixed(model, tmp_path, first, then, n):
    bulk.generate(model, N, tmp_path / first, seed=1)
    before = sorted(tmp_path.rglob("*"))
    assert len(before) > 2
    with pytest.raises(UsageError, match=r"'.*x(-00000.npz)?' already contains other images; remove"):
        bulk.generate(model, n, tmp_path / then, seed=2)
    assert sorted(tmp_path.rglob("*")) == before
    for path in before:
        if path.suffix == ".npz":
            path.unlink()
    if first != "x":
        bulk.generate(model, n, tmp_path / then, seed=2)


def test_single_file_is_replaced_and_keeps_its_name(model, tmp_path):
    for seed in (1, 2):
        bulk.generate(model, 3, tmp_path / "x.NPZ", seed=seed)
    assert {path.name for path in tmp_path.iterdir()} == {"x.NPZ", ".x.NPZ.json"}
    with pytest.raises(UsageError, match=r"x.NPZ' already contains other images"):
        bulk.generate(model, N, tmp_path / "x.NPZ", seed=3)


def test_request_interrupted_before_its_first_block_keeps_its_seed(model, tmp_path, monkeypatch):
    def interrupt(*args: object) -> None:
        raise Interruption

    out = tmp_path / "x"
    with monkeypatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(bulk.imaging, "to_pil", interrupt)
        bulk.generate(model, 3, out)
    _, seed = bulk.generate(model, 3, out)
    assert np.array_equal(read("", out)[0], np.rint(model.generate(3, seed=seed) * 255))


def test_two_processes_cannot_write_the_same_output(model, tmp_path):
    with lock_folder(tmp_path / ".x.lock"), pytest.raises(UsageError, match="another process is writing"):
        bulk.generate(model, 3, tmp_path / "x", seed=1)
    bulk.generate(model, 3, tmp_path / "x", seed=1)


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_output_requires_a_name(model, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is not the name of a new file or folder"):
        bulk.generate(model, 3, Path(name))


@pytest.mark.parametrize("temperature", [1e6, -1.0, float("nan")])
def test_invalid_temperature_is_rejected(model, tmp_path, temperature):
    with pytest.raises(UsageError, match="temperature"):
        bulk.generate(model, 3, tmp_path / "x", temperature=temperature)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "3",
        '{"n": 1, "done": 2, "request": {"weights": "", "labels": null, "seed": 1, "temperature": 1}}',
        '{"n": 1, "done": 0, "request": {"weights": "", "labels": null, "seed": -1, "temperature": 1}}',
    ],
)
def test_error_for_damaged_state_file_suggests_removal(model, tmp_path, text):
    (tmp_path / ".x.npy.json").write_text(text)
    with pytest.raises(CvaeError, match="remove it to start over"):
        bulk.generate(model, 3, tmp_path / "x.npy")


def test_large_images_and_noise_are_decoded_in_smaller_chunks(model, expected, tmp_path, monkeypatch):
    sizes, decode = [], model.decode_rows
    monkeypatch.setattr(bulk, "MAX_CHUNK_BYTES", 4 * (28 * 28 + model.spec.latent_dim) * 5)
    monkeypatch.setattr(model, "decode_rows", lambda noise, rows: sizes.append(len(noise)) or decode(noise, rows))
    bulk.generate(model, N, tmp_path / "x.npy", seed=5)
    assert max(sizes) == 5 and np.array_equal(np.load(tmp_path / "x.npy"), expected)


def test_existing_file_or_folder_is_not_overwritten(model, tmp_path):
    (tmp_path / "x.npy").mkdir()
    (tmp_path / "y").write_text("mine")
    for name in ("x.npy", "y"):
        with pytest.raises(UsageError, match=r"already exists as a (file|folder); choose another"):
            bulk.generate(model, 1, tmp_path / name)
    assert (tmp_path / "y").read_text() == "mine"


def test_generate_command_writes_many_images(cvae):
    report = cvae("generate", "-n", 12, "--seed", 3, "--out", "many.npy", "--json").json
    assert report["out"] == ["many.npy", "many-labels.npy"] and report["images"] == 12 and report["seed"] == 3
    assert np.load("many.npy").shape == (12, 1, 28, 28)
    assert "12 images, seed 3" in cvae("generate", "-n", 12, "--seed", 3, "--out", "many").out
    assert len(list(Path("many").rglob("*.png"))) == 12
    request = {"weights": "", "labels": None, "seed": 1, "temperature": 1.0}
    Path(".many.npy.json").write_text(json.dumps({"request": request, "n": 2, "done": 1}))
    for arguments, code, word in [
        (["--out", "many.npy"], 2, "partly written"),
        (["-n", 3, "--grid", "--out", "many.npz"], 2, "--grid"),
        (["-n", 20_000, "--digit", 1], 2, "images.npy"),
        (["-n", 3, "--digit", "ten", "--out", "x.npy"], 2, "'ten'"),
    ]:
        result = cvae("generate", *arguments)
        assert result.code == code and word in result.err and result.err.count("\n") <= 2
    assert not Path("many.npz").exists() and not Path("x.npy").exists()
