"""The report on the claims: claims.json is the record; claims.md and claims.html are drawn from it and the baselines' records."""

from geluless.report.folder import quote, record, render_folder, write_report
from geluless.report.outdated import mark_outdated
from geluless.report.records import ReportError

__all__ = ["ReportError", "mark_outdated", "quote", "record", "render_folder", "write_report"]
