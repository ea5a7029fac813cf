"""Shows an evaluation's report, in the terminal, as a page and as plots. It reads that one JSON object alone.

Every value of a report may be null or absent: a folder that moemerge did not build has no baselines, and what could
not be measured stands in `missing` with its reason. So nothing here fails on a hole: it shows a dash or leaves the
part out.
"""

from moemerge.report.html import html_page
from moemerge.report.plots import write_plots
from moemerge.report.table import print_report

__all__ = ["html_page", "print_report", "write_plots"]
