"""Ray: real clusters on this machine, whose workers are killed while they compute."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from tests.commands import ROOT, command, run_cli, run_python, tree

pytestmark = pytest.mark.slow

#: Ray starts slowly where the cores are busy.
PATIENCE = 400
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
ROWS, SHARD = 100_000, 500


@pytest.fixture
def local(bundle: Path, tmp_path: Path) -> Path:
    """What one process makes of the sample below."""
    assert run_cli(*sample(bundle, tmp_path / "local"), cwd=tmp_path).returncode == 0
    return tmp_path / "local"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """A cluster of two workers: its address, and a process that each of them lives and dies with."""
    script = Path(__file__).with_name("cluster.py")
    with open(tmp_path / "cluster.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            _, address, *pids = next(line for line in lines if line.startswith("cluster: ")).split()
            yield address, [int(pid) for pid in pids]
        finally:
            process.communicate(timeout=PATIENCE)


def sample(bundle: Path, out: Path, *more: object) -> tuple[object, ...]:
    options = ("--shards", "npy", "--shard-rows", SHARD, "--levels", "--threads", 1)
    return ("sample", "-n", ROWS, "--seed", 3, "--bundle", bundle, "--out", out, *options, *more)


def start(*arguments: object, errors: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=errors, text=True)


def until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shards(folder: Path) -> int:
    """How many shards of an unfinished output are there."""
    return len(list(folder.glob(".partial-*/image-*.npy")))


def workers_below(ancestor: int) -> list[int]:
    """Processes that hold a model, of the cluster that process `ancestor` has started."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile

    def below(pid: int) -> bool:
        return pid == ancestor or (pid in parents and below(parents[pid]))

    return [pid for pid, name in names.items() if name.startswith(b"ray::MapWorker") and below(pid)]


def drivers_below(pid: int) -> list[int]:
    """Processes that are a driver of Ray for this one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [int(child) for child in children if b"ray.driver" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_worker_and_a_driver_that_are_killed_change_nothing(bundle: Path, local: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    said = tmp_path / "stderr"
    with said.open("w") as errors:
        process = start(*sample(bundle, home / "out", "--engine", "ray", "--actors", 2, "--json"), errors=errors)
    until(lambda: shards(home) > 0 and len(workers_below(process.pid)) == 2, process)
    os.kill(workers_below(process.pid)[0], signal.SIGKILL)
    until(lambda: "worker died" in said.read_text(), process)
    os.kill(drivers_below(process.pid)[0], signal.SIGSEGV)
    done = shards(home)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said.read_text()
    assert done < ROWS // SHARD, "it was killed too late"
    assert "Ray's driver died of SIGSEGV;" in said.read_text()
    assert json.loads(out)["engine"] == "ray"
    assert [path.name for path in home.iterdir()] == ["out"]
    assert tree(home / "out") == tree(local)


def test_a_machine_that_is_gone_for_good_changes_nothing(
    bundle: Path, local: Path, cluster: tuple[str, list[int]], tmp_path: Path
) -> None:
    address, pids = cluster
    home = tmp_path / "home"
    home.mkdir()
    process = start(*sample(bundle, home / "out", "--engine", "ray", "--actors", 2, "--ray-address", address))
    until(lambda: shards(home) > 0, process)
    os.kill(pids[0], signal.SIGKILL)
    done = shards(home)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert done < ROWS // SHARD, "it was killed too late"
    assert [path.name for path in home.iterdir()] == ["out"]
    assert tree(home / "out") == tree(local)
    few = run_cli(*sample(bundle, home / "more", "--engine", "ray", "--actors", 2, "--ray-address", address), cwd=home)
    assert few.returncode == 6
    assert few.stderr.endswith("cluster is too small; expected 2 cores, got 1; choose fewer --actors or --threads\n")


def test_one_cluster_encodes_decodes_and_names_what_it_cannot(
    bundle: Path, cluster: tuple[str, list[int]], tmp_path: Path
) -> None:
    """Outputs that come back and outputs that workers write, on a cluster that RAY_ADDRESS names."""
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), np.uint8))
    ray = ("--engine", "ray", "--actors", 2)
    environment = ENVIRONMENT | {"RAY_ADDRESS": cluster[0]}
    common = ("--bundle", bundle, "--threads", 1)
    for engine, more in (("local", ()), ("ray", ray)):
        for typed in (
            ("encode", "images.npy", "--out", f"{engine}.npz"),
            ("decode", f"{engine}.npz", "--levels", "--shards", "parquet", "--out", f"{engine}-shards"),
        ):
            done = run_cli(*typed, *common, *more, cwd=tmp_path, env=environment)
            assert done.returncode == 0, done.stderr
    assert (tmp_path / "ray.npz").read_bytes() == (tmp_path / "local.npz").read_bytes()
    assert tree(tmp_path / "ray-shards") == tree(tmp_path / "local-shards")
    latents = np.zeros((60_000, 4), np.float32)
    latents[41_234, 2] = np.nan
    np.save(tmp_path / "nan.npy", latents)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run_cli("decode", "nan.npy", *common, *ray, "--out", "out.npy", cwd=tmp_path, env=environment)
    assert done.returncode == 3
    line = done.stderr.splitlines()[-1]
    assert line == f"vae-export: error: not finite: {tmp_path}/nan.npy, row 41234; expected finite numbers, got nan"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_rows_that_kill_every_worker_are_named(bundle: Path) -> None:
    code = f"""if True:
        import os
        import numpy as np
        from vae_export.pipeline import ModelPayload, Chunks, Task
        from vae_export.session_options import SessionOptions
        from vae_export.pipeline.ray.engine import RayEngine
        from vae_export.errors import MachineError
        from vae_export.runtime import open_package
        class Deadly:
            rows, item, dtype = 40, (4,), np.dtype(np.float32)
            def read(self, start, stop):
                if start == 20:
                    os.kill(os.getpid(), 9)
                return np.zeros((stop - start, 4), np.float32)
            def locate(self, row):
                return f"deadly, row {{row}}"
        engine = RayEngine(ModelPayload.of(open_package({str(bundle)!r}), ("decoder",), SessionOptions()), actors=1)
        seen = 0
        try:
            for outputs in engine.run(Task("decode", Deadly()), Chunks(40, 10)):
                seen += len(outputs["image"])
        except MachineError as error:
            print(seen, error)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    said = "20 workers die of these rows: deadly, row 20 to 29; got 4 dead; see Ray's logs"
    assert said in done.stdout, done.stderr


def test_drivers_that_all_die_are_one_line(bundle: Path) -> None:
    code = f"""if True:
        import os
        from vae_export.pipeline import ModelPayload, Chunks, Task
        from vae_export.session_options import SessionOptions
        from vae_export.pipeline.ray.engine import RayEngine
        from vae_export.errors import MachineError
        from vae_export.runtime import open_package
        class Deadly:
            def __reduce__(self):
                return os.kill, (0, 9)  # whoever unpickles it, and its group: the driver alone
        engine = RayEngine(ModelPayload.of(open_package({str(bundle)!r}), ("decoder",), SessionOptions()), actors=1)
        try:
            list(engine.run(Task("decode", Deadly()), Chunks(40, 10)))
        except MachineError as error:
            print(error)
    """
    done = run_python(code)
    assert done.stdout == "Ray's driver died of SIGKILL: 4 times in a row; see Ray's logs; --engine local needs none\n"


def test_ctrl_c_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = start(*sample(bundle, home / "out", "--engine", "ray", "--actors", 1))
    until(lambda: shards(home) > 0, process)
    workers = workers_below(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert re.search(r"^vae-export: interrupted$", err, re.MULTILINE)
    assert list(home.iterdir()) == []
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "the cluster was left behind"
        time.sleep(0.1)


def test_a_cluster_that_is_not_there_is_exit_code_6(bundle: Path, tmp_path: Path) -> None:
    done = run_cli(*sample(bundle, tmp_path / "out", "--engine", "ray", "--ray-address", "127.0.0.1:9"), cwd=tmp_path)
    assert done.returncode == 6
    assert "Ray cannot be reached: 127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["small.zip"]


def test_more_actors_than_cores_are_refused(bundle: Path, tmp_path: Path) -> None:
    done = run_cli(*sample(bundle, tmp_path / "out", "--engine", "ray", "--actors", 5000), cwd=tmp_path)
    assert done.returncode == 6
    assert "cluster is too small; expected 5000 cores" in done.stderr.splitlines()[-1]


def test_more_actors_than_gpus_are_refused_rather_than_waited_for(bundle: Path, tmp_path: Path) -> None:
    gpu = ("--engine", "ray", "--actors", os.cpu_count(), "--provider", "CUDAExecutionProvider")
    done = run_cli(*sample(bundle, tmp_path / "out", *gpu), cwd=tmp_path)
    assert done.returncode == 6
    assert f"cluster is too small; expected {os.cpu_count()} GPUs, got " in done.stderr.splitlines()[-1]


def test_the_engine_is_not_imported_by_others(bundle: Path) -> None:
    code = f"import vae_export.pipeline, sys; print('ray' in sys.modules, {str(bundle)!r})"
    assert run_python(code).stdout.startswith("False")
