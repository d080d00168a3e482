"""The look of a report's page: one column that a phone, a screen and paper can show, in light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1d2129; --soft: #5c6470; --paper: #ffffff; --panel: #f5f6f8; --line: #dfe2e7; --accent: #1b4f72;
  --warn: #8a4b00; --warn-panel: #fdf3e3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e6ea; --soft: #a0a8b4; --paper: #15181d; --panel: #1e2229; --line: #343a44; --accent: #8ec1e6;
    --warn: #f0c27a; --warn-panel: #2d2415;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 76rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance; margin: 0; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.6rem, 1.2rem + 2vw, 2.2rem); letter-spacing: -0.015em; }
h2 { font-size: 1.45rem; margin-top: 3rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.15rem; margin-top: 2.75rem; color: var(--accent); }
p { margin: 0.75rem 0; max-width: 46rem; }
.lead { font-size: 1.1rem; color: var(--soft); margin-top: 0.6rem; }
.quiet, figcaption, .note { color: var(--soft); font-size: 0.875rem; line-height: 1.5; }
.warning {
  color: var(--warn); background: var(--warn-panel); padding: 0.6rem 0.9rem; border-left: 4px solid currentColor;
  border-radius: 0 4px 4px 0;
}
.state {
  display: inline-block; padding: 0.1rem 0.7rem; border: 1px solid currentColor; border-radius: 1rem;
  color: var(--accent); font-size: 0.85rem; margin: 0.6rem 0 0;
}
.state.open { color: var(--warn); }
nav { margin-top: 1.5rem; font-size: 0.9rem; }
nav ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; }
nav li.part { flex-basis: 100%; font-weight: 600; margin-top: 0.6rem; }
a { color: var(--accent); text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
.headline {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 0.75rem;
  margin: 1.25rem 0; max-width: 46rem;
}
.headline div { background: var(--panel); border-radius: 8px; padding: 0.8rem 1rem; }
.headline span { display: block; color: var(--soft); font-size: 0.85rem; }
.headline b { display: block; font-size: 1.7rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.35rem 1.25rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.table { margin: 1.5rem 0; }
.table > h4 { font-size: 1rem; margin-bottom: 0.5rem; }
.scroll { overflow-x: auto; max-width: 100%; border: 1px solid var(--line); border-radius: 8px; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.9rem; line-height: 1.4; min-width: 100%; }
th, td { padding: 0.5rem 0.85rem; vertical-align: top; border-bottom: 1px solid var(--line); text-align: left; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { background: var(--panel); color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th {
  font-weight: 600; position: sticky; left: 0; background: var(--paper); max-width: 15rem;
}
thead th:first-child { position: sticky; left: 0; z-index: 1; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; min-width: 4.5rem; }
td.text { max-width: 26rem; }
td.long { min-width: 14rem; }
td small { display: block; color: var(--soft); font-size: 0.8rem; }
td.error { color: var(--warn); }
.note { margin-top: 0.5rem; max-width: 60rem; }
.figures {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; margin: 1.5rem 0;
}
figure { margin: 0; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
.pane { background: #ffffff; border: 1px solid var(--line); border-radius: 8px; padding: 0.5rem; overflow-x: auto; }
.pane img { display: block; width: 100%; max-height: 30rem; object-fit: contain; }
figure.wide img { min-width: 34rem; max-height: none; }
figcaption { margin-top: 0.4rem; }
pre {
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 0.85rem 1rem; margin: 1rem 0;
  overflow-x: auto; font: 0.85rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; color: var(--accent); }
details pre { max-height: 28rem; overflow-y: auto; }
footer {
  margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: 0.85rem; overflow-wrap: anywhere;
}
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.6rem; }
  th, td { padding: 0.45rem 0.6rem; }
  tbody th { max-width: 8.5rem; }
  h2 { margin-top: 2.75rem; }
  h3 { margin-top: 2.25rem; }
}
@media print {
  :root {
    color-scheme: light;
    --ink: #000000; --soft: #444444; --paper: #ffffff; --panel: #f2f2f2; --line: #bbbbbb; --accent: #1b4f72;
    --warn: #8a4b00; --warn-panel: #ffffff;
  }
  @page { margin: 15mm; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  nav, details { display: none; }
  h2, h3, h4 { break-after: avoid; }
  figure, tr, .headline, .warning { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll, .pane { overflow: visible; border-radius: 0; }
  .pane img, figure.wide img { min-width: 0; max-height: 90mm; }
  table { font-size: 8pt; width: 100%; }
  th, td { padding: 1.2mm 1.6mm; }
  tbody th, thead th:first-child { position: static; }
  .number, thead .number { white-space: normal; min-width: 0; }
  td.long { min-width: 0; }
  td, tbody th { overflow-wrap: anywhere; max-width: none; }
  td small { font-size: 7pt; }
  .figures { grid-template-columns: 1fr 1fr; gap: 4mm; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
"""
