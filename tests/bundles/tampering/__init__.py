"""Kinds of tampering: each turns the bytes of a good bundle into others, and says which file must be named.

Bundles of `KINDS` must be refused and those of `HARMLESS` accepted; with those of `FUZZED` either may happen.

The benchmark `benchmarks/tampering.py` draws thousands of each; the tests draw a few.
"""

from __future__ import annotations

from tests.bundles.tampering.archives import Kind, Tampered
from tests.bundles.tampering.documents import (
    certificate_of_another,
    certificate_that_contradicts_itself,
    changed_manifest,
    deep_json,
    endless_json,
    half_a_character,
    huge_json,
    malformed_json,
    newer_version,
    number_that_overflows,
    reserved_name,
    text_that_is_none,
    unprintable_label,
    wrong_type,
)
from tests.bundles.tampering.entries import (
    colliding_case,
    colliding_unicode,
    compressed,
    duplicate_name,
    endless_list_of_hashes,
    extra_file,
    hidden_file,
    link_or_device,
    many_files,
    missing_file,
    odd_separators,
    outside_its_folder,
    reordered,
    signature_elsewhere,
    signature_of_another_size,
    swapped_files,
)
from tests.bundles.tampering.fuzzed import fuzzed_document, fuzzed_text
from tests.bundles.tampering.harmless import (
    card_with_controls,
    odd_card,
    provenance_with_controls,
    unchecked_signature,
    unknown_keys,
)
from tests.bundles.tampering.stored import (
    bytes_added,
    changed_directory,
    cut_off,
    flipped_bit,
    flipped_bit_in_headers,
    flipped_bit_with_new_crc,
    noise,
)

__all__ = ["EXPENSIVE", "FUZZED", "HARMLESS", "KINDS", "Kind", "Tampered"]

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
    certificate_that_contradicts_itself,
    number_that_overflows,
    half_a_character,
    deep_json,
    endless_json,
    unprintable_label,
    wrong_type,
    reserved_name,
    text_that_is_none,
    endless_list_of_hashes,
    many_files,
    signature_of_another_size,
    signature_elsewhere,
    changed_directory,
    noise,
)
HARMLESS: tuple[Kind, ...] = (
    card_with_controls,
    odd_card,
    provenance_with_controls,
    unknown_keys,
    unchecked_signature,
)
FUZZED: tuple[Kind, ...] = (fuzzed_document, fuzzed_text)
#: Kinds that take a second each to make and to read.
EXPENSIVE: tuple[Kind, ...] = (endless_json, many_files)
