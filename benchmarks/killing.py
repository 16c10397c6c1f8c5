"""Kill trainings at random instants: is anything lost that was said to be saved, and do they go on to the same weights?

    python benchmarks/killing.py [--kills 100] [--resumes 20] [--epochs 12] [--seed 0]

Each round trains scikit-learn's digits through the command line, in a process of its own, sends it SIGKILL at an
instant drawn evenly over the time that an undisturbed training takes, and looks at what is on the disk. The checkpoint
must load and be of the last epoch that was printed as saved, or a later one; the state must be of the last epoch
printed, or a later one. Some rounds, spread over the whole, are then resumed to the end, and the final checkpoint is
compared, byte by byte, with that of a training that nobody killed (one thread: the sums of several are rounded as the
threads share them).

Exits 1 if anything was lost or differs.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from train.resume import load_state
from vae_export.errors import VaeExportError
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

CLI = [sys.executable, str(Path(__file__).parents[1] / "cli.py"), "train"]
_EPOCH = re.compile(r"^epoch +(\d+)/\d+ .*?(, saved)?$", re.MULTILINE)


def train(run: Run, *options: str, kill_after: float | None = None) -> tuple[int, float, str]:
    """Exit code, seconds from the first line printed to the last of an epoch, and all lines.

    Killed so many seconds after the first line, if at all.
    """
    command, lines = [*CLI, *options, "--out", str(run.folder)], []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        started = ended = 0.0
        timer = None
        for line in process.stderr or ():
            lines.append(line)
            ended = time.monotonic() if line.startswith("epoch ") else ended
            if timer is None and kill_after is not None:
                timer = threading.Timer(kill_after, process.send_signal, [signal.SIGKILL])
                timer.start()
            started = started or time.monotonic()
        code = process.wait()
        if timer is not None:
            timer.cancel()
    return code, ended - started, "".join(lines)


def lost(run: Run, said: str) -> str | None:
    """What was acknowledged and is not there, in a few words."""
    epochs = [(int(number), bool(saved)) for number, saved in _EPOCH.findall(said)]
    if not epochs:
        return None
    try:
        checkpoint, state = load_checkpoint(run.checkpoint), load_state(run)
    except VaeExportError as error:
        return str(error)
    best = max((number for number, saved in epochs if saved), default=0)
    if checkpoint.provenance["epoch"] < best:
        return f"epoch {best} was saved, the checkpoint is of {checkpoint.provenance['epoch']}"
    if state.epochs < epochs[-1][0]:
        return f"epoch {epochs[-1][0]} was done, the state is of {state.epochs}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--resumes", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    usual = ["--dataset", "digits", "--threads", "1", "--epochs", str(options.epochs), "--data-protocol", "dynamic"]
    instants = random.Random(options.seed)  # noqa: S311 -- no secret

    with tempfile.TemporaryDirectory() as folder:
        reference = Run(Path(folder) / "reference")
        code, whole, said = train(reference, *usual)
        if code != 0:
            raise SystemExit(said)
        expected = reference.checkpoint.read_bytes()
        kills = ended = nothing = partial = same = resumed = 0
        losses: list[str] = []
        reached: list[int] = []
        while kills < options.kills:
            run = Run(Path(folder) / "run")
            shutil.rmtree(run.folder, ignore_errors=True)
            code, seconds, said = train(run, *usual, kill_after=instants.uniform(0, whole))
            if code == 0:
                ended += 1  # before its instant: it counts for nothing, but says how long one takes now
                whole = seconds
                continue
            if code != -signal.SIGKILL:
                raise SystemExit(f"exit code {code}: {said}")
            kills += 1
            partial += any(run.folder.rglob(".partial-*"))
            reached.append(len(_EPOCH.findall(said)))
            if (loss := lost(run, said)) is not None:
                losses.append(loss)
                print(f"kill {kills}: lost: {loss}", flush=True)
            has_state = run.training_state.exists()
            nothing += not has_state
            if has_state and resumed * options.kills < options.resumes * kills:
                resumed += 1
                code, _, said = train(run, "--resume")
                same += code == 0 and run.checkpoint.read_bytes() == expected
                if code != 0:
                    print(f"kill {kills}: resume: exit code {code}: {said}", flush=True)
            if kills % 10 == 0:
                print(f"{kills} kills, {len(losses)} lost, {same} of {resumed} resumed alike", file=sys.stderr)
    print(f"kill -9:                        {kills}, and {ended} trainings that ended before their instant")
    print(f"epochs done by then:            {min(reached)} to {max(reached)}, median {statistics.median(reached):g}")
    print(f"within a write:                 {partial} left a half-written file under a partial name")
    print(f"before the first epoch's end:   {nothing}")
    print(f"acknowledged and lost:          {len(losses)}")
    print(f"resumed to the same bytes:      {same} of {resumed}")
    sys.exit(bool(losses) or same < resumed)


if __name__ == "__main__":
    main()
