"""TensorBoard's event files of a training: its scalars each epoch, and now and then what it rebuilds and dreams up.

An event file is a row of records, each a protocol buffer with its epoch as the step. A training that goes on writes a
file of its own, which begins by telling readers to forget what an earlier one says of the epochs still to come: a kill
between two epochs leaves no step twice.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from train.data.datasets import Dataset
from train.pictures import Grid, draw_grid, manifold, reconstructions, samples
from train.scoring import PyTorchModel, Score
from vae_export.io.atomic import storage_errors
from vae_export.models import VAE
from vae_export.runs import Run

#: About so many times in a training there are pictures: their cost and size do not grow with its length.
_PICTURES = 20
#: Of an epoch's line in `metrics.jsonl`, beside the scores of each split.
_SCALARS = ("loss", "learning_rate", "images_per_second")


class EventLog:
    """Made by `event_writer`."""

    def __init__(self, writer: EventsWriter, run: Run, dataset: Dataset, epochs: int) -> None:
        self._writer, self._run, self._dataset, self._epochs = writer, run, dataset, epochs
        self._every = -(-epochs // _PICTURES)

    def epoch(self, line: Mapping[str, Any], model: VAE, validation: Score) -> None:
        """An epoch's line of metrics, and the weights and the score that it speaks of. Raises `StorageError`."""
        number = line["epoch"]
        values = [_scalar(name, line[name]) for name in _SCALARS]
        for split in ("train", "validation", "test"):
            values += [_scalar(f"{name}/{split}", value) for name, value in line[split].items() if name != "images"]
        if number % self._every == 0 or number in (1, self._epochs):
            values += [_picture(name, grid) for name, grid in self._grids(PyTorchModel(model), validation).items()]
        with storage_errors(self._run.events):
            self._write(Event(step=number, summary=Summary(value=values)))

    def _grids(self, model: PyTorchModel, validation: Score) -> dict[str, Grid]:
        return {
            "reconstructions": reconstructions(model, self._dataset.test[:50]),
            "samples": samples(model, validation),
            "manifold": manifold(model, validation),
        }

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()  # and fsync: what is said to be done is on the disk


@contextmanager
def event_writer(run: Run, dataset: Dataset, *, done: int, epochs: int) -> Iterator[EventLog]:
    """Events of the epochs after the `done` ones, in a new file in `run.events`. Raises `StorageError`."""
    with storage_errors(run.events):
        run.events.mkdir(exist_ok=True)
        # Readers take files by name, which begins with the second; the suffix tells two of one second apart.
        writer = EventsWriter(str(run.events / "events"), f".{done:06d}")
        writer.write_event(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))
    try:
        yield EventLog(writer, run, dataset, epochs)
    finally:
        with storage_errors(run.events):
            writer.close()


def _scalar(tag: str, value: float) -> Any:
    return Summary.Value(tag=tag, simple_value=value)


def _picture(tag: str, grid: Grid) -> Any:
    sheet, buffer = draw_grid(grid), io.BytesIO()
    sheet.save(buffer, format="PNG")
    image = Summary.Image(height=sheet.height, width=sheet.width, colorspace=3, encoded_image_string=buffer.getvalue())
    return Summary.Value(tag=tag, image=image)
