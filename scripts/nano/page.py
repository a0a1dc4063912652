"""page.py: the demo's page. One file without references to anything outside: media as data: URIs, curves as SVG, style inline."""
import base64
from html import escape
from pathlib import Path

from concepts import LANGUAGES, prompt
from curves import chart, series, smooth
from records import answer_of, media_of

MIME = {".jpg": "image/jpeg", ".flac": "audio/flac", ".mp4": "video/mp4"}
STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
COLOURS = {"loss": "#2f6f9f", "loss_image": "#c2683c", "loss_audio": "#4f8a4b", "loss_video": "#8a5aa8", "validation_loss": "#b3372f"}
GALLERY = {"pictures_seen": 24, "pictures_unseen": 16, "clips": 12, "speech": 10, "speech_translated": 10}
HEADINGS = {"pictures_seen": "Pictures: new backgrounds and places", "pictures_unseen": "Pictures: languages never asked of them in training",
            "clips": "Videos: two pictures in order, pairs never seen", "speech": "Speech: voices never heard, written down",
            "speech_translated": "Speech: the same voices, named in another language"}


def data_uri(corpus: Path, uri: str) -> str:
    path = corpus / uri
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def player(corpus: Path, medium: dict) -> str:
    source = data_uri(corpus, medium["uri"])
    if medium["kind"] == "image":
        return f'<img src="{source}" alt="a held-out picture">'
    if medium["kind"] == "audio":
        return f'<audio controls preload="none" src="{source}"></audio>'
    return f'<video controls loop muted playsinline preload="metadata" src="{source}"></video>'


def answer(text: str, right: str, language: str) -> str:
    """The model's answer, marked right or wrong; a wrong one shows what would have been right."""
    text = text.strip()
    if text == right:
        return f'<div class="answer right" lang="{language}"><b>{language}</b> {escape(text)}</div>'
    return f'<div class="answer wrong" lang="{language}"><b>{language}</b> <s>{escape(text) or "(nothing)"}</s> <span class="want">{escape(right)}</span></div>'


def card(corpus: Path, medium: dict, answers: list, note: str = "") -> str:
    said = "".join(answer(text, right, language) for text, right, language in answers)
    return f'<div class="card {medium["kind"]}">{player(corpus, medium)}{f"<small>{escape(note)}</small>" if note else ""}{said}</div>'


def voice_note(row: dict) -> str:
    return f"voice {row['voice']}" if "voice" in row else ""


def showcase(corpus: Path, rows: list, texts: list) -> str:
    """One card for each medium with its answers in every language."""
    groups = {}
    for row, text in zip(rows, texts):
        groups.setdefault(row["of"], []).append((row, text))
    out = {"image": [], "video": [], "audio": []}
    for group in groups.values():
        first = group[0][0]
        out[media_of(first)["kind"]].append(card(corpus, media_of(first), [(text, answer_of(row), row["lang"]) for row, text in group], voice_note(first)))
    return "".join(f'<div class="cards wide">{"".join(cards)}</div>' for cards in out.values())


def galleries(corpus: Path, results: dict) -> str:
    out = []
    for task, count in GALLERY.items():
        r = results[task]
        cards = [card(corpus, media_of(row), [(text, answer_of(row), row["lang"])], voice_note(row)) for row, text in list(zip(r["rows"], r["answers"]))[-count:]]
        out.append(f'<h3>{HEADINGS[task]}</h3><p class="note">The last {count} of {r["trained"].rows} held-out samples, not chosen; '
                   f'{100 * r["trained"].exact:.0f} % of all are right.</p><div class="cards">{"".join(cards)}</div>')
    return "".join(out)


def bar(value: float, target: float) -> str:
    return f'<div class="bar"><i style="width:{100 * value:.1f}%"></i><u style="left:{100 * target:.1f}%" title="aim {100 * target:.0f} %"></u></div>'


def results_table(results: dict) -> str:
    rows = []
    for r in results.values():
        before = r["untrained"]
        rows.append(f'<tr><td>{escape(r["what"])}</td><td>{r["trained"].rows}</td><td>{100 * r["chance"]:.2f}</td>'
                    f'<td>{f"{100 * before.exact:.1f}" if before else "–"}</td><td class="main">{100 * r["trained"].exact:.1f}{bar(r["trained"].exact, r["target"])}</td>'
                    f'<td>{100 * r["target"]:.0f}</td><td>{r["guess"].chrf:.1f}</td><td>{f"{before.chrf:.1f}" if before else "–"}</td><td class="main">{r["trained"].chrf:.1f}</td></tr>')
    return ('<table><thead><tr><th rowspan="2">held-out task</th><th rowspan="2">samples</th><th colspan="4">exact answers, %</th><th colspan="3">chrF</th></tr>'
            '<tr><th>chance</th><th>untrained</th><th>trained</th><th>aim</th><th>guess</th><th>untrained</th><th>trained</th></tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table>')


def language_table(results: dict) -> str:
    head = "".join(f"<th>{name}</th>" for name in LANGUAGES.values())
    rows = ""
    for task, r in results.items():
        cells = "".join(f'<td style="--v:{r["by_language"][x]:.2f}" class="heat">{100 * r["by_language"][x]:.0f}</td>' if x in r["by_language"] else "<td>–</td>" for x in LANGUAGES)
        rows += f"<tr><td>{task.replace('_', ' ')}</td>{cells}</tr>"
    return f"<table><thead><tr><th>exact, %</th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def curves(metrics: dict, stages: dict) -> str:
    out = []
    for stage, title in stages.items():
        lines = [(key.replace("_", " "), colour, smooth(series(metrics[stage], key)), False)
                 for key, colour in COLOURS.items() if key != "validation_loss" and (key == "loss" or stage == "adapters")]
        lines.append(("validation loss", COLOURS["validation_loss"], series(metrics[stage], "validation_loss"), True))
        out.append(chart(title, lines))
    return f'<div class="charts">{"".join(out)}</div>'


def splits(facts: dict) -> str:
    pairs, counts = facts["ordered_pairs"], facts["counts"]
    held = "".join(f"<li>{escape(line)}</li>" for line in facts["held_out"])
    sizes = "".join(f"<tr><td>{escape(name)}</td><td>{count:,}</td></tr>" for name, count in counts.items())
    things = "".join(f'<tr><td class="emoji">{c["emoji"]}</td>' + "".join(
        f'<td class="{"out" if x in c["languages_held_out"] else ""}" lang="{x}">{escape(c["names"][x])}</td>' for x in LANGUAGES) + "</tr>" for c in facts["concepts"])
    head = "".join(f"<th>{name}</th>" for name in LANGUAGES.values())
    return (f"<ul>{held}<li>{pairs['heldout']} of {pairs['all']} ordered pairs are held out; {facts['speech_seconds']:.0f} s of speech in all; seed {facts['seed']}.</li></ul>"
            f'<details><summary>How many samples</summary><table><tbody>{sizes}</tbody></table></details>'
            f'<details><summary>The {len(facts["concepts"])} things and their names (grey: never asked of a picture in training)</summary>'
            f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{things}</tbody></table></details>")


def timings(rows: list) -> str:
    if not rows:
        return ""
    total = sum(seconds for _, seconds in rows) or 1
    lines = "".join(f'<tr><td>{escape(name)}</td><td>{seconds:.0f} s</td><td class="main">{bar(seconds / total, 0)}</td></tr>' for name, seconds in rows)
    return f'<h2>Time</h2><table><tbody>{lines}<tr><td>together</td><td>{total:.0f} s</td><td></td></tr></tbody></table>'


def figures(results: dict) -> str:
    shown = [("pictures_seen", "pictures named"), ("pictures_unseen", "in unseen languages"), ("clips", "videos told in order"), ("speech", "unheard voices written down")]
    return "".join(f'<div class="figure"><b>{100 * results[task]["trained"].exact:.0f} %</b>{what}<small>untrained {100 * results[task]["untrained"].exact:.0f} %, '
                   f'chance {100 * results[task]["chance"]:.2g} %</small></div>' for task, what in shown)


def render(data: dict, corpus: Path, stages: dict) -> str:
    results, question = data["results"], escape(prompt("de").strip())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>euromodal: the whole way once</title>
<style>{STYLE}</style></head><body><main>
<h1>euromodal</h1>
<p class="lead">A small EuroLLM-shaped text model learned {len(data['facts']['concepts'])} things in {len(LANGUAGES)} European languages from text alone. Then, with it and two small
encoders frozen, three adapters taught it to see pictures, watch videos and hear speech. Everything below is <b>held out</b>: nothing here was seen or heard in training.</p>
<div class="figures">{figures(results)}</div>
<h2>Results</h2>{results_table(results)}
<p class="note">Exact: the whole answer, letter for letter, greedy. Chance: one drawn name, or one drawn ordered pair. Guess: chrF of such drawn names.
Untrained: the same model before its adapters saw anything. The mark on a bar is the aim.</p>
{language_table(results)}
<h2>One question in every language</h2>
<p class="note">Each medium was followed by the question “{question}” and its like. Green is right; red was wrong and is followed by what would have been right.</p>
{showcase(corpus, *data['showcase'])}
<h2>More of the held-out samples</h2>{galleries(corpus, results)}
<h2>Training</h2>{curves(data['metrics'], stages)}
<h2>What is held out</h2>{splits(data['facts'])}
{timings(data['timings'])}
<footer>Pictures: Noto Color Emoji (SIL Open Font License). Names: Unicode CLDR. Speech: espeak-ng. Made by scripts/demo.</footer>
</main></body></html>
"""
