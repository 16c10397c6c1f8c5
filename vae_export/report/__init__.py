"""A certificate as one page for people: `certificate_page` returns HTML that needs no other file and no network."""

from vae_export.report.page import certificate_page

__all__ = ["certificate_page"]
