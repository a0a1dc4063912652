"""scores.py: exact match and chrF of answers, beside what guessing a name gives."""
import random
from dataclasses import dataclass

from concepts import LANGUAGES, NUM_CONCEPTS, SEED
from records import answer_of
from texts import join

# task -> (what it asks, modality, chance of a right guess, what the recipe reached)
PAIRS = NUM_CONCEPTS * (NUM_CONCEPTS - 1)
TASKS = {
    "pictures_seen": ("picture: name, new backgrounds and places", "image", 1 / NUM_CONCEPTS, 0.85),
    "pictures_unseen": ("picture: name in a language never asked of it", "image", 1 / NUM_CONCEPTS, 0.80),
    "clips": ("video: two names in order, pairs never seen", "video", 1 / PAIRS, 0.60),
    "speech": ("speech: transcript, voices never heard", "audio", 1 / NUM_CONCEPTS, 0.90),
    "speech_translated": ("speech: name in another language, same voices", "audio", 1 / NUM_CONCEPTS, 0.90),
    "text_translate": ("text: name into another language", None, 1 / NUM_CONCEPTS, 0.95),
    "text_spelled": ("text: spelled name into another language", None, 1 / NUM_CONCEPTS, 0.80),
    "text_order": ("text: repeated names into their order, unseen pairs", None, 1 / PAIRS, 0.35),
}
TIMES_CHANCE = 5


@dataclass
class Score:
    rows: int
    exact: float  # 0..1
    chrf: float  # 0..100


def exact(predictions: list, references: list) -> float:
    return sum(p.strip() == r for p, r in zip(predictions, references)) / len(references)


def chrf(predictions: list, references: list) -> float:
    import sacrebleu  # here, so that the rest of the report needs no package from PyPI

    return sacrebleu.corpus_chrf(predictions, [references]).score


def score(predictions: list, references: list) -> Score:
    if not references or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    return Score(len(references), exact(predictions, references), chrf(predictions, references))


def guesses(rows: list, names: list) -> list:
    """A drawn name (or as many different ones as the answer has) in the language asked for. names: concept -> {language: name}."""
    rng = random.Random(f"{SEED}:guess")
    return [join(names[i][row["lang"]] for i in rng.sample(range(len(names)), len(row["concepts"]))) for row in rows]


def by_language(rows: list, predictions: list) -> dict:
    """Language -> exact match."""
    found = {}
    for language in LANGUAGES:
        pairs = [(p, answer_of(row)) for row, p in zip(rows, predictions) if row["lang"] == language]
        if pairs:
            found[language] = exact([p for p, _ in pairs], [r for _, r in pairs])
    return found
