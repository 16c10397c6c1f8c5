"""The runtime: numpy and ONNX Runtime alone, and an answer only to what the contract allows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands import run_python
from tests.conftest import Exported
from vae_export import Model, load
from vae_export.contract import Contract
from vae_export.errors import IntegrityError, ModelError, TargetError, UsageError, VaeExportError
from vae_export.manifest import NAME
from vae_export.runtime import session
from vae_export.runtime.session import Session

#: What an application that embeds a file must not have to install.
HEAVY = ("torch", "onnx", "onnxscript", "safetensors", "matplotlib", "sklearn", "typer", "rich", "train")


@pytest.fixture(scope="module")
def model(mlp: Exported) -> Model:
    return load(mlp.folder)


def latents(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 4), dtype=np.float32)


def imported_by(code: str) -> set[str]:
    result = run_python(code + "\nimport sys; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "code", ["import vae_export.runtime", "import vae_export; vae_export.load", "from vae_export import load, Model"]
)
def test_importing_it_brings_no_torch(code: str) -> None:
    assert imported_by(code) & set(HEAVY) == set()


def test_the_test_of_imports_can_fail() -> None:
    assert imported_by("import vae_export; vae_export.save_checkpoint") & set(HEAVY) == {"torch", "safetensors"}


def test_it_works_where_nothing_else_can_be_imported(mlp: Exported, tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        for name in {HEAVY}:
            sys.modules[name] = None
        import numpy as np
        from vae_export import load
        model = load(sys.argv[1])
        mean, logvar = model.encode(model.decode(np.zeros((2, 4), np.float32)))
        np.save(sys.argv[2], model.reconstruct(model.decode(mean)))
    """
    result = run_python(code, mlp.folder, tmp_path / "out.npy", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "out.npy").shape == (2, 1, 28, 28)


@pytest.mark.parametrize("name", ["mlp", "post", "conv", "foreign"])
def test_it_gives_what_pytorch_gives(exported: Callable[[str], Exported], name: str) -> None:
    export = exported(name)
    model, contract = load(export.folder), export.source.contract
    assert model.contract == contract
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((5, *contract.latent_shape), dtype=np.float32)
    image = rng.uniform(*contract.image_range, (5, *contract.image_shape)).astype(np.float32)
    encoder, decoder = export.source.graph("encoder").module, export.source.graph("decoder").module
    with torch.no_grad():
        mean, logvar = encoder(torch.from_numpy(image))
        close = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(model.decode(latent), decoder(torch.from_numpy(latent)), **close)
        np.testing.assert_allclose(model.encode(image)[0], mean, **close)
        np.testing.assert_allclose(model.encode(image)[1], logvar, **close)
        np.testing.assert_allclose(model.reconstruct(image), decoder(mean), **close)
    low, high = contract.image_range
    assert low <= model.decode(latent).min() < model.decode(latent).max() <= high


@pytest.mark.parametrize(
    ("latent", "said"),
    [
        (np.zeros((2, 4)), "wrong dtype: tensor 'latent'; expected float32, got float64"),
        (np.zeros((2, 4), ">f4"), "wrong dtype: tensor 'latent'; expected float32, got >f4"),
        (np.zeros((2, 4), np.int64), "got int64"),
        (np.zeros(4, np.float32), r"wrong shape: tensor 'latent'; expected \('N', 4\), got \(4,\)"),
        (np.zeros((2, 5), np.float32), r"got \(2, 5\)"),
        (np.zeros((2, 2, 2), np.float32), r"got \(2, 2, 2\)"),
        (np.zeros((), np.float32), r"got \(\)"),
        (np.zeros((0, 4), np.float32), "empty batch: tensor 'latent'; expected N of 1 and up"),
        (np.array([[0, 0, np.nan, 0]], np.float32), r"not finite: tensor 'latent' at \(0, 2\); .*got nan"),
        (np.array([[0] * 4, [0, 0, 0, np.inf]], np.float32), r"not finite: tensor 'latent' at \(1, 3\); .*got inf"),
        ([[0.0] * 4], "not an array: tensor 'latent'; expected a numpy array, got list"),
        (torch.zeros(2, 4), "not an array: .*got Tensor"),
        (None, "not an array: .*got NoneType"),
    ],
)
def test_what_does_not_keep_the_contract_is_refused_by_name(model: Model, latent: object, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        model.decode(latent)  # type: ignore[arg-type]


def test_images_are_held_to_the_contract_too(model: Model) -> None:
    for image in (np.zeros((1, 28, 28), np.float32), np.zeros((1, 1, 28, 28), np.uint8)):
        with pytest.raises(ModelError, match="tensor 'image'"):
            model.encode(image)
        with pytest.raises(ModelError, match="tensor 'image'"):
            model.reconstruct(image)


def test_pixels_out_of_range_are_refused_and_rounding_is_not(model: Model) -> None:
    """Levels from 0 to 255 as floats are what an application gets wrong first; the network would take them."""
    image = np.zeros((2, 1, 28, 28), np.float32)
    image[1, 0, 2, 3] = 255
    said = r"out of range: tensor 'image' at \(1, 0, 2, 3\); expected pixels in \[0, 1\], got 255.0; scale .* 1/255"
    for call in (model.encode, model.reconstruct, lambda images: model.interpolate(*images, steps=2)):
        with pytest.raises(ModelError, match=said):
            call(image)
    image[1, 0, 2, 3] = np.nextafter(np.float32(1), np.float32(2))
    model.encode(image)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, r"wrong inputs: autoencoder; expected \['image', 'noise'\], got \[\]"),
        ({"image": 1}, "wrong inputs"),
        ({"image": 1, "latent": 2}, "wrong inputs"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_ones(mlp: Exported, inputs: dict[str, int], said: str) -> None:
    entry = mlp.artifact.entry("autoencoder")
    opened = Session(mlp.artifact.read(entry), mlp.source.contract.spec("autoencoder"))
    with pytest.raises(ModelError, match=said):
        opened.run(dict.fromkeys(inputs, np.zeros((1, 4), np.float32)))
    with pytest.raises(ModelError, match=r"wrong shape: tensor 'noise'; expected \(2, 4\), got \(3, 4\)"):
        opened.run({"image": np.zeros((2, 1, 28, 28), np.float32), "noise": latents(3)})


def test_how_an_array_lies_in_memory_does_not_matter(model: Model) -> None:
    wide = np.random.default_rng(0).standard_normal((6, 8), dtype=np.float32)
    expected = model.decode(np.ascontiguousarray(wide[:, ::2]))
    read_only = wide[:, ::2].copy()
    read_only.flags.writeable = False
    for latent in (wide[:, ::2], np.asfortranarray(wide[:, ::2]), read_only):
        assert np.array_equal(model.decode(latent), expected)
    np.testing.assert_allclose(model.decode(wide[::-1, ::2]), expected[::-1], rtol=1e-5)


def test_threads_share_a_model(mlp: Exported) -> None:
    model = load(mlp.folder, threads=1)
    given = [latents(count % 7 + 1) for count in range(64)]
    expected = [load(mlp.folder, threads=1).decode(latent) for latent in given]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.decode, given))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_an_altered_file_never_reaches_onnx_runtime(
    mlp: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = mlp.copied(tmp_path / "export")
    path = artifact.folder / "decoder.onnx"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    opened: list[bytes] = []
    real = session.ort.InferenceSession

    def recorded(data: bytes, *arguments: object, **options: object) -> object:
        opened.append(data)
        return real(data, *arguments, **options)

    monkeypatch.setattr(session.ort, "InferenceSession", recorded)
    model = load(artifact.folder)
    with pytest.raises(IntegrityError, match=r"exported file was altered: .*decoder\.onnx; expected .* with SHA-256"):
        model.decode(latents(1))
    assert opened == []
    model.encode(np.zeros((1, 1, 28, 28), np.float32))
    assert len(opened) == 1, "the recorder works"


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "CudaExecutionProvider", ""])
def test_a_provider_that_is_not_there_is_an_error_and_no_fallback(mlp: Exported, provider: str) -> None:
    if provider in session.ort.get_available_providers():
        pytest.skip(f"{provider} is there")
    with pytest.raises(TargetError, match="provider is not there: .*expected .*CPUExecutionProvider"):
        load(mlp.folder, provider=provider).decode(latents(1))


@pytest.mark.parametrize("change", [{"latent_shape": (5,)}, {"latent_shape": (2, 2)}, {"image_shape": (1, 14, 56)}])
def test_a_file_unlike_its_manifest_is_refused(mlp: Exported, tmp_path: Path, change: dict[str, object]) -> None:
    artifact = mlp.copied(tmp_path / "export")
    contract: Contract = replace(mlp.source.contract, **change)  # type: ignore[arg-type]
    (artifact.folder / NAME).write_bytes(replace(artifact.manifest, contract=contract, golden=()).text)
    model = load(artifact.folder)
    latent = np.zeros((1, *contract.latent_shape), np.float32)
    with pytest.raises(ModelError, match="are not those of the contract: decoder; expected"):
        model.decode(latent)


@pytest.mark.parametrize("data", [b"", b"no onnx", b"\x08\x08\x12\x00" * 50])
def test_bytes_that_are_no_graph_are_refused_in_one_line(mlp: Exported, data: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        Session(data, mlp.source.contract.spec("decoder"))
    assert "\n" not in str(caught.value)


def test_a_part_that_was_not_exported_is_refused_by_name(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    files = tuple(entry for entry in artifact.manifest.files if entry.part != "encoder")
    (artifact.folder / NAME).write_bytes(replace(artifact.manifest, files=files, golden=()).text)
    with pytest.raises(ModelError, match=r"export has no such file: encoder, onnx, fp32; expected decoder\.onnx"):
        load(artifact.folder).encode(np.zeros((1, 1, 28, 28), np.float32))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "no export here: .*; expected a bundle, or the folder of an export"),
        ("file", "not a bundle: .*; expected a ZIP file"),
        ("folder", r"no export here: .*; expected manifest\.json"),
    ],
)
def test_a_place_without_an_export_is_refused(tmp_path: Path, kind: str, said: str) -> None:
    if kind == "file":
        (tmp_path / kind).touch()
    elif kind == "folder":
        (tmp_path / kind).mkdir()
    with pytest.raises(VaeExportError, match=said):
        load(tmp_path / kind)


def test_samples_of_a_seed_are_the_same_wherever_they_are_drawn(model: Model) -> None:
    images = model.sample(5, 7)
    assert images.shape == (5, 1, 28, 28)
    assert model.prior(2, 7, start=3).tobytes() == model.prior(5, 7)[3:].tobytes()
    assert np.array_equal(model.decode(model.prior(5, 7)), images)
    assert not np.array_equal(model.sample(5, 8), images)


@pytest.mark.parametrize("n", [0, -1, 1.0, "1", True, 2**62])
def test_a_bad_number_of_samples_is_refused(model: Model, n: object) -> None:
    with pytest.raises(UsageError, match="bad number of samples; expected an integer from 1 "):
        model.sample(n)  # type: ignore[arg-type]


def test_a_large_batch_goes_through_in_pieces(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = Session.run

    def counted(self: Session, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(len(next(iter(inputs.values()))))
        return run(self, inputs)

    monkeypatch.setattr(Session, "run", counted)
    latent = latents(10)
    pieces = load(mlp.folder, batch_size=4).decode(latent)
    assert seen == [4, 4, 2]
    whole = load(mlp.folder).decode(latent)
    assert seen == [4, 4, 2, 10]
    # Engines sum in another order at another batch size: the same to a rounding or two, not always the same bits.
    assert np.abs(pieces - whole).max() < 1e-6


def test_the_last_piece_is_checked_before_the_first_is_computed(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run", lambda *_: pytest.fail("computed"))
    latent = latents(10)
    latent[9, 3] = np.nan
    with pytest.raises(ModelError, match=r"not finite: tensor 'latent' at \(9, 3\)"):
        load(mlp.folder, batch_size=4).decode(latent)


@pytest.mark.parametrize("option", ["threads", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_a_bad_option_is_refused(mlp: Exported, option: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"bad {option}; expected an integer from 1 "):
        load(mlp.folder, **{option: value})  # type: ignore[arg-type]


def test_a_batch_without_room_for_its_result_is_refused_before_any_is_computed(mlp: Exported) -> None:
    """Three million rows give 9 GB of images, in a process that may have 4."""
    code = """
import resource, sys, numpy, vae_export
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
model = vae_export.load(sys.argv[1], threads=1)
try:
    model.decode(numpy.broadcast_to(model.prior(1), (3_000_000, 4)))
except vae_export.VaeExportError as error:
    print(type(error).__name__, error, sep=": ")
"""
    result = run_python(code, mlp.folder)
    assert result.stdout.startswith("OutOfMemoryError: out of memory; got 3,000,000 rows of decoder"), result.stderr


def test_interpolation_goes_from_one_reconstruction_to_the_other(model: Model) -> None:
    images = model.sample(2, 0)
    path = model.interpolate(images[0], images[1], 5)
    assert path.shape == (5, 1, 28, 28)
    ends = model.reconstruct(images)
    assert np.abs(path[[0, -1]] - ends).max() < 1e-5
    mean, _ = model.encode(images)
    assert np.abs(path[2] - model.decode(mean.mean(0, keepdims=True))[0]).max() < 1e-5


@pytest.mark.parametrize("steps", [1, 0, 2.0, 2**63])
def test_interpolation_needs_two_ends(model: Model, steps: object) -> None:
    image = model.sample(1)[0]
    with pytest.raises(UsageError, match="bad number of steps; expected an integer from 2 "):
        model.interpolate(image, image, steps)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"wrong shape: image 'b'; expected \(1, 28, 28\), got \(1, 1, 28, 28\)"):
        model.interpolate(image, image[None], 3)
    with pytest.raises(ModelError, match=r"wrong dtype: image 'b'; expected float32, got uint8"):
        model.interpolate(image, image.astype(np.uint8), 3)


def test_numpys_integers_are_integers(mlp: Exported) -> None:
    model = load(mlp.folder, threads=np.int64(1), batch_size=np.uint8(3))  # type: ignore[arg-type]
    images = model.sample(np.int32(4), np.uint64(2**64 - 1), start=np.int64(1))  # type: ignore[arg-type]
    assert np.array_equal(images, model.sample(4, 2**64 - 1, start=1))
    with pytest.raises(UsageError, match="bad number of rows; expected an integer from 0 up, got 1.5"):
        model.prior(1, start=1.5)  # type: ignore[arg-type]


def test_more_threads_than_there_are_anywhere_are_refused(mlp: Exported) -> None:
    """ONNX Runtime would start them."""
    with pytest.raises(UsageError, match="bad threads; expected an integer from 1 to 1,024, got 20000"):
        load(mlp.folder, threads=20_000)


def test_a_name_that_no_file_has_is_no_export() -> None:
    with pytest.raises(ModelError, match=r"no export here: a{60}…; expected .*, got File name too long; run"):
        load("a" * 5000)


def test_what_an_engine_has_no_room_for_is_said(mlp: Exported) -> None:
    """A network's inner results have no room in a process that was let grow to its own size and a little more."""
    code = """
import resource, sys, vae_export
model = vae_export.load(sys.argv[1], threads=1, batch_size=400_000)
latent = model.prior(400_000)
model.decode(latent[:1])
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (300 << 20), size + (300 << 20)))
try:
    model.decode(latent)
except vae_export.VaeExportError as error:
    print(type(error).__name__, error, sep=": ")
"""
    result = run_python(code, mlp.folder)
    assert result.stdout.startswith("OutOfMemoryError: out of memory; got 400,000 rows of decoder"), result.stderr


def test_many_threads_share_one_model(mlp: Exported) -> None:
    """Opened once, and the same results as alone."""
    model = load(mlp.folder, threads=1)
    expected = [model.sample(3, seed) for seed in range(8)]
    shared = load(mlp.folder, threads=1)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda seed: shared.sample(3, seed), list(range(8)) * 8))
    assert all(np.array_equal(result, expected[number % 8]) for number, result in enumerate(results))
