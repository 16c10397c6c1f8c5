"""Child processes that open files first: of unknown origin (`untrusted`), or of engines that crash (`crash_check`)."""

from vae_export.sandbox.untrusted import MAX_BYTES, read_plain, read_untrusted

__all__ = ["MAX_BYTES", "read_plain", "read_untrusted"]
