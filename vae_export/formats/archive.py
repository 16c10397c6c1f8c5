"""PyTorch's zip archives, rewritten without what should not leave this machine."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator

from vae_export.findings import Finding, machine_traces

#: Records that hold weights: among random bytes any pattern turns up at last.
_WEIGHTS = ("/constants/", "/weights/")


def rewritten(archive: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive with every record as `change` gives it, by its name and data; None leaves it out.

    Python's zipfile cannot do this: PyTorch wants every record aligned to 64 bytes, so its own reader and writer are
    used.
    """
    import torch

    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    target = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(target)
    for name in reader.get_all_records():
        # The writer adds the version and the identity of an archive itself.
        if name in ("version", "byteorder", ".data/version", ".data/serialization_id"):
            continue
        record = change(name, reader.get_record(name))
        if record is not None:
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return target.getvalue()


def archive_traces(archive: bytes, name: str) -> Iterator[Finding]:
    """Paths and source lines of a machine in the records of an archive, its weights apart."""
    with zipfile.ZipFile(io.BytesIO(archive)) as records:
        for record in records.namelist():
            if record.endswith(".json") or not any(weights in record for weights in _WEIGHTS):
                yield from machine_traces(records.read(record), f"{name}, record {record}")
