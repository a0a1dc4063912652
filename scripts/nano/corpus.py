"""corpus.py: makes the whole corpus of the demo: real JPEG, FLAC and MP4 files with JSONL records beside them.

  corpus.py --output DIR [--scale S]      DIR/train-*.jsonl, DIR/heldout-*.jsonl, DIR/media/, DIR/splits.json,
                                        DIR/classes.txt (one label a line), DIR/alphabet.txt (one letter a line)
The same call gives the same bytes again. --scale 0.05 makes a small one for tests.
"""
import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from clips import FRAMES, FRAMES_PER_SECOND, clip_frames, write_clips
from concepts import LANGUAGES, NUM_CONCEPTS, SEED, draw_concepts, draw_order, language_held_out, pair_held_out, prompt
from pictures import draw, jpeg
from records import media, media_of, record, write_jsonl
from speech import HELD_OUT_VOICES, SAMPLE_RATE_HZ, TRAIN_VOICES, Speaker, write_flac
from texts import MIX, held_out_rows, join, training_rows

# Sizes at --scale 1.
PICTURES_PER_CONCEPT = 60
TEXT_ROWS = 41000
TRAIN_CLIPS = 1536
HELD_OUT_ROWS = 256  # of each task
SHOWCASE = [("heldout/pictures_seen", 12), ("heldout/clips", 6), ("heldout/speech", 6)]


def identifier(name, number):
    return f"{name.replace('/', '-')}-{number:05d}"


def draw_picture_file(job):
    path, emoji, key, held_out = job
    path.write_bytes(jpeg(draw(emoji, random.Random(key), held_out)))


def draw_clip(job):
    emojis, key, held_out = job
    rng = random.Random(key)
    return clip_frames([draw(emoji, rng, held_out) for emoji in emojis])


def picture_rows(concepts, root, pool, scale):
    """Training pictures, and held-out ones asked for in seen and in unseen (picture, language) pairs."""
    sets, jobs = {"train/pictures": [], "heldout/pictures_seen": [], "heldout/pictures_unseen": []}, []

    def add(name, concept, number, held_out, language):
        uri = f"media/{name}/{number:05d}.jpg"
        jobs.append((root / uri, concept.emoji, f"{SEED}:{name}:{number}", held_out))
        sets[name].append(record(identifier(name, number), media("image", uri), language, concept.names[language],
                                 label=concept.label, task=name.split("/")[1], concepts=[concept.index]))

    def languages(concept, unseen):
        return [language for language in LANGUAGES if language_held_out(concept, language) == unseen]

    for number in range(int(PICTURES_PER_CONCEPT * scale + 0.5) * NUM_CONCEPTS):
        concept, turn = concepts[number % NUM_CONCEPTS], number // NUM_CONCEPTS
        options = languages(concept, unseen=False)
        add("train/pictures", concept, number, False, options[turn % len(options)])
    for number in range(count_of(HELD_OUT_ROWS, scale)):
        concept, turn = concepts[number % NUM_CONCEPTS], number // NUM_CONCEPTS
        for name, unseen in [("heldout/pictures_seen", False), ("heldout/pictures_unseen", True)]:
            options = languages(concept, unseen)
            add(name, concept, number, True, options[(turn + concept.index) % len(options)])
    for name in sets:
        (root / "media" / name).mkdir(parents=True, exist_ok=True)
    list(pool.map(draw_picture_file, jobs, chunksize=64))
    return sets


def speech_rows(concepts, root, scale):
    """Every name in every voice; the record asks for the transcript, its twin for the name in a drawn language."""
    speaker, sets, seconds = Speaker(), {}, 0.0
    for split, voices in [("train", TRAIN_VOICES), ("heldout", HELD_OUT_VOICES)]:
        folder = root / "media" / split / "speech"
        folder.mkdir(parents=True, exist_ok=True)
        spoken = [(c, language, voice) for voice in voices for language in LANGUAGES for c in concepts]
        kept = set(random.Random(f"{SEED}:speech:{split}").sample(range(len(spoken)), count_of(len(spoken) if split == "train" else HELD_OUT_ROWS, scale)))
        written, translated = [], []
        for number, (concept, language, voice) in enumerate(spoken):
            if number not in kept:
                continue
            samples = speaker.say(concept.names[language], language, voice)
            seconds += samples.size / SAMPLE_RATE_HZ
            write_flac(folder / f"{number:05d}.flac", samples)
            sound = media("audio", f"media/{split}/speech/{number:05d}.flac")
            target = random.Random(f"{SEED}:speech:{split}:{number}").choice([x for x in LANGUAGES if x != language])
            extra = {"voice": language + voice[0], "spoken": language, "concepts": [concept.index]}
            written.append(record(identifier(f"{split}/speech", number), sound, language, concept.names[language], task="speech", **extra))
            translated.append(record(identifier(f"{split}/speech_translated", number), sound, target, concept.names[target], task="speech_translated", **extra))
        sets[f"{split}/speech"], sets[f"{split}/speech_translated"] = written, translated
    return sets, seconds


def clip_rows(concepts, root, pool, scale):
    sets = {}
    for split, count in [("train", TRAIN_CLIPS), ("heldout", HELD_OUT_ROWS)]:
        held_out, rows, jobs = split == "heldout", [], []
        for number in range(count_of(count, scale)):
            rng = random.Random(f"{SEED}:clips:{split}:{number}")
            order = draw_order(rng, 2 if held_out or number % 3 else 3, held_out)
            language = list(LANGUAGES)[number % len(LANGUAGES)]
            clip = media("video", f"media/{split}/clips/{number:05d}.mp4")
            rows.append(record(identifier(f"{split}/clips", number), clip, language, join(concepts[i].names[language] for i in order), task="clips", concepts=order))
            jobs.append(([concepts[i].emoji for i in order], f"{SEED}:clip pictures:{split}:{number}", held_out))
        write_clips(root / "media" / split / "clips", list(pool.map(draw_clip, jobs, chunksize=32)))
        sets[f"{split}/clips"] = rows
    return sets


def showcase_rows(concepts, sets):
    """The first held-out pictures, clips and utterances again, asked for in every language: for the page, not for the figures."""
    rows = []
    for name, count in SHOWCASE:
        for row in sets[name][:count]:
            medium, order = media_of(row), row["concepts"]
            for language in LANGUAGES:
                key = identifier("heldout/showcase", len(rows))
                extra = {"voice": row["voice"], "spoken": row["spoken"]} if "voice" in row else {}
                rows.append(record(key, medium, language, join(concepts[i].names[language] for i in order), task="showcase", of=row["id"], concepts=order, **extra))
    return rows


def count_of(full, scale):
    return max(1, int(full * scale + 0.5))


def splits(concepts, sets, seconds):
    """What is held out, exactly; shown in the report."""
    pairs = [(a, b) for a in range(NUM_CONCEPTS) for b in range(NUM_CONCEPTS) if a != b]
    return {
        "seed": SEED,
        "languages": LANGUAGES,
        "prompt": prompt("de"),
        "concepts": [{"emoji": c.emoji, "names": c.names, "languages_held_out": [x for x in LANGUAGES if language_held_out(c, x)]} for c in concepts],
        "counts": {name: len(rows) for name, rows in sets.items()},
        "speech_seconds": round(seconds, 1),
        "text_mix": dict(MIX),
        "voices": {"train": TRAIN_VOICES, "heldout": HELD_OUT_VOICES},
        "clip": {"frames": FRAMES, "frames_per_second": FRAMES_PER_SECOND},
        "ordered_pairs": {"all": len(pairs), "heldout": sum(pair_held_out(a, b) for a, b in pairs)},
        "held_out": [
            "Pictures: stripes, or gradients of hue 0.8 to 1 (training: flat, gradient or noise of hue 0 to 0.8), and odd positions (training: even ones).",
            "(Picture, language) pairs: a quarter of all 512 never reaches the picture adapter; pictures_unseen asks for those only.",
            "Ordered pairs: a fifth of all 4,032 stands in no training clip and in no text that the backbone learned; clips shows held-out pairs only, "
            "drawn on held-out backgrounds.",
            "Voices: " + " and ".join(v for v, _, _ in HELD_OUT_VOICES) + " of every language are heard by no part in training.",
            "Text: text_order asks for held-out pairs only. Translation and spelling are drawn like training rows: they show what the backbone learned, not generalisation.",
        ],
    }


def write_lines(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def make_corpus(root: Path, scale: float = 1.0, log=print) -> dict:
    begun = time.monotonic()

    def phase(what):
        log(f"corpus: {time.monotonic() - begun:5.1f} s  {what}")

    concepts, sets = draw_concepts(), {}
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    # Speech in one process of its own: what espeak-ng says depends on what it said before, and the corpus must come out the same each time.
    with ProcessPoolExecutor(1) as teller, ProcessPoolExecutor(2) as pool:
        telling = teller.submit(speech_rows, concepts, root, scale)
        sets.update(picture_rows(concepts, root, pool, scale))
        phase(f"{sum(len(v) for v in sets.values())} pictures")
        clips = clip_rows(concepts, root, pool, scale)
        sets.update(clips)
        phase(f"{sum(len(v) for v in clips.values())} clips")
        spoken, seconds = telling.result()
    sets.update(spoken)
    phase(f"{len(spoken['train/speech']) + len(spoken['heldout/speech'])} utterances, {seconds:.0f} s of speech")
    sets["train/text"] = training_rows(concepts, count_of(TEXT_ROWS, scale))
    sets.update({f"heldout/{name}": rows for name, rows in held_out_rows(concepts, count_of(HELD_OUT_ROWS, scale)).items()})
    phase(f"{len(sets['train/text'])} rows of text")
    sets["heldout/showcase"] = showcase_rows(concepts, sets)
    for name, rows in sets.items():
        write_jsonl(root / f"{name.replace('/', '-')}.jsonl", rows)
    write_lines(root / "classes.txt", [c.label for c in concepts])
    write_lines(root / "alphabet.txt", sorted({letter for c in concepts for name in c.names.values() for letter in name}))
    facts = splits(concepts, sets, seconds)
    (root / "splits.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    kinds = Counter(path.suffix for path in (root / "media").rglob("*.*"))
    phase("done: " + ", ".join(f"{n} {suffix[1:]} files" for suffix, n in sorted(kinds.items())))
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    try:
        make_corpus(options.output, options.scale)
    except (OSError, RuntimeError, ValueError) as fault:
        print(f"corpus: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
