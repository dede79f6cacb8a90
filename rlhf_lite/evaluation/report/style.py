"""The style sheet of a report: one column of text, wide tables and figures, light and dark.

Kept as a string so that the report is one file and the package needs no data files.
"""

CSS = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1f2933; --quiet: #52606d; --line: #dde3e8; --soft: #f5f7f9;
  --accent: #0b6aa2; --good: #00694d; --good-soft: #e3f4ee; --bad: #a63c00; --bad-soft: #fbeae1;
  --note-soft: #fdf6dc; --note: #6d5a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14191e; --ink: #e3e8ec; --quiet: #a3afb9; --line: #323c45; --soft: #1d242b;
    --accent: #6cc0f5; --good: #5fd3ae; --good-soft: #12332a; --bad: #ff9d66; --bad-soft: #3a2114;
    --note-soft: #332d14; --note: #e8d67c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 17px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.45rem; line-height: 1.3; margin: 3.2rem 0 .8rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.12rem; margin: 2rem 0 .5rem; }
p, ul, .note { max-width: 46rem; }
p { margin: .7rem 0; }
li { margin: .35rem 0; }
ul { padding-left: 1.25rem; }
a { color: var(--accent); }
.lead { font-size: 1.17rem; line-height: 1.5; }
code { font: .88em/1.5 ui-monospace, "SFMono-Regular", Menlo, Consolas, "Liberation Mono", monospace;
  background: var(--soft); padding: .1em .3em; border-radius: 4px; overflow-wrap: anywhere; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: 1rem;
  overflow-x: auto; max-width: 100%; line-height: 1.45; }
pre code { background: none; padding: 0; overflow-wrap: normal; font-size: .85rem; line-height: inherit; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); }
nav { font-size: .95rem; margin: 1.4rem 0 0; color: var(--quiet); }
nav a { white-space: nowrap; margin-right: 1.1rem; display: inline-block; padding: .15rem 0; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.4rem; margin: 1.2rem 0;
  font-size: .95rem; }
.facts dt { color: var(--quiet); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.note { background: var(--note-soft); color: var(--note); border-radius: 8px; padding: .7rem 1rem; }
.verdict { border-radius: 10px; padding: 1rem 1.2rem; margin: 1.6rem 0 1rem; background: var(--soft); }
.verdict.good { background: var(--good-soft); } .verdict.bad { background: var(--bad-soft); }
.verdict > p { font-size: 1.17rem; font-weight: 600; margin: 0; max-width: none; }
.verdict.good > p { color: var(--good); } .verdict.bad > p { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem .5rem 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 600; }
.verdict table { margin-top: .7rem; } .verdict tbody tr:last-child > * { border-bottom: 0; }
.state { white-space: nowrap; font-weight: 600; }
.state.good { color: var(--good); } .state.bad { color: var(--bad); }
.numbers td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers th[scope=row] { font-weight: 600; }
.numbers .unit, .numbers .ci { display: block; font-size: .82rem; color: var(--quiet); font-weight: 400; }
.numbers .value { font-size: 1.06rem; }
.numbers .meaning { color: var(--quiet); font-size: .88rem; line-height: 1.45; white-space: normal;
  width: 42%;
  padding-right: 0; }
.charts { display: grid; grid-template-columns: repeat(var(--across), minmax(0, 27rem)); gap: 1rem;
  margin: 1.2rem 0; }
.charts.wide { grid-template-columns: 1fr; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; padding: .4rem; }
figcaption { color: var(--quiet); font-size: .9rem; line-height: 1.45; margin-top: .4rem; }
.sample { border: 1px solid var(--line); border-radius: 10px; margin: 1.2rem 0; overflow: hidden; }
.sample > p { margin: 0; padding: .55rem 1rem; background: var(--soft); font-size: .92rem;
  color: var(--quiet);
  max-width: none; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); gap: 0; }
.answer { padding: .8rem 1rem 1rem; border-top: 1px solid var(--line); border-right: 1px solid var(--line);
  margin-right: -1px; display: flex; flex-direction: column; }
.answer h4 { margin: 0 0 .3rem; font-size: .84rem; letter-spacing: .04em; color: var(--quiet); }
.answer blockquote { margin: 0 0 .8rem; font-family: Georgia, "Liberation Serif", "DejaVu Serif", serif;
  font-size: 1.03rem; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: isolate; }
.answer blockquote b { color: var(--accent); }
.scores { margin: auto 0 0; display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.4rem; font-size: .84rem;
  border-top: 1px dotted var(--line); padding-top: .5rem; }
.scores div { display: flex; justify-content: space-between; white-space: nowrap; }
.scores dt { color: var(--quiet); }
.scores dd { margin: 0; font-variant-numeric: tabular-nums; }
footer { margin-top: 3rem; color: var(--quiet); font-size: .9rem; }
@media (max-width: 62rem) {
  .charts { grid-template-columns: repeat(min(2, var(--across)), minmax(0, 1fr)); }
}
@media (max-width: 46rem) {
  .charts { grid-template-columns: 1fr; }
  body { font-size: 16px; }
  main { padding: 1.4rem 1rem 3rem; }
  h1 { font-size: 1.7rem; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: .5rem; }
  .verdict { padding: .9rem; }
  .verdict table, .verdict thead, .verdict tbody { display: block; }
  .verdict tr { display: grid; grid-template-columns: repeat(3, 1fr); padding: .45rem 0;
    border-bottom: 1px solid var(--line); }
  .verdict tbody tr:last-child { border-bottom: 0; }
  .verdict th, .verdict td { border: 0; padding: .1rem .4rem .1rem 0; font-size: .92rem; }
  .verdict th[scope=row] { grid-column: 1 / -1; }
  .verdict thead th:first-child { display: none; }
  .numbers, .numbers tbody, .numbers thead { display: block; }
  .numbers tr { display: grid; grid-template-columns: repeat(var(--policies), 1fr); padding: .5rem 0;
    border-bottom: 1px solid var(--line); }
  .numbers th, .numbers td { border: 0; padding: .1rem .3rem .1rem 0; display: block; }
  .numbers td { white-space: normal; }
  .numbers thead tr { padding: 0 0 .3rem; }
  .numbers thead th:first-child, .numbers thead th:last-child { display: none; }
  .numbers th[scope=row] { grid-column: 1 / -1; }
  .numbers th[scope=row] .unit { display: inline; margin-left: .5rem; }
  .numbers .meaning { grid-column: 1 / -1; width: auto; }
  .answer { border-right: 0; margin-right: 0; }
}
@media print {
  body { font-size: 11pt; } main { max-width: none; padding: 0; } nav { display: none; }
  .sample, figure, tr { break-inside: avoid; }
}
"""
