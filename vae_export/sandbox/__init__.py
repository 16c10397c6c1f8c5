"""ONNX files that nobody vouches for: what they must pass before this process opens them.

`gate.py` caps their size and starts a child process; `trial.py` is that child, and `content.py` what it refuses.
"""

from vae_export.sandbox.untrusted import MAX_BYTES, read_plain, read_untrusted

__all__ = ["MAX_BYTES", "read_plain", "read_untrusted"]
