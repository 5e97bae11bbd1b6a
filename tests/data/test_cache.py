"""Data sets that stay on disk, and image folders that are decoded once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_load_fails, load_data
from PIL import Image

from cvae.data import Dataset, DiskImages, Split, cache, dataset
from cvae.errors import CvaeError, UsageError

RNG = np.random.default_rng(5)
IMAGES = RNG.integers(0, 256, (300, 3, 6, 5), np.uint8)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache folder of this test."""
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def keep_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every data set on disk instead of loading it into memory."""
    monkeypatch.setattr(dataset, "MAX_MEMORY_BYTES", 0)


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class TestDiskImages:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        np.save(tmp_path / "x.npy", IMAGES)
        return tmp_path / "x.npy"

    @pytest.mark.parametrize("missing", [[], ["preadv"], ["posix_fadvise"]])
    @pytest.mark.parametrize(
        "key",
        [
            slice(None),
            slice(7, 9),
            slice(None, None, 3),
            slice(None, None, -1),
            slice(9, 9),
            RNG.permutation(300),
            RNG.integers(0, 300, 700),
            np.array([-1, 0, 1, 2, 2, 3]),
            np.zeros(0, np.int64),
            IMAGES[:, 0, 0, 0] > 99,
        ],
    )
    def test_indexing_agrees_with_numpy(
        self, path: Path, key: Any, missing: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in missing:
            monkeypatch.delattr(os, name)
        images_on_disk = DiskImages.open(path)
        assert (images_on_disk.shape, len(images_on_disk), images_on_disk.nbytes, images_on_disk.dtype) == (
            IMAGES.shape,
            300,
            IMAGES.nbytes,
            np.uint8,
        )
        loaded = images_on_disk[key]
        assert loaded.dtype == np.uint8 and loaded.flags.c_contiguous and loaded.flags.writeable
        assert np.array_equal(loaded, IMAGES[key])
        assert np.array_equal(images_on_disk.select(key)[:], IMAGES[key])
        order = np.random.default_rng(0).permutation(300)
        assert np.array_equal(images_on_disk.select(order)[key], IMAGES[order][key])

    def test_grey_images_get_a_channel_axis(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", IMAGES[:, 0])
        assert np.array_equal(DiskImages.open(tmp_path / "x.npy")[3:8], IMAGES[3:8, :1])

    @pytest.mark.parametrize("array", [IMAGES / 255, np.asfortranarray(IMAGES), IMAGES[0, 0], IMAGES[None]])
    def test_unsupported_array_is_rejected(self, tmp_path: Path, array: np.ndarray) -> None:
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(UsageError, match=r"x\.npy' holds .*, not uint8"):
            DiskImages.open(tmp_path / "x.npy")

    @pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:60], lambda data: b"",
                                        lambda data: b"x" + data[1:], lambda data: data + b"x"])  # fmt: skip
    def test_damaged_file_is_rejected(self, path: Path, change: Callable[[bytes], bytes]) -> None:
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(CvaeError, match="is damaged"):
            DiskImages.open(path)
        path.unlink()
        with pytest.raises(CvaeError, match=r"x\.npy.*: No such file"):
            DiskImages.open(path)

    def test_object_array_is_rejected(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([{}]))
        with pytest.raises(UsageError, match="holds object"):
            DiskImages.open(tmp_path / "x.npy")

    def test_truncated_file_raises_error_but_deleted_file_stays_readable(self, path: Path) -> None:
        images_on_disk = DiskImages.open(path)
        os.truncate(path, path.stat().st_size - 100)
        assert np.array_equal(images_on_disk[:200], IMAGES[:200])
        with pytest.raises(CvaeError, match=r"x\.npy' was truncated"):
            images_on_disk[:]
        np.save(path.with_name("y.npy"), IMAGES)
        images_on_disk = DiskImages.open(path.with_name("y.npy"))
        path.with_name("y.npy").unlink()
        assert np.array_equal(images_on_disk[:], IMAGES)

    @pytest.mark.integration
    def test_reading_takes_little_memory(self, tmp_path: Path) -> None:
        """Reading 600 MB, in order and then at random, takes less than 50 MB of memory."""
        with (tmp_path / "x.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (50_000, 3, 64, 64)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 50_000 * 3 * 64 * 64)
        child = run(
            "import resource, sys, numpy as np\n"
            "from cvae.data import DiskImages\n"
            "images = DiskImages.open(sys.argv[1])\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak()\n"
            "for first in range(0, 50_000, 500): assert not images[first:first + 500].any()\n"
            "images = images.select(np.random.default_rng(0).permutation(50_000))\n"
            "for first in range(0, 50_000, 500): assert images[first:first + 500].shape == (500, 3, 64, 64)\n"
            "print(peak() - before)\n",
            tmp_path / "x.npy",
        )
        out, error = child.communicate()
        assert not error and int(out) < 50_000


class TestOnDisk:
    @pytest.fixture
    def data(self, tmp_path: Path) -> str:
        np.save(tmp_path / "x.npy", IMAGES[:, :1])
        return f"npz:{tmp_path / 'x.npy'}"

    @pytest.mark.parametrize(
        "flags",
        [
            {},
            {"validation": 0},
            {"limit": 20},
            {"seed": 3, "validation": 0.5},
            {"binarize": "dynamic", "validation": 0},  # static binarization gives different values on disk
        ],
    )
    def test_images_on_disk_equal_those_in_memory(
        self, data: str, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]
    ) -> None:
        memory = load_data(data, **flags)
        monkeypatch.setattr(dataset, "MAX_MEMORY_BYTES", IMAGES[:, :1].nbytes - 1)
        file = load_data(data, **flags)
        for a, b in ((memory.train, file.train), (memory.validation, file.validation)):
            if a is None or b is None:
                assert a is b is None
                continue
            assert (
                a.in_memory
                and isinstance(a.images, np.ndarray)
                and not b.in_memory
                and isinstance(b.images, DiskImages)
            )
            assert a.nbytes == b.nbytes == a.images.nbytes
            for key in (slice(None), slice(3, 9), np.array([2, 0, 4])):
                assert np.array_equal(a.images[key], b.images[key])

    def test_validation_images_are_held_out_from_images_on_disk(self, data: str, keep_on_disk: None) -> None:
        loaded = load_data(data, validation=0.2)
        assert loaded.validation is not None and (len(loaded.train), len(loaded.validation)) == (240, 60)
        actual = [image.tobytes() for split in (loaded.train, loaded.validation) for image in split.images[:]]
        assert sorted(actual) == sorted(image.tobytes() for image in IMAGES[:, :1])

    def test_static_binarization_depends_only_on_grey_levels_and_index(
        self, tmp_path: Path, keep_on_disk: None
    ) -> None:
        grey = np.repeat(np.arange(256, dtype=np.uint8), 2)[:, None, None].repeat(64, 1).repeat(64, 2)
        np.save(tmp_path / "x.npy", grey)
        data = f"npz:{tmp_path / 'x.npy'}"
        binary = load_data(data, binarize="static", validation=0).train.images
        assert isinstance(binary, DiskImages)
        images = binary[:]
        assert set(np.unique(images)) == {0, 255}
        p = grey[:, 0, 0] / 255
        assert (abs((images == 255).mean((1, 2, 3)) - p) <= 5 * np.sqrt(p * (1 - p) / 64**2)).all()
        assert np.array_equal(binary[np.array([300, 7])], images[[300, 7]])  # independent of the order
        assert not np.array_equal(images[200], images[201])
        selected = load_data(data, binarize="static", limit=30, seed=1).train.images
        # The result is also independent of the selection.
        assert isinstance(selected, DiskImages) and np.array_equal(selected[:], images[selected.index])

    def test_plugin_may_return_images_on_disk(
        self, data: str, monkeypatch: pytest.MonkeyPatch, keep_on_disk: None
    ) -> None:
        images_on_disk = DiskImages.open(data.removeprefix("npz:"))
        data_set = Dataset(name="", train=Split(images=images_on_disk), classes=None, data_license="")
        monkeypatch.setitem(dataset.DATASETS._registered, "toy", lambda *_: data_set)
        assert np.array_equal(load_data("toy", validation=0).train.images[:], IMAGES[:, :1])

    def test_unsupported_npy_file_is_rejected(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npy"
        np.save(path, np.zeros((300, 2, 6, 5), np.uint8))
        assert_load_fails(f"npz:{path}", "(300, 2, 6, 5)", "(N, C, H, W)", error_type=UsageError)
        np.save(path, IMAGES[..., :5, :5])
        assert_load_fails(f"npz:{path}", "5x5", "8x8", "--size", "numpy.savez", error_type=UsageError, size=8)
        assert load_data(f"npz:{path}", size=5, validation=0).train.images.shape == (300, 3, 5, 5)
        assert_load_fails(path, f"npz:{path}", error_type=UsageError)
        assert_load_fails(f"npz:{path}", "--conditional", error_type=UsageError, conditional=True)


def save_image(path: Path, image: np.ndarray) -> Path:
    """Save an image (H, W) or (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


class TestFolder:
    colours = RNG.integers(0, 256, (12, 8, 8, 3), np.uint8)

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        for i, image in enumerate(self.colours):
            save_image(tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.png", image)
        return tmp_path / "photos"

    @pytest.fixture
    def decodings(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Return a list to which each call of `decode` adds its number of files."""
        counts: list[int] = []
        decode = cache.decode

        def counting_decode(paths: Any, size: Any) -> Any:
            counts.append(len(paths))
            return decode(paths, size)

        monkeypatch.setattr(cache, "decode", counting_decode)
        return counts

    def load(self, photos: Path, **flags: Any) -> np.ndarray:
        return load_data(f"folder:{photos}", **{"size": 8, "validation": 0, **flags}).train.images[:]

    expected = np.concatenate([colours[0::2], colours[1::2]]).transpose(0, 3, 1, 2)

    @pytest.mark.parametrize("memory", [0, 2**28])
    def test_images_are_decoded_once(
        self, photos: Path, root: Path, decodings: list[int], monkeypatch: pytest.MonkeyPatch, memory: int,
        capfd: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setattr(dataset, "MAX_MEMORY_BYTES", memory)
        for _ in range(2):
            assert np.array_equal(self.load(photos), self.expected)
        monkeypatch.chdir(photos)
        assert np.array_equal(self.load(Path()), self.expected)
        assert decodings == [12]
        assert np.array_equal(np.load(next(root.rglob("*.npy"))), self.expected)
        assert capfd.readouterr() == ("", "")  # no progress bar without a terminal
        self.load(photos, data_dir=str(root / "other"))
        assert decodings == [12, 12] and len(list((root / "other").rglob("*.npy"))) == 1

    def test_progress_bar_is_shown_while_decoding(
        self, photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich treat any stream as a terminal
        assert len(self.load(photos.rename(photos.with_name("[b]")))) == 12
        out, error = capfd.readouterr()
        assert not out and "decoding [b]" in error

    def test_each_size_has_its_own_cache(self, photos: Path, root: Path, decodings: list[int]) -> None:
        for size in (8, 4, 8, 4):
            assert self.load(photos, size=size).shape == (12, 3, size, size)
        assert decodings == [12, 12] and len(list(root.rglob("*.npy"))) == 2

    def test_changed_folder_is_decoded_again(self, photos: Path, root: Path, decodings: list[int]) -> None:
        self.load(photos)
        first = photos / "a" / "00.png"
        save_image(first, self.colours[5])
        assert np.array_equal(self.load(photos)[0], self.colours[5].transpose(2, 0, 1))
        save_image(photos / "a" / "00b.png", self.colours[7])
        assert np.array_equal(self.load(photos)[1], self.colours[7].transpose(2, 0, 1))
        first.unlink()
        assert np.array_equal(self.load(photos)[0], self.colours[7].transpose(2, 0, 1))
        (photos / "a" / "02.png").rename(photos / "b" / "02.png")
        loaded = load_data(f"folder:{photos}", size=8, validation=0)
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [0] * 5 + [1] * 7
        assert decodings == [12, 12, 13, 12, 12]
        assert len(list(root.rglob("*.npy"))) == len(list(root.rglob("*.json"))) == 1  # older caches are removed

    def test_change_that_keeps_size_and_modification_time_is_detected(self, photos: Path, decodings: list[int]) -> None:
        self.load(photos)
        first = photos / "a" / "00.png"
        before, content = first.stat(), bytearray(first.read_bytes())
        content[50] ^= 1
        first.write_bytes(content)
        os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.warns(UserWarning, match=r"1 of 12 images .*'a/00\.png'"):
            assert len(self.load(photos)) == 11
        # The second call repeats the warning, but does not decode anything.
        with pytest.warns(UserWarning, match=r"1 of 12 images .*'a/00\.png'"):
            assert np.array_equal(self.load(photos), self.expected[1:])
        assert decodings == [12, 12]

    @pytest.mark.parametrize("suffix", ["npy", "json"])
    @pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"x" + data[1:], None])
    def test_damaged_cache_is_rebuilt(
        self, photos: Path, root: Path, decodings: list[int], suffix: str, damage: Callable[[bytes], bytes] | None
    ) -> None:
        self.load(photos)
        (file,) = root.rglob(f"*.{suffix}")
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage(file.read_bytes()))
        assert np.array_equal(self.load(photos), self.expected)
        assert decodings == [12, 12] and file.is_file()

    @pytest.mark.parametrize("chunk", [1, 3 * 64 * 5, 2**24])
    def test_grey_folder_is_cached_with_one_channel(
        self, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
    ) -> None:
        monkeypatch.setattr(cache, "CHUNK_BYTES", chunk)
        greys = self.colours[..., 0]
        for i, image in enumerate(greys):
            save_image(tmp_path / "greys" / f"{i:02}.png", image)
        assert np.array_equal(self.load(tmp_path / "greys"), greys[:, None])
        assert np.array_equal(np.load(next(root.rglob("*.npy"))), greys[:, None])

    def test_file_removed_during_decoding_is_skipped(
        self, photos: Path, decodings: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decode = cache.decode

        def decode_after_removal(paths: Any, size: Any) -> Any:
            (photos / "a" / "02.png").unlink(missing_ok=True)
            return decode(paths, size)

        monkeypatch.setattr(cache, "decode", decode_after_removal)
        with pytest.warns(UserWarning, match=r"1 of 12 images .*'a/02\.png'"):
            assert np.array_equal(self.load(photos), np.delete(self.expected, 1, 0))
        assert np.array_equal(self.load(photos), np.delete(self.expected, 1, 0))  # no warning for a missing file
        assert decodings == [12, 11]

    def test_unwritable_cache_raises_error(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert_load_fails(
            f"folder:{photos}",
            str(tmp_path / "file"),
            "--data-dir",
            data_dir=str(tmp_path / "file"),
            error_type=CvaeError,
        )

    @pytest.mark.integration
    def test_full_disk_raises_error_and_leaves_no_cache(self, photos: Path, root: Path) -> None:
        child = run(
            "import resource, sys\n"
            "from cvae.config import TrainConfig\n"
            "from cvae.data import load_dataset\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
            "try: load_dataset(TrainConfig(data=sys.argv[1], size=64))\n"
            "except Exception as error: print(type(error).__name__, error)\n",
            f"folder:{photos}",
        )
        out, error = child.communicate()
        assert not error and out.startswith("CvaeError can't write") and "--data-dir" in out and out.count("\n") == 1
        assert not [path for path in root.rglob("*") if path.is_file()]

    @pytest.mark.integration
    def test_only_one_of_several_processes_decodes_the_images(self, photos: Path, root: Path) -> None:
        code = (
            "import sys, hashlib\n"
            "from cvae.config import TrainConfig\n"
            "from cvae.data import cache, load_dataset\n"
            "decode = cache.decode\n"
            "cache.decode = lambda *args: print('decoding') or decode(*args)\n"
            "print('ready', flush=True), sys.stdin.readline()\n"
            "images = load_dataset(TrainConfig(data=sys.argv[1], size=256, validation=0)).train.images\n"
            "print(hashlib.sha256(images.tobytes()).hexdigest())\n"
        )
        command = [sys.executable, "-c", code, f"folder:{photos}"]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        results = [child.communicate() for child in children]
        assert {error for _, error in results} == {""}
        lines = [line for out, _ in results for line in out.split()]
        assert lines.count("decoding") == 1 and len(set(lines)) == 2
        assert [path.suffix for path in sorted(root.rglob("*.*"))] == [".hashes", ".json", ".npy"]

    @pytest.mark.integration
    def test_killed_process_leaves_no_broken_cache(self, photos: Path, root: Path) -> None:
        child = run(
            "import os, sys\n"
            "from cvae.config import TrainConfig\n"
            "from cvae.data import cache, load_dataset\n"
            "decode = cache.decode\n"
            "def until_killed(paths, size):\n"
            "    yield from decode(paths[:5], size)\n"
            "    os.kill(os.getpid(), 9)\n"
            "cache.decode = until_killed\n"
            "load_dataset(TrainConfig(data=sys.argv[1], size=8))\n",
            f"folder:{photos}",
        )
        child.communicate()
        assert child.returncode == -9 and [path.suffix for path in root.rglob("*.*")] == [".tmp"]
        assert np.array_equal(self.load(photos), self.expected)
        assert [path.suffixes for path in sorted(root.rglob("*.*"))] == [
            [".hashes"],
            [".json"],
            [".npy"],
        ]  # temporary files are removed


@pytest.mark.integration
def test_digits_and_mnist_are_read_without_heavy_packages(tmp_path: Path) -> None:
    """Reading the data set `digits`, or MNIST from disk, does not import torch, torchvision, scikit-learn or scipy."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 784)
        )
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 4]))
    child = run(
        "import sys\n"
        "from cvae.config import TrainConfig\n"
        "from cvae.data import load_dataset\n"
        "for name in ('digits', 'mnist'): load_dataset(TrainConfig(data=name, data_dir=sys.argv[1], validation=0))\n"
        "print({'torch', 'torchvision', 'sklearn', 'scipy'} & set(sys.modules))\n",
        tmp_path,
    )
    assert child.communicate() == ("set()\n", "")
