"""The page's style: colours as CSS variables, light and dark, and a layout that fits a phone.

Text colours keep a contrast of at least 4.5 to 1 against both grounds (WCAG 2.2, level AA); tests/report/test_report_browser.py
measures it.
"""

STYLE = """
:root { color-scheme: light dark; --back: #fcfcfa; --card: #fff; --ink: #1c1e21; --soft: #5b626b;
  --line: #dfe1e4; --faint: #b9bec5; --good: #1a7f37; --bad: #c2272d; --unsure: #875a00; --need: #0b6b8f;
  --series-1: #2f6fb3; --series-2: #c2571a; --series-3: #3a8a4d; --series-4: #8a4fb0; --series-5: #a08000;
  --series-6: #b0406f; }
@media (prefers-color-scheme: dark) { :root { --back: #15171a; --card: #1d2024; --ink: #e8e9ea; --soft: #a2a9b1;
  --line: #33373d; --faint: #565c64; --good: #58c273; --bad: #ff7b75; --unsure: #e3b341; --need: #61bfe3;
  --series-1: #79b0ea; --series-2: #f29a5f; --series-3: #7fcf93; --series-4: #c79be6; --series-5: #dcc45a;
  --series-6: #ee8fb6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 1rem 0 .3rem; } .claim > h3 { margin: 0; } h4 { font-size: .95rem; margin: 1rem 0 .2rem; }
a { color: inherit; } p { margin: .5rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.sections { display: flex; flex-wrap: wrap; gap: .3rem 1rem; padding: 0; margin: .6rem 0; list-style: none; font-size: .9rem; }
.board { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); padding: 0; list-style: none; }
.board a { display: block; height: 100%; padding: .6rem .8rem; background: var(--card); border: 1px solid var(--line);
  border-left: .35rem solid var(--tone); border-radius: .4rem; text-decoration: none; }
.board a:focus-visible, .board a:hover, :target { outline: 2px solid var(--tone, var(--soft)); }
.word { color: var(--tone); font-weight: 650; font-size: .85rem; letter-spacing: .01em; }
.reproduced { --tone: var(--good); } .refuted, .error { --tone: var(--bad); } .undecided { --tone: var(--unsure); }
.needs { --tone: var(--need); } .notrun { --tone: var(--soft); } .held { --tone: var(--ink); } .totals { margin: .2rem 0; }
.claim, .figure { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .8rem 1rem;
  margin: .8rem 0; scroll-margin-top: .5rem; }
.claim .figure { border: 0; padding: 0; border-top: 1px solid var(--line); border-radius: 0; padding-top: .6rem; }
.finding { border-left: .2rem solid var(--tone); padding-left: .7rem; margin: .7rem 0; }
.warning { border: 1px solid var(--unsure); border-left-width: .35rem; border-radius: .4rem; padding: .6rem .8rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .3rem 0; font-size: .9rem; }
dt { color: var(--soft); max-width: 18rem; } dd { margin: 0; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .3rem; }
  dl.facts { grid-template-columns: max-content 1fr; } .claim, .figure { padding: .7rem; } }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--back);
  border: 1px solid var(--line); border-radius: .25rem; padding: .05rem .3rem; }
.scroll { overflow-x: auto; /* a shadow at the right while there is more to scroll to: the first layer moves along and hides it */
  background: linear-gradient(to left, var(--card) 1rem, transparent) 100% 0 / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--faint), transparent) 100% 0 / .7rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
.wide td:last-child { text-align: left; white-space: normal; min-width: 18rem; }
.digests td:last-child { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
th:first-child, td:first-child { text-align: left; }
.figure .scroll > svg { display: block; width: 100%; min-width: 29rem; height: auto; max-width: 46rem; margin: 0 auto; }
svg text { font-family: inherit; }
.intervals { --tone: var(--soft); font-size: .85rem; margin: .6rem 0; font-variant-numeric: tabular-nums; }
.interval { display: grid; grid-template-columns: minmax(6rem, 20rem) minmax(6rem, 1fr) 14rem; gap: 0 .8rem;
  align-items: center; }
.interval svg { display: block; width: 100%; height: 1.2rem; overflow: visible; color: var(--tone, var(--soft)); }
.interval .ends { display: flex; justify-content: space-between; color: var(--soft); grid-column: 2; }
@media (max-width: 34rem) { .interval { display: flex; flex-wrap: wrap; justify-content: space-between; margin-top: .3rem; }
  .interval svg { order: 3; } .interval .ends { flex: 1; } }
summary { cursor: pointer; } details { margin: .5rem 0; }
"""
