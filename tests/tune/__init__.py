"""Tests of `vae_export.tune` and of the runtime that follows it."""
