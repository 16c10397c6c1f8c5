"""Files are whole or absent, whatever happens to the process, the disk or the folder."""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.commands import ROOT, run_python
from vae_export.errors import OutputExistsError, StorageError, UsageError
from vae_export.files import locked, sha256, write_atomic
from vae_export.staging import check_free, staged_file, staged_folder, sweep
from vae_export.storage import PARTIAL, check_room, check_writable, storage_errors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A child that says "ready" when its work has begun."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


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

    def test_is_one_whole_version_after_each_of_many_kills(self, tmp_path: Path) -> None:
        size = 300_000
        code = """if True:
            import sys
            from pathlib import Path
            from vae_export.files import write_atomic
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
            time.sleep(0.002 * attempt)
            kill(child)
            data = path.read_bytes()
            assert len(data) == size
            assert data == data[:1] * size
            seen.add(data[0])
        assert len(seen) > 3, "the kills came at other moments"
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
            check_writable(read_only_disk)

    @pytest.mark.parametrize("name", ["n" * 300, "d/" * 3000 + "f", "f." + "s" * 300])
    def test_too_long_a_path_is_one_short_line(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(StorageError, match="path too long") as caught:
            write_atomic(tmp_path / name, b"")
        assert len(str(caught.value)) < 200
        assert not names(tmp_path)

    def test_a_folder_in_the_way_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(StorageError, match="cannot write: .*Is a directory"):
            write_atomic(tmp_path / "out", b"")
        assert names(tmp_path) == ["out"]

    def test_a_file_in_the_way_of_the_folder_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="not a folder"):
            write_atomic(tmp_path / "file" / "below", b"")
        assert names(tmp_path) == ["file"]

    @pytest.mark.parametrize("name", ["with space", os.fsdecode(b"\xff\xfe"), "zeichen-äöü-漢"])
    def test_any_name_that_the_system_takes_will_do(self, tmp_path: Path, name: str) -> None:
        write_atomic(tmp_path / name / name, b"data")
        assert (tmp_path / name / name).read_bytes() == b"data"


class TestStagedFolder:
    def test_publishes_all_at_once(self, tmp_path: Path) -> None:
        final = tmp_path / "out"
        with staged_folder(final, force=False) as staging:
            (staging / "sub").mkdir()
            (staging / "sub" / "file").write_bytes(b"data")
            assert staging.parent == final.parent, "on the same file system"
            assert not final.exists()
        assert (final / "sub" / "file").read_bytes() == b"data"
        assert names(tmp_path) == ["out"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_leaves_nothing_on_failure(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error), staged_folder(tmp_path / "out", force=False) as staging:
            (staging / "file").touch()
            raise error
        assert not names(tmp_path)

    def test_keeps_the_old_folder_on_failure(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").touch()
        with pytest.raises(ValueError), staged_folder(tmp_path / "out", force=True):
            raise ValueError
        assert names(tmp_path) == ["out"]
        assert names(tmp_path / "out") == ["old"]

    def test_force_replaces_the_whole_folder(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").touch()
        with staged_folder(tmp_path / "out", force=True) as staging:
            (staging / "new").touch()
        assert names(tmp_path) == ["out"]
        assert names(tmp_path / "out") == ["new"]

    def test_refuses_what_exists(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(OutputExistsError, match=r"output exists: .*/out; pass --force"):
            staged_folder(tmp_path / "out", force=False).__enter__()

    def test_refuses_what_somebody_made_meanwhile(self, tmp_path: Path) -> None:
        with pytest.raises(OutputExistsError), staged_folder(tmp_path / "out", force=False) as staging:
            (staging / "mine").touch()
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()
        assert names(tmp_path / "out") == ["theirs"]
        assert names(tmp_path) == ["out"]

    @pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("elsewhere", target_is_directory=True)])
    def test_force_replaces_a_file_or_a_link_and_leaves_no_trace_of_it(self, tmp_path: Path, make: object) -> None:
        (tmp_path / "elsewhere").mkdir()
        for _ in range(2):
            (tmp_path / "out").rename(tmp_path / "gone") if (tmp_path / "out").exists() else None
            make(tmp_path / "out")  # type: ignore[operator]
            with staged_folder(tmp_path / "out", force=True):
                pass
            assert (tmp_path / "out").is_dir()
            assert not (tmp_path / "out").is_symlink()
        assert names(tmp_path) == ["elsewhere", "gone", "out"]

    @pytest.mark.parametrize("path", [".", "..", "/"])
    def test_refuses_a_path_without_a_name(self, path: str) -> None:
        with pytest.raises(UsageError, match="not a name for an output"):
            check_free(Path(path), force=True)

    def test_too_long_a_path_is_refused_before_any_work(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="path too long"):
            check_free(tmp_path / ("n" * 300), force=False)

    def test_a_kill_between_the_two_renames_loses_nothing(self, tmp_path: Path) -> None:
        final = tmp_path / "out"
        final.mkdir()
        (final / "old").touch()
        code = """if True:
            import os, signal, sys
            from pathlib import Path
            from vae_export.staging import staged_folder
            final, rename = Path(sys.argv[1]), os.rename
            def rename_and_die(old, new):
                rename(old, new)
                os.kill(os.getpid(), signal.SIGKILL)
            os.rename = rename_and_die
            with staged_folder(final, force=True) as staging:
                (staging / "new").touch()
        """
        assert run_python(code, final).returncode == -signal.SIGKILL
        assert not final.exists()
        with pytest.raises(OutputExistsError):  # the old one is back, and is refused like any other
            check_free(final, force=False)
        assert names(final) == ["old"]

    def test_what_a_killed_process_left_is_gone_after_the_next_and_what_a_live_one_fills_is_not(
        self, tmp_path: Path
    ) -> None:
        code = """if True:
            import sys, time
            from pathlib import Path
            from vae_export.staging import staged_folder
            with staged_folder(Path(sys.argv[1]), force=False) as staging:
                (staging / "half").write_text("done")
                print(staging, flush=True)
                time.sleep(600)
        """
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code, tmp_path / name], env=environment, stdout=subprocess.PIPE, text=True
            )
            for name in ("dead", "alive")
        ]
        try:
            dead, alive = (Path(child.stdout.readline().strip()) for child in children)  # type: ignore[union-attr]
            children[0].kill()
            children[0].wait()
            (tmp_path / ".partial-file").touch()  # of an atomic write: nobody knows whose
            assert {dead.name, alive.name} <= set(names(tmp_path))
            with staged_folder(tmp_path / "out", force=False) as staging:
                assert set(names(tmp_path)) == {alive.name, staging.name, ".partial-file"}
                sweep(tmp_path)
                assert set(names(tmp_path)) == {alive.name, staging.name}
            assert set(names(tmp_path)) == {alive.name, "out"}
            assert names(alive) == ["half"]
        finally:
            for child in children:
                child.kill()
                child.communicate()

    @pytest.mark.parametrize("call", ["os.open", "fcntl.flock"])
    def test_a_folder_that_is_swept_before_it_is_held_is_made_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        module, name = call.split(".")
        original, swept = getattr(importlib.import_module(module), name), []

        def sweep_first(*arguments: object, **options: object) -> object:
            if not swept:
                swept.extend(tmp_path.glob(f"{PARTIAL}*"))
                [folder] = swept
                folder.rmdir()
            return original(*arguments, **options)

        monkeypatch.setattr(call, sweep_first)
        with staged_folder(tmp_path / "out", force=False) as staging:
            assert names(tmp_path) == [staging.name] != [swept[0].name]
        assert names(tmp_path) == ["out"]


class TestLock:
    def test_second_holder_is_told_the_first_ones_process(self, tmp_path: Path) -> None:
        code = """if True:
            import sys, time
            from pathlib import Path
            from vae_export.files import locked
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


@pytest.mark.parametrize("code", ["EIO", "EFBIG", "ELOOP", "ENOSPC", "EDQUOT", "EACCES", "EROFS", "ENAMETOOLONG"])
def test_every_error_of_the_system_becomes_a_storage_error(tmp_path: Path, code: str) -> None:
    import errno

    number = getattr(errno, code)
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)


class TestStagedFile:
    def test_is_published_by_one_rename(self, tmp_path: Path) -> None:
        with staged_file(tmp_path / "file", force=False) as file:
            file.write(b"half")
            assert not (tmp_path / "file").exists()
            file.write(b" and half")
        assert (tmp_path / "file").read_bytes() == b"half and half"
        (tmp_path / "plain").touch()
        assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
        assert names(tmp_path) == ["file", "plain"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_leaves_the_old_file_on_failure(self, tmp_path: Path, error: type[BaseException]) -> None:
        (tmp_path / "file").write_bytes(b"old")
        with pytest.raises(error), staged_file(tmp_path / "file", force=True) as file:
            file.write(b"new")
            raise error
        assert (tmp_path / "file").read_bytes() == b"old"
        assert names(tmp_path) == ["file"]

    def test_refuses_what_exists_before_and_after(self, tmp_path: Path) -> None:
        with pytest.raises(OutputExistsError), staged_file(tmp_path / "file", force=False):
            (tmp_path / "file").write_bytes(b"somebody else's")
        with pytest.raises(OutputExistsError), staged_file(tmp_path / "file", force=False):
            pytest.fail("too late")
        assert (tmp_path / "file").read_bytes() == b"somebody else's"

    def test_full_disk_is_one_line_and_leaves_nothing(self, small_disk: Path) -> None:
        with pytest.raises(StorageError, match="disk full"), staged_file(small_disk / "file", force=False) as file:
            for _ in range(30):
                file.write(bytes(100_000))
        assert names(small_disk) == []

    def test_what_a_killed_process_left_is_swept_and_what_a_live_one_writes_is_not(self, tmp_path: Path) -> None:
        code = """if True:
            import sys, time
            from pathlib import Path
            from vae_export.staging import staged_file
            with staged_file(Path(sys.argv[1]), force=False) as file:
                print("ready", flush=True)
                time.sleep(600)
        """
        child = start(code, tmp_path / "other")
        with staged_file(tmp_path / "file", force=False):
            assert len(names(tmp_path)) == 2
        kill(child)
        assert len(names(tmp_path)) == 2
        with staged_file(tmp_path / "file", force=True):
            pass
        assert names(tmp_path) == ["file"]

    def test_what_is_written_is_held_until_it_has_its_final_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another writer sweeps just when the file is whole and about to be renamed."""
        rename = os.replace

        def others_first(source: Path, target: Path) -> None:
            monkeypatch.setattr(os, "replace", rename)
            with staged_file(tmp_path / "other", force=False) as other:
                other.write(b"other")
            rename(source, target)

        monkeypatch.setattr(os, "replace", others_first)
        with staged_file(tmp_path / "mine", force=False) as file:
            file.write(b"mine")
        assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == {
            "mine": b"mine",
            "other": b"other",
        }

    def test_many_processes_write_beside_each_other(self, tmp_path: Path) -> None:
        """The sweeping of one must not meet what another has just made."""
        code = """if True:
            import sys
            from pathlib import Path
            from vae_export.staging import staged_file
            for index in range(60):
                with staged_file(Path(sys.argv[1]) / f"{sys.argv[2]}-{index}", force=True) as file:
                    file.write(b"x")
        """
        children = [
            subprocess.Popen([sys.executable, "-c", code, tmp_path, str(number)], cwd=ROOT) for number in range(3)
        ]
        assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
        assert len(names(tmp_path)) == 180


class TestRoom:
    def test_both_sizes_are_named(self, small_disk: Path) -> None:
        check_room(small_disk / "file", 1 << 19)
        with pytest.raises(StorageError, match=r"disk full: \S+file; expected 2,097,152 bytes, got [\d,]+ bytes free"):
            check_room(small_disk / "file", 2 << 20)
