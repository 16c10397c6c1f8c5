"""Kinds of tampering: each turns the bytes of a good bundle into others, and says which file must be named.

The benchmark `benchmarks/tampering.py` draws thousands of each; the tests draw a few.
"""

from __future__ import annotations

from tests.bundle.tampering.archives import Kind, Tampered
from tests.bundle.tampering.documents import (
    certificate_of_another,
    changed_manifest,
    huge_json,
    malformed_json,
    newer_version,
)
from tests.bundle.tampering.entries import (
    colliding_case,
    colliding_unicode,
    compressed,
    duplicate_name,
    extra_file,
    hidden_file,
    link_or_device,
    missing_file,
    odd_separators,
    outside_its_folder,
    reordered,
    swapped_files,
)
from tests.bundle.tampering.stored import (
    bytes_added,
    changed_directory,
    cut_off,
    flipped_bit,
    flipped_bit_in_headers,
    flipped_bit_with_new_crc,
    noise,
)

__all__ = ["KINDS", "Kind", "Tampered"]

KINDS: tuple[Kind, ...] = (
    flipped_bit,
    flipped_bit_in_headers,
    flipped_bit_with_new_crc,
    cut_off,
    bytes_added,
    extra_file,
    hidden_file,
    missing_file,
    duplicate_name,
    colliding_case,
    colliding_unicode,
    outside_its_folder,
    odd_separators,
    link_or_device,
    compressed,
    reordered,
    swapped_files,
    malformed_json,
    huge_json,
    newer_version,
    changed_manifest,
    certificate_of_another,
    changed_directory,
    noise,
)
