"""Event files for TensorBoard: scalars of each epoch, and about twenty times reconstructions and samples.

An event file is a sequence of protocol buffers with the epoch as their step. A resumed training writes a new file. Its
first record tells readers to discard what earlier files say of later epochs, so that a kill leaves no step twice.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from train.data.datasets import Dataset
from train.pictures import Grid, draw_grid, manifold, reconstructions, samples
from train.scoring import PyTorchModel, Score
from vae_export.io.atomic import storage_errors
from vae_export.models import VAE
from vae_export.runs import Run

#: Number of epochs with pictures, about: their cost does not grow with the length of a training.
_PICTURES = 20
#: Entries of a line of `metrics.jsonl` that are logged beside the scores.
_SCALARS = ("loss", "learning_rate", "images_per_second")


class EventLog:
    """An open event file; made by `event_writer`."""

    def __init__(self, run: Run, dataset: Dataset, *, done: int, epochs: int) -> None:
        self._run, self._dataset, self._done, self._epochs = run, dataset, done, epochs
        self._every = -(-epochs // _PICTURES)
        self._writer: RecordWriter | None = None

    def epoch(self, line: Mapping[str, Any], model: VAE, validation: Score) -> None:
        """Log an epoch.

        Args:
            line: the epoch's line of metrics.jsonl.
            model: the network with the epoch's weights.
            validation: the score of the validation images.

        Raises:
            StorageError: the event file cannot be written.
        """
        number = line["epoch"]
        values = [_scalar(name, line[name]) for name in _SCALARS]
        for split in ("train", "validation", "test"):
            values += [_scalar(f"{name}/{split}", value) for name, value in line[split].items() if name != "images"]
        if number % self._every == 0 or number in (1, self._epochs):
            values += [_picture(name, grid) for name, grid in self._grids(PyTorchModel(model), validation).items()]
        with storage_errors(self._run.events):
            self._write(Event(step=number, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            with storage_errors(self._run.events):
                self._writer.close()

    def _grids(self, model: PyTorchModel, validation: Score) -> dict[str, Grid]:
        return {
            "reconstructions": reconstructions(model, self._dataset.test[:50]),
            "samples": samples(model, validation),
            "manifold": manifold(model, validation),
        }

    def _write(self, event: Event) -> None:
        writer = self._writer = self._writer or self._opened()
        _append(writer, event)
        writer.flush()  # and fsync, before the epoch is reported

    def _opened(self) -> RecordWriter:
        """Open the file: not before the first epoch ends, because an earlier run in the folder is removed then."""
        self._run.events.mkdir(exist_ok=True)
        # Readers sort files by name, which begins with the time in seconds; the suffix orders two of one second.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{self._done:06d}"
        # Not an EventsWriter, which leaves its file open where the disk is full.
        writer = RecordWriter(str(self._run.events / name))
        _append(writer, Event(file_version="brain.Event:2"))
        _append(writer, Event(step=self._done + 1, session_log=SessionLog(status=SessionLog.START)))
        return writer


@contextmanager
def event_writer(run: Run, dataset: Dataset, *, done: int, epochs: int) -> Iterator[EventLog]:
    """Write a new event file in the run folder, which the first epoch opens.

    Args:
        run: the run folder.
        dataset: the images, of which the pictures show some.
        done: the number of epochs that are already done.
        epochs: the number of all epochs.

    Yields:
        The log, for the epochs after the first `done`.

    Raises:
        StorageError: the file cannot be written.
    """
    log = EventLog(run, dataset, done=done, epochs=epochs)
    try:
        yield log
    finally:
        log.close()


def _append(writer: RecordWriter, event: Event) -> None:
    event.wall_time = time.time()
    writer.write(event.SerializeToString())


def _scalar(tag: str, value: float) -> Any:
    return Summary.Value(tag=tag, simple_value=value)


def _picture(tag: str, grid: Grid) -> Any:
    sheet, buffer = draw_grid(grid), io.BytesIO()
    sheet.save(buffer, format="PNG")
    image = Summary.Image(height=sheet.height, width=sheet.width, colorspace=3, encoded_image_string=buffer.getvalue())
    return Summary.Value(tag=tag, image=image)
