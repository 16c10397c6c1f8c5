"""Kill trainings at random times, check that nothing acknowledged is lost, and that they resume to the same weights.

    python benchmarks/killing.py [--kills 100] [--resumes 20] [--epochs 12] [--seed 0]

Each round trains on scikit-learn's digits with the command line and sends SIGKILL at a random time within that of an
undisturbed training. The checkpoint on the disk must load, and be of the last epoch that was printed as saved, or of a
later one; the state must be of the last epoch printed, or of a later one. Some of the rounds are then resumed to the
end, and the final checkpoint must equal that of an undisturbed training in all bytes. Trainings have one thread,
because the rounding of sums depends on how threads share them.

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
    """Run a training, and kill it so many seconds after its first line, if at all.

    Returns:
        The exit code, the seconds from the first line to the last line of an epoch, and all lines.
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


def lost(run: Run, output: str) -> str | None:
    """Return what was acknowledged and is not there, or None."""
    epochs = [(int(number), bool(saved)) for number, saved in _EPOCH.findall(output)]
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
        code, whole, output = train(reference, *usual)
        if code != 0:
            raise SystemExit(output)
        expected = reference.checkpoint.read_bytes()
        kills = ended = nothing = partial = same = resumed = 0
        losses: list[str] = []
        reached: list[int] = []
        while kills < options.kills:
            run = Run(Path(folder) / "run")
            shutil.rmtree(run.folder, ignore_errors=True)
            code, seconds, output = train(run, *usual, kill_after=instants.uniform(0, whole))
            if code == 0:
                ended += 1  # before its time: it does not count, but says how long a training takes now
                whole = seconds
                continue
            if code != -signal.SIGKILL:
                raise SystemExit(f"exit code {code}: {output}")
            kills += 1
            partial += any(run.folder.rglob(".partial-*"))
            reached.append(len(_EPOCH.findall(output)))
            if (loss := lost(run, output)) is not None:
                losses.append(loss)
                print(f"kill {kills}: lost: {loss}", flush=True)
            has_state = run.training_state.exists()
            nothing += not has_state
            if has_state and resumed * options.kills < options.resumes * kills:
                resumed += 1
                code, _, output = train(run, "--resume")
                same += code == 0 and run.checkpoint.read_bytes() == expected
                if code != 0:
                    print(f"kill {kills}: resume: exit code {code}: {output}", flush=True)
            if kills % 10 == 0:
                print(f"{kills} kills, {len(losses)} lost, {same} of {resumed} resumed alike", file=sys.stderr)
    print(f"kill -9:                        {kills}, and {ended} trainings that ended before")
    print(f"epochs done by then:            {min(reached)} to {max(reached)}, median {statistics.median(reached):g}")
    print(f"within a write:                 {partial} left a half-written file under a partial name")
    print(f"before the first epoch's end:   {nothing}")
    print(f"acknowledged and lost:          {len(losses)}")
    print(f"resumed to the same bytes:      {same} of {resumed}")
    sys.exit(bool(losses) or same < resumed)


if __name__ == "__main__":
    main()
