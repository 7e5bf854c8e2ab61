"""The style sheet of the report: one column, system fonts, light or dark like the reader's system."""

from .drawing import COLOURS

_DARK = {
    "paper": "#16191d",
    "ink": "#e6e9ec",
    "muted": "#98a2ad",
    "grid": "#2c3238",
    "blue": "#6c9cff",
    "orange": "#f2a154",
    "green": "#4cc38f",
    "violet": "#b98cf5",
    "red": "#ff6b6f",
}


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


STYLESHEET = f"""
:root {{ {_variables(COLOURS)} --ground:#f4f5f7; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK)} --ground:#0e1013; }} }}
@media print {{ :root {{ {_variables(COLOURS)} --ground:#ffffff; }} }}
""" + (
    """
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -0.015em; margin: 0 0 6px; }
section > p:last-child { margin-bottom: 0; }
h2 { font-size: 20px; line-height: 1.3; font-weight: 650; letter-spacing: -0.01em; margin: 0 0 6px; }
p { margin: 0 0 12px; max-width: 82ch; text-wrap: pretty; }
.muted, figcaption, dd small { color: var(--muted); }
header { margin-bottom: 28px; }
section { background: var(--paper); border: 1px solid var(--grid); border-radius: 12px; padding: 24px 26px;
  margin: 0 0 20px; }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; padding: 0; overflow: hidden; background: var(--grid); }
.tile { flex: 1 1 142px; background: var(--paper); padding: 18px 18px; }
.tile span::first-letter { text-transform: uppercase; }
.tile b { display: block; white-space: nowrap; font-size: 25px; line-height: 1.25; font-weight: 650;
  letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 13.5px; }
.tile small { display: block; font-size: 12.5px; line-height: 1.4; color: var(--muted); margin-top: 2px; }
.alert { border-color: var(--red); border-left-width: 5px; }
figure { margin: 14px 0 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure.wide svg { min-width: 720px; }
figure.narrow { max-width: 720px; }
figure svg text { font-family: inherit !important; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 8px 28px; }
.pair > figure.wide { grid-column: 1 / -1; }
.tabs > input { position: absolute; opacity: 0; pointer-events: none; }
.tabs > label { display: inline-block; padding: 5px 15px; margin: 6px 6px 0 0; border: 1px solid var(--grid);
  border-radius: 999px; font-size: 14px; color: var(--muted); cursor: pointer; }
.tabs > input:checked + label { background: var(--ink); border-color: var(--ink); color: var(--paper); }
.tabs > input:focus-visible + label { outline: 2px solid var(--blue); outline-offset: 2px; }
.panel { display: none; }
.panel > h3 { display: none; grid-column: 1 / -1; font-size: 15px; margin: 14px 0 0; }
.tabs > input:nth-of-type(1):checked ~ .panel:nth-of-type(1),
.tabs > input:nth-of-type(2):checked ~ .panel:nth-of-type(2),
.tabs > input:nth-of-type(3):checked ~ .panel:nth-of-type(3) { display: grid; }
dl { display: grid; grid-template-columns: minmax(130px, 210px) 1fr; margin: 10px 0 0; font-size: 15px; }
dt, dd { margin: 0; padding: 8px 0; border-top: 1px solid var(--grid); }
dt:first-of-type, dt:first-of-type + dd { border-top: 0; }
dt { color: var(--muted); padding-right: 18px; }
dd small { font-size: 13.5px; display: block; }
ol.story { list-style: none; margin: 14px 0 0; padding: 0; }
ol.story > li { display: grid; grid-template-columns: 128px 1fr; gap: 0 26px; }
.when { text-align: right; font-size: 13px; line-height: 1.45; color: var(--muted); padding: 2px 0 18px;
  font-variant-numeric: tabular-nums; }
.when span { display: block; }
.what { position: relative; border-left: 2px solid var(--grid); padding: 0 0 18px 24px; min-width: 0; }
.what::before { content: ""; position: absolute; left: -7px; top: 7px; width: 10px; height: 10px; border-radius: 50%;
  background: var(--topic); border: 1px solid var(--paper); }
.what strong { font-weight: 600; }
.topic { font-size: 12px; font-weight: 600; letter-spacing: 0.02em; color: var(--topic); display: block; }
.reason { color: var(--muted); font-size: 14.5px; margin: 2px 0 0; max-width: 78ch; overflow-wrap: anywhere; }
.failure .what strong { color: var(--red); }
.start, .stop, .resume { --topic: var(--ink); } .batch_size { --topic: var(--blue); }
.lr { --topic: var(--violet); }
.run, .memory { --topic: var(--muted); } .failure { --topic: var(--red); } .best { --topic: var(--orange); }
details { font-size: 13.5px; margin-top: 6px; }
summary { cursor: pointer; color: var(--muted); }
table { border-collapse: collapse; margin: 8px 0 0; font-variant-numeric: tabular-nums; }
td, th { text-align: left; vertical-align: top; padding: 4px 18px 4px 0; border-top: 1px solid var(--grid);
  font-weight: 400; }
th { color: var(--muted); border-top: 0; }
.scroll { overflow-x: auto; }
pre { font-size: 13px; line-height: 1.5; margin: 8px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
footer { color: var(--muted); font-size: 13.5px; padding: 4px 2px; }
@media (max-width: 640px) {
  main { padding: 24px 12px 40px; } section { padding: 18px 16px; } section.tiles { padding: 0; }
  dl { grid-template-columns: 1fr; } dt { padding-bottom: 0; } dd { border-top: 0; padding-top: 0; }
  ol.story > li { grid-template-columns: 1fr; } .when { text-align: left; padding: 0 0 2px; }
  .when span { display: inline; } .when span + span::before { content: " · "; }
  .what { border-left: 0; padding-left: 16px; } .what::before { left: 0; }
}
@media print {
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } .tabs > label, details { display: none; }
  .panel { display: grid !important; break-inside: avoid; } .panel > h3 { display: block; }
  figure, li, .tile, dt, dd, p { break-inside: avoid; } h2, h3, section > p { break-after: avoid; }
  section { padding: 14px 18px; } .pair { grid-template-columns: 1fr 1fr; }
  figure.wide svg { min-width: 0; }
}
"""
)
