"""Batches of any size, from any number of threads, in the memory there is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.commands import run_python
from tests.conftest import Exported
from tests.runtime.conftest import latents
from vae_export import load
from vae_export.errors import ModelError
from vae_export.runtime.session import Session


def test_threads_share_a_model(mlp: Exported) -> None:
    model = load(mlp.folder, threads=1)
    given = [latents(count % 7 + 1) for count in range(64)]
    expected = [load(mlp.folder, threads=1).decode(latent) for latent in given]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.decode, given))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_large_batch_is_computed_in_pieces(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    compute = Session.compute

    def counted(self: Session, inputs: dict[str, np.ndarray], rows: int, *into: object) -> dict[str, np.ndarray]:
        seen.append(len(next(iter(inputs.values()))))
        return compute(self, inputs, rows, *into)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "compute", counted)
    latent = latents(10)
    pieces = load(mlp.folder, batch_size=4).decode(latent)
    assert seen == [4, 4, 2]
    whole = load(mlp.folder).decode(latent)
    assert seen == [4, 4, 2, 10]
    # Engines sum in another order at another batch size: the same to a rounding or two, not always the same bits.
    assert np.abs(pieces - whole).max() < 1e-6


def test_all_rows_are_checked_before_computing(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "compute", lambda *_: pytest.fail("computed"))
    latent = latents(10)
    latent[9, 3] = np.nan
    with pytest.raises(ModelError, match=r"not finite: tensor 'latent' at \(9, 3\)"):
        load(mlp.folder, batch_size=4).decode(latent)


@pytest.mark.slow
def test_batch_beyond_memory_is_refused_before_computing(mlp: Exported) -> None:
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


@pytest.mark.slow
def test_engine_out_of_memory_is_reported(mlp: Exported) -> None:
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
