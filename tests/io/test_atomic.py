"""Files are whole or absent, and a run has one writer."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.processes import kill, names, start
from vae_export.errors import StorageError
from vae_export.io.atomic import PARTIAL, check_writable, locked, sha256, write_atomic
from vae_export.io.staging import sweep


@given(st.binary(max_size=1000))
def test_sha256_is_the_standard_one_for_bytes_and_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "data"
    path.write_bytes(data)
    assert sha256(data) == sha256(path) == hashlib.sha256(data).hexdigest()


class TestWriteAtomic:
    def test_writes_and_replaces_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "file.bin"
        write_atomic(path, b"one")
        write_atomic(path, b"two")
        assert path.read_bytes() == b"two"
        assert names(path.parent) == ["file.bin"]

    def test_others_may_read_the_result(self, tmp_path: Path) -> None:
        write_atomic(tmp_path / "file", b"")
        (tmp_path / "plain").touch()
        assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode

    @pytest.mark.slow
    def test_is_one_whole_version_after_each_of_many_kills(self, tmp_path: Path) -> None:
        size = 300_000
        code = """if True:
            import sys
            from pathlib import Path
            from vae_export.io.atomic import write_atomic
            path, version = Path(sys.argv[1]), 0
            write_atomic(path, bytes([255]) * 300_000)
            print("ready", flush=True)
            while True:
                write_atomic(path, bytes([version % 255]) * 300_000)
                version += 1
        """
        path, seen = tmp_path / "file", set()
        for attempt in range(12):
            child = start(code, path)
            while path.read_bytes()[0] not in range(attempt, 255):  # it has written so many versions
                time.sleep(0.0001)
            time.sleep(0.0002 * attempt)
            kill(child)
            data = path.read_bytes()
            assert len(data) == size
            assert data == data[:1] * size
            seen.add(data[0])
        assert len(seen) > 3
        (tmp_path / f"{PARTIAL}half").write_bytes(b"torn")  # in case that no kill came in the middle of a write
        (tmp_path / f"{PARTIAL}folder").mkdir()
        (tmp_path / f"{PARTIAL}old-export").mkdir()
        sweep(tmp_path)
        assert names(tmp_path) == [f"{PARTIAL}old-export", "file"], "a complete older output is not swept"

    def test_full_disk_names_both_sizes_and_keeps_the_old_file(self, small_disk: Path) -> None:
        path = small_disk / "file"
        write_atomic(path, b"old")
        with pytest.raises(StorageError, match=r"disk full: .*file; expected 5,000,000 bytes, got [\d,]+ bytes free"):
            write_atomic(path, bytes(5_000_000))
        assert path.read_bytes() == b"old"
        assert names(small_disk) == ["file"]

    def test_read_only_disk_is_one_line(self, read_only_disk: Path) -> None:
        with pytest.raises(StorageError, match="cannot write: .*; got Read-only file system; choose another --out"):
            write_atomic(read_only_disk / "file", b"")
        with pytest.raises(StorageError, match="Read-only"):
            check_writable(read_only_disk / "new")

    def test_writable_place_is_checked_without_making_its_folders(self, tmp_path: Path) -> None:
        check_writable(tmp_path / "new" / "deep")
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"not a folder: .*file/new; got "):
            check_writable(tmp_path / "file" / "new")
        assert names(tmp_path) == ["file"]

    @pytest.mark.parametrize("name", ["n" * 300, "d/" * 3000 + "f", "f." + "s" * 300])
    def test_too_long_a_path_is_one_short_line(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(StorageError, match="path too long") as caught:
            write_atomic(tmp_path / name, b"")
        assert len(str(caught.value)) < 200
        assert not names(tmp_path)

    def test_folder_in_place_of_the_file_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(StorageError, match="cannot write: .*Is a directory"):
            write_atomic(tmp_path / "out", b"")
        assert names(tmp_path) == ["out"]

    def test_file_in_place_of_the_folder_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="not a folder"):
            write_atomic(tmp_path / "file" / "below", b"")
        assert names(tmp_path) == ["file"]

    @pytest.mark.parametrize("name", ["with space", os.fsdecode(b"\xff\xfe"), "zeichen-äöü-漢"])
    def test_any_name_that_the_system_takes_will_do(self, tmp_path: Path, name: str) -> None:
        write_atomic(tmp_path / name / name, b"data")
        assert (tmp_path / name / name).read_bytes() == b"data"


class TestLock:
    @pytest.mark.slow
    def test_second_holder_is_told_the_first_ones_process(self, tmp_path: Path) -> None:
        code = """if True:
            import sys, time
            from pathlib import Path
            from vae_export.io.atomic import locked
            with locked(Path(sys.argv[1])):
                print("ready", flush=True)
                time.sleep(60)
        """
        holder = start(code, tmp_path)
        try:
            with pytest.raises(StorageError, match=f"run is in use: .*a lock held by process {holder.pid}"):
                locked(tmp_path).__enter__()
        finally:
            kill(holder)
        with locked(tmp_path):  # the kernel freed it
            assert (tmp_path / ".lock").read_text() == str(os.getpid())

    def test_can_be_taken_again_after_release(self, tmp_path: Path) -> None:
        for _ in range(2):
            with locked(tmp_path):
                pass
