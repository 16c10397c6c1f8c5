"""A training as it was asked for, from reading images to the last line on the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from train.commands.process import device as chosen_device
from train.commands.process import ending_together, memory_errors
from train.commands.tables import score_table
from train.options import TrainOptions
from vae_export.cli import console
from vae_export.extras import require
from vae_export.runs import Run

if TYPE_CHECKING:
    import torch

    from train.processes import Processes
    from train.session import Session
    from train.state import State


def carry_out(
    options: TrainOptions,
    run: Run,
    arguments: Mapping[str, Any],
    *,
    resume: bool,
    force: bool,
    tensorboard: bool,
    json: bool,
) -> None:
    """Train, draw, print.

    Args:
        options: of the training.
        run: where it goes.
        arguments: as they were typed, for the state; device and threads go in as they were chosen.
        resume: go on with what lies in the run.
        force: replace it.
        tensorboard: write event files too.
        json: print the result as JSON.
    """
    if tensorboard:
        require("tensorboard")
    with memory_errors():
        import torch

        from train import doctor
        from train.claim import check_out, claimed, reclaimed
        from train.compiling import check_compiler
        from train.data import load
        from train.loop import steps_per_epoch
        from train.pictures import draw_pictures
        from train.processes import joined
        from train.report import reporting
        from train.session import Session
        from train.state import load_state
        from train.trial import pace_of
        from vae_export.checkpoint import load_checkpoint

        chosen = chosen_device(options.device, options.threads)
        with ending_together(), joined(chosen) as processes:
            say: Callable[[str], None] = console.message if processes.is_first else lambda _: None
            if not resume:
                processes.first(lambda: check_out(run, force=force))
            images = processes.each(lambda: load(options.data))
            config = options.network.config(images.image_shape)  # before the folder is touched: it may not fit
            recipe = options.recipe_for(len(images.train))
            steps = steps_per_epoch(len(images.train), recipe.batch_size)
            processes.part(recipe.batch_size)
            if options.compiled:
                check_compiler(chosen)
            pace = processes.gathered(pace_of(options, config, images, chosen, processes))[0]
            torch.set_num_threads(pace.way.threads)
            options = replace(options, precision=pace.way.precision, threads=pace.way.threads)
            arguments = dict(arguments) | {"device": chosen.type, "threads": pace.way.threads}
            with processes.led(reclaimed(run) if resume else claimed(run, force=force)):
                session = Session(options, run, images, chosen, arguments, processes)
                count = f"{len(images.train):,} images of {options.data.name}"
                say(f"{run.folder}: {config.family} on {count}, {_where(chosen, processes)}")
                say(pace.line(recipe.batch_size // processes.count))
                for line in doctor.before(config, images):
                    say(f"note: {line}")
                if resume:
                    _go_on(session, processes.first(lambda: load_state(run)), say)
                was_done = session.is_done
                with (
                    reporting(
                        epochs=recipe.epochs,
                        steps=steps,
                        batch_size=recipe.batch_size,
                        protocol=options.data.protocol,
                        silent=not processes.is_first,
                    ) as report,
                    _events(tensorboard and not was_done and processes.is_first, session),
                ):
                    saved = session.train(report)
                if processes.is_first and not (was_done and run.pictures.exists()):
                    draw_pictures(load_checkpoint(run.checkpoint).model(), images, run)
    if not processes.is_first:
        return
    if json:
        console.result_json({"run": str(run.folder), "checkpoint": str(run.checkpoint), **saved.to_json()})
        return
    scores, title = {"validation": saved.validation, "test": saved.test}, f"{run.folder}, epoch {saved.epoch}"
    console.result(score_table(scores, title, options.data.protocol, config.likelihood))
    console.result(f"checkpoint: {run.checkpoint}\npictures:   {run.pictures}")


def _where(device: torch.device, processes: Processes) -> str:
    return device.type if processes.alone else f"{device.type}, {processes.count} processes"


@contextmanager
def _events(wanted: bool, session: Session) -> Iterator[None]:
    """Let the session write TensorBoard's event files, if they are wanted."""
    if not wanted:
        yield
        return
    from train.events import recording

    done, epochs = session.epochs, session.recipe.epochs
    with recording(session.run, session.dataset, done=done, epochs=epochs) as session.events:
        yield


def _go_on(session: Session, state: State, say: Callable[[str], None]) -> None:
    """Bring the session where it was, and say so."""
    changes, steps = session.resume(state), session.trainer.steps
    if session.is_done:
        say(f"finished: all {session.epochs} epochs are done; nothing to resume")
        return
    done = state.position - session.epochs * steps
    say(f"resumed after epoch {session.epochs}" + (f" and {done} of {steps} steps" if done else ""))
    for change in changes:
        say(f"note: {change}: from here on as before within rounding, not bit by bit")
