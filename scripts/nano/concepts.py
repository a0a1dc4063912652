"""concepts.py: the 64 things of the nano world, their names in 8 languages, and what is held out of training.

Names are the text-to-speech names (`type="tts"`) of the Unicode CLDR annotations, as Debian's unicode-cldr-core installs them.
Everything is a function of SEED and of that package's data; draw_concepts() says which names it could not find.
"""
import random
import unicodedata
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ANNOTATIONS = Path("/usr/share/unicode/cldr/common/annotations")
LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pl": "Polish", "fi": "Finnish", "el": "Greek"}
NUM_CONCEPTS = 64
SEED = 20
FIRST_CODE_POINT = 0x1F300
INHERITED = "↑↑↑"  # CLDR's mark for "as in the parent language"


@dataclass(frozen=True)
class Concept:
    index: int
    emoji: str
    names: dict  # language -> name

    @property
    def label(self) -> str:
        return self.names["en"]


def read_names(language: str, folder: Path = ANNOTATIONS) -> dict:
    """Code point -> tts name in one language; one code point of U+1F300 or above only."""
    path = folder / f"{language}.xml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; install Debian's unicode-cldr-core")
    names = {}
    for node in ElementTree.parse(path).iterfind(".//annotation[@type='tts']"):
        emoji, name = node.get("cp", ""), unicodedata.normalize("NFC", (node.text or "").strip())
        if len(emoji) == 1 and ord(emoji) >= FIRST_CODE_POINT and name and name != INHERITED:
            names[emoji] = name
    return names


def candidates(folder: Path = ANNOTATIONS) -> list:
    """(emoji, names) of every emoji with a one-word name of 2-14 letters in all languages that no other candidate shares."""
    tables = {language: read_names(language, folder) for language in LANGUAGES}
    found = []
    for emoji in sorted(set.intersection(*(set(t) for t in tables.values()))):
        names = {language: tables[language][emoji] for language in LANGUAGES}
        if all(n.isalpha() and 2 <= len(n) <= 14 for n in names.values()):
            found.append((emoji, names))
    for language in LANGUAGES:
        seen = {}
        for emoji, names in found:
            seen.setdefault(names[language].casefold(), []).append(emoji)
        twice = {emoji for group in seen.values() if len(group) > 1 for emoji in group}
        found = [(emoji, names) for emoji, names in found if emoji not in twice]
    return found


def draw_concepts(folder: Path = ANNOTATIONS) -> list:
    found = candidates(folder)
    if len(found) < NUM_CONCEPTS:
        raise ValueError(f"{folder}: {len(found)} emoji have a one-word name in all of {', '.join(LANGUAGES)}; {NUM_CONCEPTS} are needed")
    drawn = sorted(random.Random(f"{SEED}:concepts").sample(found, NUM_CONCEPTS))
    return [Concept(i, emoji, names) for i, (emoji, names) in enumerate(drawn)]


def prompt(language: str) -> str:
    """What stands after the medium (or the text in its place): `caption --language`'s own words, the line break before them included."""
    return f"\nDescribe this in {LANGUAGES[language]}."


def language_held_out(concept: Concept, language: str) -> bool:
    """A quarter of all (picture, language) pairs never reaches the picture adapter in training."""
    position = list(LANGUAGES).index(language)
    return (5 * concept.index + 3 * position) % 8 < 2


def pair_held_out(first: int, second: int) -> bool:
    """A fifth of all ordered pairs of different concepts; (a, b) may be held out while (b, a) is not."""
    return first != second and (7 * first + 11 * second + 3 * (first // 8) * (second // 8)) % 5 == 0


def order_allowed(order: list) -> bool:
    """May this sequence be trained on? Not when any earlier-later pair of it is held out."""
    return not any(pair_held_out(a, b) for i, a in enumerate(order) for b in order[i + 1 :])


def draw_order(rng: random.Random, length: int, held_out: bool) -> list:
    """Different concepts in order: an allowed sequence, or (length 2) one held-out pair."""
    while True:
        order = rng.sample(range(NUM_CONCEPTS), length)
        if (pair_held_out(*order) if held_out else order_allowed(order)):
            return order
