"""Make HTML pages of certificates and timings; a page needs no other file and no network."""

from vae_export.report.certificate_page import certificate_page
from vae_export.report.timings_page import timings_page

__all__ = ["certificate_page", "timings_page"]
