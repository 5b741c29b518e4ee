"""How a run's static HTML looks."""

# The ground and the ink come from the same source, JupyterLab's theme or our fall-backs, so that
# neither is ever read against the other's; the class is doubled to outweigh JupyterLab's tables.
STYLE = """
.na-timeline{--na-ground:var(--jp-layout-color1,#fff);--na-ink:var(--jp-content-font-color1,#1f2328);
--na-soft:var(--jp-content-font-color2,#59636e);--na-line:var(--jp-border-color2,#d1d9e0);
--na-good:var(--jp-success-color1,#1a7f37);--na-bad:var(--jp-error-color1,#cf222e);
--na-doubt:var(--jp-warn-color1,#9a6700);--na-live:var(--jp-info-color1,#0969da);
background:var(--na-ground);color:var(--na-ink);border:1px solid var(--na-line);border-radius:6px;
padding:10px 14px;font:13px/1.5 var(--jp-content-font-family,system-ui,sans-serif);overflow-x:auto}
@media (prefers-color-scheme:dark){.na-timeline{--na-ground:var(--jp-layout-color1,#0d1117);
--na-ink:var(--jp-content-font-color1,#e6edf3);--na-soft:var(--jp-content-font-color2,#9198a1);
--na-line:var(--jp-border-color2,#3d444d);--na-good:var(--jp-success-color1,#3fb950);
--na-bad:var(--jp-error-color1,#f85149);--na-doubt:var(--jp-warn-color1,#d29922);
--na-live:var(--jp-info-color1,#4493f8)}}
.na-timeline.na-timeline p{margin:0 0 4px;color:inherit}
.na-timeline.na-timeline .na-facts,.na-timeline.na-timeline .na-note,
.na-timeline.na-timeline .na-mark,.na-timeline.na-timeline .na-more td{color:var(--na-soft)}
.na-timeline.na-timeline .na-error code{color:var(--na-bad);white-space:pre-wrap}
.na-timeline.na-timeline code{font-family:var(--jp-code-font-family,ui-monospace,monospace);
font-size:12px;background:none;color:inherit;padding:0}
.na-timeline.na-timeline table{border-collapse:collapse;border:0;margin:8px 0 0;width:100%;
font-size:13px;table-layout:auto}
.na-timeline.na-timeline tbody tr,.na-timeline.na-timeline thead tr{background:none;border:0}
.na-timeline.na-timeline th,.na-timeline.na-timeline td{text-align:left;vertical-align:top;
padding:3px 14px 3px 0;border:0;max-width:none;white-space:normal}
.na-timeline.na-timeline th{font-weight:600;color:var(--na-soft);
border-bottom:1px solid var(--na-line)}
.na-timeline.na-timeline th:nth-child(2){width:100%}
.na-timeline.na-timeline th:nth-child(n+3),
.na-timeline.na-timeline .na-number{text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}
.na-timeline.na-timeline .na-state{white-space:nowrap;font-weight:600}
.na-timeline.na-timeline .na-mark{white-space:nowrap}
.na-timeline.na-timeline .na-note{font-size:12px;padding-left:1em}
.na-good{color:var(--na-good)}.na-bad{color:var(--na-bad)}
.na-doubt{color:var(--na-doubt)}.na-live{color:var(--na-live)}
""".strip()
