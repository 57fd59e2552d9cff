"""The report on the claims: claims.json is the record; claims.md and claims.html are drawn from it and the peers' records."""

from geluless.report.folder import ReportError, render_folder, write_report

__all__ = ["ReportError", "render_folder", "write_report"]
