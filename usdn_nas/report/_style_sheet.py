"""The style sheet of the HTML report."""

__all__ = ["STYLE_SHEET"]

STYLE_SHEET = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --paper: #ffffff; --ink: #1b1f24; --muted: #59616b; --faint: #b9c0c8; --band: #f1f3f6;
  --line: #e1e5ea;
  --blue: #0072b2; --orange: #e69f00; --green: #009e73; --vermillion: #d55e00; --purple: #cc79a7; --sky: #56b4e9;
  --figure-font: "DejaVu Sans", Verdana, "Segoe UI", sans-serif;
  @LIGHT@
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101317; --paper: #181c22; --ink: #e7eaee; --muted: #a1a9b3; --faint: #596370; --band: #21262e;
    --line: #2d343d; --blue: #56b0e6; --orange: #efb331; --green: #37c79d; --vermillion: #f5833f; --purple: #dd9dc2;
    --sky: #8accf2;
    @DARK@
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; display: flex; flex-wrap: wrap; gap: .2rem .7rem; align-items: baseline; }
h3 { font-size: .95rem; margin: 1.25rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { font-size: 1.06rem; }
.note, figcaption, footer { color: var(--muted); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .15rem 1rem; margin: 1rem 0 1.25rem; font-size: .9rem; }
a { color: var(--blue); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; 
  padding: 1.1rem 1.25rem 1.25rem; margin: 0 0 1.1rem; scroll-margin-top: 1rem; }
.badge { font-size: .75rem; font-weight: 500; padding: .05rem .55rem; border-radius: 99px;
  border: 1px solid currentColor; }
.badge.search { color: var(--muted); border-style: dashed; }
.badge.test { color: var(--green); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: .7rem 1rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .85rem; display: block; line-height: 1.35; }
figure { margin: .75rem 0; }
.scroll { overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; margin: 0 auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .4rem 0; }
th { text-align: left; font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
th, td { padding: .28rem .8rem .28rem 0; white-space: nowrap; }
th.number, td.number { text-align: right; padding: .28rem 0 .28rem 1.1rem; }
th { white-space: normal; }
td { border-bottom: 1px solid var(--line); }
tr.total td { font-weight: 600; border-top: 1.5px solid var(--ink); border-bottom: 0; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--blue); font-size: .9rem; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .15rem 1.2rem; margin: .5rem 0;
  font-size: .875rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .85em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
#front-chart { position: relative; }
#front-chart.live svg { touch-action: pan-y; outline-offset: 2px; }
#front-chart.live text { font: 12px var(--figure-font); fill: var(--ink); }
.interactive .grid { stroke: var(--line); }
.interactive .axis { stroke: var(--muted); }
.interactive .trial { fill: var(--faint); }
.interactive .front { fill: var(--blue); }
.interactive .step { fill: none; stroke: var(--blue); stroke-width: 2; }
.interactive .ladder { fill: var(--orange); }
.interactive .rung { fill: none; stroke: var(--orange); stroke-dasharray: 5 3; }
.interactive .star { fill: var(--paper); stroke: var(--ink); stroke-width: 1.4; }
.interactive .kd { stroke: var(--green); fill: var(--green); stroke-width: 1.6; }
.interactive .ce { stroke: var(--vermillion); fill: var(--vermillion); stroke-width: 1.6; }
.interactive .hollow { fill: var(--paper); }
.interactive .kept { fill: none; stroke: var(--vermillion); stroke-width: 2.4; }
.interactive .ring { fill: none; stroke: var(--ink); stroke-width: 1.6; }
.tip { position: absolute; pointer-events: none; background: var(--paper); color: var(--ink);
  border: 1px solid var(--faint); border-radius: 8px; padding: .4rem .65rem; font-size: .8rem; line-height: 1.45;
  max-width: min(22rem, 92%); z-index: 2;
  box-shadow: 0 4px 16px rgb(0 0 0 / .18); }
.tip b { display: block; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .85rem; margin: .4rem 0; padding: 0;
  list-style: none; }
.legend[hidden] { display: none; }
figure .legend svg { width: 22px; min-width: 0; height: 14px; display: inline-block; vertical-align: -2px;
  margin: 0 .35rem 0 0; }
.point { border-top: 1px solid var(--line); margin-top: .6rem; padding-top: .5rem; font-size: .875rem; }
.chips { display: flex; flex-wrap: wrap; gap: .3rem; margin: .3rem 0 0; padding: 0; list-style: none; }
.chips li { background: var(--band); border-radius: 6px; padding: .05rem .5rem; font-variant-numeric: tabular-nums; }
footer { padding-bottom: 3rem; }
@media (max-width: 40rem) {
  body { font-size: 15px; }
  header { padding-top: 1.5rem; }
  main, header, footer { padding-left: .75rem; padding-right: .75rem; }
  section { padding: .9rem .9rem 1rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .tile { padding: .5rem .7rem; }
  .tile b { font-size: 1.3rem; }
}
@media print {
  body { background: none; }
  section { break-inside: avoid; border: 0; padding: 0; }
  nav { display: none; }
}
"""
