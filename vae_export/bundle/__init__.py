"""One file that holds an export and all that an application needs to embed it: docs/bundle-format.md specifies it."""

from vae_export.bundle.reader import Bundle, open_bundle
from vae_export.bundle.writer import pack

__all__ = ["Bundle", "open_bundle", "pack"]
