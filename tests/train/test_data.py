"""Data sets are read, split and refused as they should be."""

from __future__ import annotations

import functools
import gzip
import http.server
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from tests.commands import run_python, tree
from tests.train.conftest import Cli, one_line, write_idx, write_mnist
from train.config import DataOptions
from train.data.datasets import Dataset, _read_digits, load, split_in_three
from train.data.mnist import torchvision_datasets
from train.progress import load_with_progress
from vae_export.errors import DataError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def test_torchvision_imports_beside_any_torch() -> None:
    assert issubclass(torchvision_datasets().KMNIST, torchvision_datasets().MNIST)


@pytest.mark.parametrize(
    ("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_load_reads_files_in_torchvision_layout(tmp_path: Path, name: str, kind: str) -> None:
    write_mnist(tmp_path, kind)
    images = load(DataOptions(name, tmp_path, download=False))  # type: ignore[arg-type]
    assert images.image_shape == (1, 28, 28)
    assert (len(images.train), len(images.validation), len(images.test)) == (220, 20, 40)
    assert images.train.dtype == torch.uint8
    held = torch.cat((images.train, images.validation))[:, 0, 0, 0].sort().values
    assert held.tolist() == list(range(240))
    assert images.test[:, 0, 5, 5].tolist() == list(range(40))


@pytest.mark.slow
def test_digits_are_those_of_scikit_learn_which_is_not_imported() -> None:
    code = "import sys; from train.data.datasets import _read_digits; _read_digits(); print('sklearn' in sys.modules)"
    assert run_python(code).stdout == "False\n"
    assert np.array_equal(_read_digits(), load_digits().images)


def test_digits_are_read_without_network() -> None:
    digits = load(DataOptions("digits"))
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797
    assert digits.image_shape == (1, 28, 28)
    assert (digits.train.min(), digits.train.max()) == (0, 255)


@settings(deadline=None)
@given(st.integers(10, 400))
def test_splits_are_disjoint_complete_and_fixed(count: int) -> None:
    images = torch.arange(count).reshape(-1, 1, 1, 1).to(torch.int16)
    first, second = split_in_three("x", images), split_in_three("x", images)
    parts = torch.cat((first.train, first.validation, first.test)).flatten()
    assert sorted(parts.tolist()) == list(range(count))
    assert torch.equal(first.test, second.test)
    assert torch.equal(first.train, second.train)


def test_digest_differs_for_other_images() -> None:
    images = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    other = images.clone()
    other[3, 0, 0, 0] = 1
    digests = {Dataset("x", part, images, images).to_json()["sha256"] for part in (images, other, images.clone())}
    assert len(digests) == 2


def test_load_unpacks_gzip_files(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path)
    for file in list(raw.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert len(load(DataOptions("mnist", tmp_path, download=False)).test) == 40


def test_dataset_refuses_empty_split() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"expected one or more for each split, got none left for test; add some"):
        Dataset("folder", images, images, images[:0])


def _cut(raw: Path) -> None:
    file = raw / TRAIN_IMAGES
    file.write_bytes(file.read_bytes()[:-100])


def _claim_fewer(raw: Path) -> None:
    write_idx(raw / TRAIN_IMAGES, np.zeros((240, 28, 28), np.uint8), shape=(239, 28, 28))


def _claim_gigabytes(raw: Path) -> None:
    write_idx(raw / TRAIN_IMAGES, np.zeros(4, np.uint8), shape=(2**31, 28, 28))


def _lose_a_label(raw: Path) -> None:
    write_idx(raw / TRAIN_LABELS, np.zeros(239, np.uint8))


def _empty(raw: Path) -> None:
    write_idx(raw / TRAIN_IMAGES, np.zeros((0, 28, 28), np.uint8))


def _no_bytes(raw: Path) -> None:
    (raw / TRAIN_LABELS).write_bytes(b"")


def _other_type(raw: Path) -> None:
    data = b"\0\0\x0b\x03" + struct.pack(">3I", 240, 28, 28) + bytes(2 * 240 * 784)  # int16
    (raw / TRAIN_IMAGES).write_bytes(data)


def _half_packed(raw: Path) -> None:
    file = raw / TRAIN_IMAGES
    (raw / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(file.read_bytes())[:-50])
    file.unlink()


def _not_packed(raw: Path) -> None:
    (raw / f"{TRAIN_IMAGES}.gz").write_bytes(b"<html>404</html>")
    (raw / TRAIN_IMAGES).unlink()


def _other_size(raw: Path) -> None:
    write_idx(raw / "t10k-images-idx3-ubyte", np.zeros((40, 14, 14), np.uint8))


def _gone(raw: Path) -> None:
    (raw / TRAIN_LABELS).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "not an intact IDX file"),
        (_claim_fewer, "not an intact IDX file"),
        (_claim_gigabytes, "not an intact IDX file"),
        (_lose_a_label, "images and labels differ in number"),
        (_empty, "not an intact IDX file"),
        (_no_bytes, "not an intact IDX file"),
        (_other_type, "not an intact IDX file"),
        (_half_packed, "cannot be unpacked"),
        (_not_packed, "cannot be unpacked"),
        (_other_size, "training and test images differ in size"),
        (_gone, "no MNIST files"),
    ],
)
def test_load_refuses_damaged_file_by_name(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    raw = write_mnist(tmp_path)
    damage(raw)
    with pytest.raises(DataError, match=f"^{message}: ") as error:
        load(DataOptions("mnist", tmp_path, download=False))
    assert str(raw) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("typed", ["MNIST", "MNIST/raw"])
def test_folder_below_the_right_one_is_refused_with_the_right_one(tmp_path: Path, typed: str, packed: bool) -> None:
    raw = write_mnist(tmp_path)
    if packed:
        for file in list(raw.iterdir()):
            file.rename(file.with_name(f"{file.name}.gz"))
    before = tree(tmp_path)
    with pytest.raises(DataError, match=rf"got {TRAIN_IMAGES} in .*raw; pass --data-dir {tmp_path}$"):
        load(DataOptions("mnist", tmp_path / typed))
    assert tree(tmp_path) == before


def test_files_without_their_folders_are_to_be_moved(tmp_path: Path) -> None:
    write_mnist(tmp_path).rename(tmp_path / "files")
    with pytest.raises(DataError, match=rf"got {TRAIN_IMAGES} in .*files; move the four files to .*files/MNIST/raw$"):
        load(DataOptions("mnist", tmp_path / "files"))


@pytest.mark.parametrize("name", ["a.jpg", "b.JPEG", "c.png", "d.webp"])
def test_mnist_is_not_downloaded_to_a_folder_of_pictures(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"no MNIST files: .*; got pictures in .*; for your own pictures pass --dataset"
    ):
        load(DataOptions("mnist", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_mnist_is_not_downloaded_to_a_folder_of_folders_of_pictures(tmp_path: Path) -> None:
    for name in ("2023", "2024"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
    with pytest.raises(DataError, match=r"got pictures in .*; for your own pictures pass --dataset folder"):
        load(DataOptions("mnist", tmp_path))
    (tmp_path / "FashionMNIST" / "raw").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no MNIST files: .*, and --no-download"):
        load(DataOptions("mnist", tmp_path, download=False))


def test_file_in_place_of_the_folder_of_mnist_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist.zip").touch()
    with pytest.raises(DataError, match=r"^not a folder: .*mnist.zip; say where the files are: --data-dir FOLDER$"):
        load(DataOptions("mnist", tmp_path / "mnist.zip"))


@given(data=st.binary(max_size=24), magic=st.sampled_from([b"", b"\0\0\x08\x03", b"\0\0\x08\x01", b"\0\0\x0a\x03"]))
def test_load_refuses_any_foreign_file(tmp_path_factory: pytest.TempPathFactory, magic: bytes, data: bytes) -> None:
    raw = write_mnist(tmp_path_factory.mktemp("foreign"), train=12, test=3)
    (raw / TRAIN_IMAGES).write_bytes(magic + data)
    with pytest.raises(DataError, match=TRAIN_IMAGES):
        load(DataOptions("mnist", raw.parents[1], download=False))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder over HTTP and make it torchvision's mirror of MNIST."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision_datasets().MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield folder
    server.shutdown()
    server.server_close()


def test_missing_files_are_downloaded_checked_and_announced(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    import hashlib

    resources = []
    for file in write_mnist(tmp_path / "made").iterdir():
        packed = gzip.compress(file.read_bytes())
        (mirror / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))  # noqa: S324 -- torchvision's choice
    monkeypatch.setattr(torchvision_datasets().MNIST, "resources", resources)
    root = tmp_path / "data"

    assert len(load_with_progress(DataOptions("mnist", root)).test) == 40

    out, err = capfdbinary.readouterr()
    assert out == b""
    assert b"no MNIST in " in err
    assert sorted(path.name for path in (root / "MNIST" / "raw").iterdir()) == sorted(n[:-3] for n, _ in resources)
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    load_with_progress(DataOptions("mnist", root))
    assert b"downloading" not in capfdbinary.readouterr().err


def test_download_with_wrong_checksum_leaves_nothing(tmp_path: Path, mirror: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"not MNIST"))
    root = tmp_path / "data"
    with pytest.raises(DataError, match="download failed") as error:
        load(DataOptions("mnist", root))
    assert f"{root}/MNIST/raw/{TRAIN_IMAGES}" in str(error.value)
    assert "--dataset digits" in str(error.value)
    assert not root.exists()


def test_train_without_files_or_network_says_where_they_belong(cli: Cli, tmp_path: Path) -> None:
    done = cli("train", "--no-download", folder=tmp_path)
    assert done.returncode == 3
    line = one_line(done.stderr)
    assert "data/MNIST/raw/train-images-idx3-ubyte" in line
    assert "--dataset digits" in line
    assert list(tmp_path.iterdir()) == []
