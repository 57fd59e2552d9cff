"""The report on the claims: claims.json is the record; claims.md and claims.html are drawn from it and the baselines' records."""

from geluless.report.folder import quote, render_folder, write_report
from geluless.report.records import ReportError

__all__ = ["ReportError", "quote", "render_folder", "write_report"]
