"""Data sets that are downloaded. A local server takes the place of the internet."""

import gc
import gzip
import hashlib
import io
import shutil
import socket
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from data_helpers import DOWNLOADABLE, same_split
from helpers import assert_load_fails, load_data
from torchvision import datasets

from cvae.data import Split, downloads
from cvae.data.downloads import _read_idx
from cvae.errors import CvaeError


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """Serve a folder, and return its path and the address of the server."""
    monkeypatch.setenv("no_proxy", "*")
    served = tmp_path / "served"
    served.mkdir()

    class QuietHandler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(served))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served, f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """Return an array in IDX format, https://yann.lecun.org/exdb/mnist/: magic number, big-endian sizes, bytes."""
    return struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (struct.pack(">4I", 0x803, 2, 4, 4) + bytes(2**24), "more than 32 bytes of data"),
        (struct.pack(">4I", 0x803, *[2**32 - 1] * 3) + bytes(2**24), "limit is 1,073,741,824"),
    ],
)
def test_compressed_file_is_read_only_as_far_as_its_header_says(tmp_path, content, words):
    (tmp_path / "images.gz").write_bytes(gzip.compress(content))
    tracemalloc.start()
    with pytest.raises(ValueError, match=words):
        _read_idx(tmp_path / "images", 3)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


IMAGES = np.random.default_rng(2).integers(0, 256, (5, 28, 28), np.uint8)
LABELS = np.array([1, 9, 2, 0, 5])
IDX = {
    "train-images-idx3-ubyte": idx(IMAGES),
    "train-labels-idx1-ubyte": idx(LABELS),
    "t10k-images-idx3-ubyte": idx(IMAGES[:2]),
    "t10k-labels-idx1-ubyte": idx(LABELS[:2]),
}


class TestDownloads:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "root"

    @pytest.fixture(params=[("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
    def mnist_variant(
        self, request: pytest.FixtureRequest, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> tuple[str, str]:
        """Serve tiny files for a data set in MNIST format. Return the names of the data set and its class."""
        served, address = server
        resources = []
        for stem, content in IDX.items():
            packed = gzip.compress(content)
            (served / f"{stem}.gz").write_bytes(packed)
            resources.append((f"{stem}.gz", md5(packed)))
        name, class_name = request.param
        monkeypatch.setattr(getattr(datasets, class_name), "mirrors", [address])
        monkeypatch.setattr(getattr(datasets, class_name), "resources", resources)
        return name, class_name

    def test_mnist_and_its_variants_are_downloaded_once(
        self, mnist_variant: tuple[str, str], server: tuple[Path, str], root: Path
    ) -> None:
        name, class_name = mnist_variant
        first = load_data(name, data_dir=str(root), validation=0)
        assert np.array_equal(first.train.images, IMAGES[:, None]) and np.array_equal(first.train.labels, LABELS)  # type: ignore[arg-type]
        assert same_split(first.test, Split(images=IMAGES[:2, None], labels=LABELS[:2]))
        assert first.classes is not None and len(first.classes) == 10 and first.name == name
        shutil.rmtree(server[0])  # from here on, nothing can be downloaded
        resized = load_data(name, data_dir=str(root), validation=0, size=14)
        assert resized.train.images.shape == (5, 1, 14, 14)

        raw = root / class_name / "raw"
        (root / class_name / "processed").mkdir()
        for legacy in ("training.pt", "test.pt"):
            (root / class_name / "processed" / legacy).write_bytes(b"a pickle")
        assert same_split(load_data(name, data_dir=str(root), validation=0).train, first.train)
        intact = IDX["train-images-idx3-ubyte"]
        wrong_shape = idx(IMAGES[..., None])
        for content in (intact[:-100], intact[:9], intact + b"x", wrong_shape, b"", b"\0\0\x09\x03" * 9, b"\xff" * 50):
            (raw / "train-images-idx3-ubyte").write_bytes(content)
            assert_load_fails(name, repr(name), str(root), "damaged", error_type=CvaeError, data_dir=str(root))

    @pytest.mark.parametrize("compressed", [list(IDX), list(IDX)[:1]], ids=["all", "one"])
    def test_compressed_files_are_read(self, root: Path, compressed: list[str]) -> None:
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for stem, content in IDX.items():
            name, data = (f"{stem}.gz", gzip.compress(content)) if stem in compressed else (stem, content)
            (raw / name).write_bytes(data)
        loaded = load_data("mnist", data_dir=str(root), validation=0)
        assert same_split(loaded.train, Split(images=IMAGES[:, None], labels=LABELS))
        assert len(list(raw.iterdir())) == 4

    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # see below
    def test_failed_download_names_the_missing_file_and_leaves_no_folders(self, unreachable: None, root: Path) -> None:
        words = (
            "there is no file",
            str(root / "MNIST" / "raw" / "train-images-idx3-ubyte"),
            "train-images-idx3-ubyte.gz",
        )
        assert_load_fails("mnist", *words, error_type=CvaeError, data_dir=str(root))
        assert not root.exists()

    def test_class_names_agree_with_torchvision(self) -> None:
        assert tuple("0123456789") == downloads.DIGITS
        assert list(downloads.KUZUSHIJI) == datasets.KMNIST.classes
        assert list(downloads.FASHION) == datasets.FashionMNIST.classes
        truth = {
            key: [name for name in row if name != "N/A"] for key, row in datasets.EMNIST.classes_split_dict.items()
        }
        assert truth == downloads.EMNIST_CLASSES and tuple(truth) == datasets.EMNIST.splits == tuple(
            downloads.EMNIST_CLASSES
        )

    @pytest.mark.parametrize("mnist_variant", [("mnist", "MNIST")], indirect=True)
    def test_flag_or_environment_variable_sets_the_data_folder(
        self, mnist_variant: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("CVAE_DATA_DIR", raising=False)
        load_data("mnist")
        assert (tmp_path / "home" / ".cache" / "cvae" / "MNIST" / "raw").is_dir()
        monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "variable"))
        load_data("mnist")
        assert (tmp_path / "variable" / "MNIST" / "raw").is_dir()
        load_data("mnist", data_dir="~/flag")
        assert (tmp_path / "home" / "flag" / "MNIST" / "raw").is_dir()

    @pytest.mark.parametrize("mnist_variant", [("mnist", "MNIST")], indirect=True)
    def test_wrong_checksum_is_an_error(
        self, mnist_variant: tuple[str, str], server: tuple[Path, str], root: Path
    ) -> None:
        (server[0] / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
        assert_load_fails("mnist", "can't download 'mnist'", "corrupted", error_type=CvaeError, data_dir=str(root))

    @pytest.mark.parametrize("selection", ["", "letters", "digits", "mnist", "byclass", "bymerge"])
    def test_emnist_images_are_upright_and_labels_match_the_variant(
        self, selection: str, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, root: Path
    ) -> None:
        split = selection or "balanced"
        labels = LABELS + (split == "letters")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for part, n in (("train", 5), ("test", 2)):
                stem = f"gzip/emnist-{split}-{part}"
                archive.writestr(f"{stem}-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES[:n])))
                archive.writestr(f"{stem}-labels-idx1-ubyte.gz", gzip.compress(idx(labels[:n])))
        (server[0] / "gzip.zip").write_bytes(packed.getvalue())
        monkeypatch.setattr(datasets.EMNIST, "url", server[1] + "gzip.zip")
        monkeypatch.setattr(datasets.EMNIST, "md5", md5(packed.getvalue()))
        loaded = load_data(f"emnist:{selection}", data_dir=str(root), validation=0)
        assert np.array_equal(loaded.train.images[:, 0], IMAGES.swapaxes(1, 2))
        assert np.array_equal(loaded.train.labels, LABELS)  # type: ignore[arg-type]
        sizes = {"balanced": 47, "letters": 26, "digits": 10, "mnist": 10, "byclass": 62, "bymerge": 47}
        assert loaded.classes is not None and len(loaded.classes) == sizes[split]
        assert loaded.classes[0] == ("a" if split == "letters" else "0")

    @pytest.fixture
    def cifar(self, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
        """Serve an archive of six files with two records each, and return all twelve records (12, 3073)."""
        records = np.random.default_rng(3).integers(0, 256, (12, 3073), np.uint8)
        records[:, 0] %= 10
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for i, stem in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
                content = records[2 * i : 2 * i + 2].tobytes()
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{stem}.bin")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        (server[0] / "cifar.tar.gz").write_bytes(packed.getvalue())
        monkeypatch.setattr(downloads, "CIFAR10_URL", server[1] + "cifar.tar.gz")
        monkeypatch.setattr(downloads, "CIFAR10_MD5", md5(packed.getvalue()))
        monkeypatch.setattr(downloads, "CIFAR10_RECORDS", 2)
        return records

    def test_cifar10_is_downloaded_once(self, cifar: np.ndarray, server: tuple[Path, str], root: Path) -> None:
        loaded = load_data("cifar10", data_dir=str(root), validation=0)
        assert loaded.train.images.shape == (10, 3, 32, 32)
        assert loaded.train.images[7, 2, 5, 4] == cifar[7, 1 + 2 * 1024 + 5 * 32 + 4]
        assert np.array_equal(loaded.train.labels, cifar[:10, 0])  # type: ignore[arg-type]
        assert loaded.test is not None and np.array_equal(loaded.test.images.reshape(2, -1), cifar[10:, 1:])
        shutil.rmtree(server[0])
        assert same_split(load_data("cifar10", data_dir=str(root), validation=0).train, loaded.train)
        file = root / "cifar-10-batches-bin" / "data_batch_5.bin"
        file.write_bytes(file.read_bytes()[:3073])
        assert_load_fails("cifar10", "damaged", str(root), error_type=CvaeError, data_dir=str(root))

    def test_pickled_cifar10_is_rejected(self, cifar: np.ndarray, root: Path) -> None:
        (root / "cifar-10-batches-py").mkdir(parents=True)
        assert_load_fails(
            "cifar10", "pickle", "cifar-10-binary.tar.gz", "--data-dir", error_type=CvaeError, data_dir=str(root)
        )

    def test_svhn_is_read_from_matlab_files(
        self, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, root: Path
    ) -> None:
        images = np.random.default_rng(4).integers(0, 256, (32, 32, 3, 5), np.uint8)
        packed = io.BytesIO()
        scipy.io.savemat(packed, {"X": images, "y": np.array([[10], [1], [9], [10], [2]], np.uint8)})
        files = {}
        for split in ("train", "test"):
            (server[0] / f"{split}_32x32.mat").write_bytes(packed.getvalue())
            files[split] = [f"{server[1]}{split}_32x32.mat", f"{split}_32x32.mat", md5(packed.getvalue())]
        monkeypatch.setattr(datasets.SVHN, "split_list", files)
        loaded = load_data("svhn", data_dir=str(root), validation=0)
        assert np.array_equal(loaded.train.images, images.transpose(3, 2, 0, 1))
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [0, 1, 9, 0, 2]
        assert loaded.train.images.flags.c_contiguous and "non-commercial" in loaded.data_license

        broken = b"MATLAB 5.0 MAT-file" + bytes(200)
        (root / "train_32x32.mat").write_bytes(broken)
        files["train"][2] = md5(broken)
        assert_load_fails("svhn", "damaged", error_type=CvaeError, data_dir=str(root))

    @pytest.fixture(params=["refused", "missing", "silent"])
    def unreachable(
        self, request: pytest.FixtureRequest, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        """Redirect every download to a closed port, to a server without the file, or to a server that never answers."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if request.param == "silent":
                listener.listen()
            port = listener.getsockname()[1]
            address = server[1] if request.param == "missing" else f"http://127.0.0.1:{port}/"
            monkeypatch.setattr(downloads, "TIMEOUT", 0.05)
            for data_set in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST):
                monkeypatch.setattr(data_set, "mirrors", [address])
            monkeypatch.setattr(datasets.EMNIST, "url", address + "gzip.zip")
            monkeypatch.setattr(downloads, "CIFAR10_URL", address + "cifar.tar.gz")
            monkeypatch.setattr(
                datasets.SVHN, "split_list", {split: [address + "x", "x", "0"] for split in ("train", "test")}
            )
            yield
            if request.param == "missing":
                gc.collect()

    # torchvision does not close a 404 response. `unreachable` garbage-collects it, so that later tests do not warn.
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    @pytest.mark.parametrize("name", DOWNLOADABLE)
    def test_failed_download_is_reported_in_one_line(self, unreachable: None, name: str, root: Path) -> None:
        before = socket.getdefaulttimeout()
        assert_load_fails(
            name, repr(name), str(root), "--data-dir", "--data mnist-small", error_type=CvaeError, data_dir=str(root)
        )
        assert socket.getdefaulttimeout() == before

    def test_folder_that_cannot_be_created_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert_load_fails("mnist", "can't download", error_type=CvaeError, data_dir=str(tmp_path / "file"))
