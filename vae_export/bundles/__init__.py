"""Read bundles: one file with an export and all that an application needs to run it; see docs/bundle-format.md.

`vae_export.bundles.writer` writes bundles. It is not imported here, because reading does not need it.
"""

from vae_export.bundles.reader import Bundle, open_bundle
from vae_export.bundles.signature import Key

__all__ = ["Bundle", "Key", "open_bundle"]
