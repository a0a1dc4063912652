"""texts.py: the rows that the nano backbone learns before it meets any medium, in the form in which media come later.

Mix (facts of a trial: what made it work): a name into another language 25 %; two or three names, each once or more in a row, into their
order 55 %; letters into the name in another language 12 % or the same 8 %. Held-out ordered pairs never stand in an order row.
"""
import random

from concepts import LANGUAGES, NUM_CONCEPTS, SEED, draw_order
from records import record

MIX = [("translate", 0.25), ("order", 0.55), ("spelled", 0.12), ("spelled_same", 0.08)]
SEPARATOR = ", "


def join(names) -> str:
    return SEPARATOR.join(names)


def spell(name: str) -> str:
    return " ".join(name)


def two_languages(rng: random.Random):
    return rng.sample(list(LANGUAGES), 2)


def translate_row(identifier, concepts, rng):
    source, target = two_languages(rng)
    concept = rng.choice(concepts)
    return record(identifier, concept.names[source], target, concept.names[target], task="translate", concepts=[concept.index])


def order_row(identifier, concepts, rng, held_out=False):
    source, target = two_languages(rng)
    order = draw_order(rng, 2 if held_out or rng.random() < 0.6 else 3, held_out)
    longest = 3 if len(order) == 2 else 2  # as many names in a row as a clip has frames of one picture
    content = join(concepts[i].names[source] for i in order for _ in range(rng.randint(1, longest)))
    answer = join(concepts[i].names[target] for i in order)
    return record(identifier, content, target, answer, task="order", concepts=order)


def spelled_row(identifier, concepts, rng, same=False):
    source, target = two_languages(rng)
    target = source if same else target
    concept = rng.choice(concepts)
    return record(identifier, spell(concept.names[source]), target, concept.names[target], task="spelled", concepts=[concept.index])


def training_rows(concepts: list, count: int) -> list:
    rows, kinds, weights = [], [k for k, _ in MIX], [w for _, w in MIX]
    for i in range(count):
        rng = random.Random(f"{SEED}:text:{i}")
        identifier, kind = f"text-{i:06d}", rng.choices(kinds, weights)[0]
        if kind == "translate":
            rows.append(translate_row(identifier, concepts, rng))
        elif kind == "order":
            rows.append(order_row(identifier, concepts, rng))
        else:
            rows.append(spelled_row(identifier, concepts, rng, same=kind == "spelled_same"))
    return rows


def held_out_rows(concepts: list, count: int) -> dict:
    """Order rows of held-out pairs; translation and spelling are checked on drawn rows (all their pairs are known in training)."""
    assert len(concepts) == NUM_CONCEPTS
    make = {"text_order": lambda n, c, r: order_row(n, c, r, held_out=True), "text_translate": translate_row, "text_spelled": spelled_row}
    return {name: [row(f"{name}-{i:04d}", concepts, random.Random(f"{SEED}:{name}:{i}")) for i in range(count)] for name, row in make.items()}
