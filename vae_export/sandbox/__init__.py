"""Run files in a child process first: files of unknown origin (`untrusted`) and engines that crash (`crash_check`)."""

from vae_export.sandbox.untrusted import MAX_BYTES, read_plain, read_untrusted

__all__ = ["MAX_BYTES", "read_plain", "read_untrusted"]
