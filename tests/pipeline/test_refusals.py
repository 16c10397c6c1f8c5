"""Bad options and inputs are refused in one line, and leave no file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Invoke, tree

#: A command, its exit code, and a text in its last line; the test below fills in the places.
BAD = [
    ("sample -n 0", 2, "-n"),
    ("sample --seed -1", 2, "bad --seed; expected an integer from 0"),
    ("sample --seed 18446744073709551616", 2, "bad --seed"),
    ("sample --threads 0", 2, "--threads"),
    ("sample --batch-size -3", 2, "--batch-size"),
    ("sample --engine spark", 2, "unknown engine; expected local | ray, got spark"),
    ("sample --engine ray --actors 0", 2, "--actors"),
    ("sample --engine ray --ray-address ray://there:10001", 2, "Ray client"),
    ("sample --shards csv", 2, "unknown shards; expected npy | parquet, got csv"),
    ("sample --shard-rows 5", 2, "--shard-rows goes with --shards"),
    ("sample --run {home}", 2, "--bundle and --run exclude each other"),
    ("sample --out {home}/a.jpg", 2, "unknown type of output: {home}/a.jpg; expected NAME.png | NAME.npy | NAME,"),
    ("sample --out {latents}", 2, "output exists: {latents}; pass --force"),
    ("sample --out {home}/folder.npy --force", 2, "output path is a folder"),
    (
        "sample --out {home}/mine --force",
        2,
        "not a folder that may be replaced: {home}/mine; expected nothing but 000000.png, 000001.png, …, got",
    ),
    (
        "sample --out {home}/photos --force",
        2,
        "photos; expected nothing but 000000.png, 000001.png, …, got holiday.png",
    ),
    ("sample --out {home}/deep --force", 2, "not a folder that may be replaced"),
    ("sample --out {home}/photos/readme --force", 2, "not a folder, so --force will not replace it"),
    ("decode {latents} --out {home}/shards --shards npy --force", 2, "nothing but image-00000.npy, …, got latent"),
    ("sample --out {home}/shards --shards parquet --force", 2, "nothing but part-00000.parquet, …, got latent"),
    ("sample --out {home}/mine --shards npy --force", 2, "not a folder that may be replaced"),
    ("sample -n 100000000 --out {home}/grid.png", 2, "too many images for one picture"),
    ("sample -n 1000000000000 --out {home}/big.npy", 6, "disk full: {home}/big.npy; expected 3,136,000,000,000,"),
    ("sample -n 1000000000000 --out {home}/big --shards npy", 6, "disk full"),
    ("sample --provider CUDAExecutionProvider --out {home}/new", 6, "provider not found"),
    ("sample --out {latents}/below", 6, "{latents}/below"),
    ("decode {home}/none.npy", 3, "cannot be read: {home}/none.npy"),
    ("decode {latents} --out {latents} --force", 2, "the input would be overwritten"),
    ("decode {home}/inside/0.npy --out {home}/inside --force", 2, "overwritten: {home}/inside/0.npy; got --out"),
    (
        "decode {home}/mine",
        3,
        "nothing to read: {home}/mine; expected files in .npy or .npz or .parquet, got files in .txt",
    ),
    ("decode {home}/photos", 3, "got files in .png, readme"),
    ("decode {home}/folder.npy", 3, "got none"),
    ("decode {home}/nan.npy --out {home}/new", 3, "not finite: {home}/nan.npy, row 4"),
    ("decode {home}/nan.npy --out {home}/new.npy", 3, "not finite"),
    ("decode {home}/nan.npy --out {home}/new.png", 3, "not finite"),
    ("decode {home}/nan.npy --out {home}/new --shards npy --shard-rows 2", 3, "not finite"),
    ("decode {home}/nan.npy --out {home}/new --shards parquet --shard-rows 2", 3, "not finite"),
    ("decode {home}/huge.npy --out {home}/new.npy", 3, "counted from {home}/huge.npy, row 0 to 2"),
    ("encode {latents}", 3, "wrong shape: {latents}"),
    ("encode {home}/mine", 3, "not a readable image: {home}/mine/notes.txt"),
    ("encode {home}/nan.npy --out {home}/new", 2, "unknown type of output"),
    ("reconstruct {latents}", 3, "wrong shape"),
]


@pytest.mark.parametrize(("typed", "code", "message"), BAD, ids=[typed for typed, _, _ in BAD])
def test_bad_input_is_one_line_and_leaves_no_file(
    invoke: Invoke, bundle: Path, latents: Path, tmp_path: Path, typed: str, code: int, message: str
) -> None:
    import onnxruntime

    if "CUDA" in typed and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    home = tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    (home / "mine" / "notes.txt").write_text("mine")
    (home / "folder.npy").mkdir()
    bad = np.zeros((7, 4), np.float32)
    bad[4, 1] = np.nan
    np.save(home / "nan.npy", bad)
    (home / "inside").mkdir()
    np.save(home / "inside" / "0.npy", np.zeros((1, 4), np.float32))
    np.save(home / "huge.npy", np.full((3, 4), 3e38, np.float32))
    (home / "deep" / "000000.png").mkdir(parents=True)
    (home / "photos").mkdir()
    for name in ("photos/000000.png", "photos/holiday.png", "photos/readme", "deep/000000.png/000000.png"):
        (home / name).write_bytes(b"mine")
    (home / "shards").mkdir()
    np.save(home / "shards" / "latent-00000.npy", np.zeros((1, 4), np.float32))
    before = tree(tmp_path)
    outcome = invoke(*(word.format(home=home, latents=latents) for word in typed.split()), "--bundle", bundle)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert re.search(re.escape(message.format(home=home, latents=latents)), outcome.err.splitlines()[-1])
    assert outcome.err.startswith("vae-export: error: ")
    assert len(outcome.err.splitlines()) == 1
    assert tree(tmp_path) == before
