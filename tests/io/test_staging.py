"""Outputs that are filled under another name are published whole, or leave nothing."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT, run_python
from tests.processes import kill, names, start
from vae_export.errors import OutputExistsError, StorageError, UsageError
from vae_export.io.atomic import PARTIAL
from vae_export.io.staging import check_free, staged_file, staged_folder, sweep
from vae_export.pipeline.writers import Shards


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
    def test_force_replaces_file_or_link_completely(self, tmp_path: Path, make: object) -> None:
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
        with pytest.raises(UsageError, match="not a valid output name"):
            check_free(Path(path), force=True)

    def test_long_path_is_refused_before_work(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="path too long"):
            check_free(tmp_path / ("n" * 300), force=False)

    @pytest.mark.slow
    def test_kill_between_the_renames_loses_nothing(self, tmp_path: Path) -> None:
        final = tmp_path / "out"
        final.mkdir()
        (final / "old").touch()
        code = """if True:
            import os, signal, sys
            from pathlib import Path
            from vae_export.io.staging import staged_folder
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

    @pytest.mark.slow
    def test_stale_partial_folder_is_swept_live_one_kept(self, tmp_path: Path) -> None:
        code = """if True:
            import sys, time
            from pathlib import Path
            from vae_export.io.staging import staged_folder
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
    def test_folder_swept_before_its_lock_is_made_again(
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

    def test_late_writer_cannot_recreate_failed_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker of Ray outlives the process that asked it by a moment: by just that of the removal."""
        rmdir, refused = os.rmdir, []

        def worker_first(path: str, **options: int) -> None:
            monkeypatch.setattr(os, "rmdir", rmdir)
            with pytest.raises(StorageError) as caught:
                shards.write(1, {"image": np.zeros(1)})
            refused.append(caught.value)
            rmdir(path, **options)

        with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out", force=False) as staging:
            shards = Shards(staging, "npy", ("image",))
            shards.write(0, {"image": np.zeros(1)})
            monkeypatch.setattr(os, "rmdir", worker_first)
            raise KeyboardInterrupt
        assert refused
        assert names(tmp_path) == []


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

    def test_does_not_make_a_folder_that_was_removed_anew(self, tmp_path: Path) -> None:
        gone = tmp_path / "gone"
        with pytest.raises(StorageError), staged_file(gone / "file", force=False, parents=False):
            pytest.fail("nobody wants it any more")
        assert names(tmp_path) == []

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

    @pytest.mark.slow
    def test_stale_partial_file_is_swept_live_one_kept(self, tmp_path: Path) -> None:
        code = """if True:
            import sys, time
            from pathlib import Path
            from vae_export.io.staging import staged_file
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

    def test_staged_file_is_locked_until_published(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    @pytest.mark.slow
    def test_many_processes_write_beside_each_other(self, tmp_path: Path) -> None:
        """The sweeping of one must not meet what another has just made."""
        code = """if True:
            import sys
            from pathlib import Path
            from vae_export.io.staging import staged_file
            for index in range(60):
                with staged_file(Path(sys.argv[1]) / f"{sys.argv[2]}-{index}", force=True) as file:
                    file.write(b"x")
        """
        children = [
            subprocess.Popen([sys.executable, "-c", code, tmp_path, str(number)], cwd=ROOT) for number in range(3)
        ]
        assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
        assert len(names(tmp_path)) == 180
