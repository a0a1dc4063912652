"""corpus_test.py: the demo's corpus on a small scale: same bytes twice, real media files, and nothing held out stands in training."""
import ctypes
import hashlib
import json
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts/nano"))
import concepts as world
import corpus
import pictures
import speech
from clips import FRAMES, clip_frames, write_clips
from records import answer_of, media_of, read_jsonl, write_jsonl

SCALE = 0.05


def breathy(draws):
    """Two utterances of +f2, each after `draws` numbers of the C library's generator."""
    speaker, out = speech.Speaker(), []
    for word in ["horse", "snail"]:
        for _ in range(draws):
            ctypes.CDLL(None).rand()
        out.append(hashlib.sha256(speaker.say(word, "en", ("+f2", 180, 60)).tobytes()).hexdigest())
    return out


def digests(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


class CorpusTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = Path(cls.folder.name) / "corpus"
        cls.facts = corpus.make_corpus(cls.root, SCALE, log=lambda _: None)
        cls.sets = {path.stem: read_jsonl(path) for path in cls.root.glob("*.jsonl")}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_same_bytes_again(self):
        again = Path(self.folder.name) / "again"
        corpus.make_corpus(again, SCALE, log=lambda _: None)
        first, second = digests(self.root), digests(again)
        self.assertEqual(first.keys(), second.keys())
        self.assertEqual([name for name in first if first[name] != second[name]], [])

    def test_every_file_is_used_and_every_record_has_its_file(self):
        named = {media_of(row)["uri"] for rows in self.sets.values() for row in rows if media_of(row)}
        there = {str(p.relative_to(self.root)) for p in (self.root / "media").rglob("*") if p.is_file()}
        self.assertEqual(named, there)

    def test_ids_are_unique_and_fit_into_file_names(self):
        ids = [row["id"] for rows in self.sets.values() for row in rows]
        self.assertEqual(len(ids), len(set(ids)))
        self.assertFalse([i for i in ids if "/" in i or "." in i])

    def test_answers_are_the_names(self):
        names = [c["names"] for c in self.facts["concepts"]]
        for rows in self.sets.values():
            for row in rows:
                self.assertEqual(answer_of(row), ", ".join(names[i][row["lang"]] for i in row["concepts"]))
                self.assertTrue(row["messages"][0]["parts"][-1].endswith(world.prompt(row["lang"])))

    def test_no_held_out_language_in_training_pictures(self):
        drawn = world.draw_concepts()
        for row in self.sets["train-pictures"]:
            self.assertFalse(world.language_held_out(drawn[row["concepts"][0]], row["lang"]), row["id"])
        for name, unseen in [("heldout-pictures_seen", False), ("heldout-pictures_unseen", True)]:
            for row in self.sets[name]:
                self.assertEqual(world.language_held_out(drawn[row["concepts"][0]], row["lang"]), unseen, row["id"])
        pairs = [world.language_held_out(c, x) for c in drawn for x in world.LANGUAGES]
        self.assertEqual(sum(pairs) * 4, len(pairs))

    def test_no_held_out_pair_in_training(self):
        for name in ["train-clips", "train-text"]:
            for row in self.sets[name]:
                self.assertTrue(world.order_allowed(row["concepts"]), row["id"])
        for name in ["heldout-clips", "heldout-text_order"]:
            for row in self.sets[name]:
                self.assertTrue(world.pair_held_out(*row["concepts"]), row["id"])
        pairs = [world.pair_held_out(a, b) for a in range(64) for b in range(64) if a != b]
        self.assertAlmostEqual(sum(pairs) / len(pairs), 0.2, places=2)

    def test_voices_do_not_meet(self):
        heard = {row["voice"] for row in self.sets["train-speech"]}
        self.assertTrue(heard)
        self.assertFalse(heard & {row["voice"] for row in self.sets["heldout-speech"]})

    def test_pictures_are_jpeg_of_64_by_64(self):
        for row in self.sets["heldout-pictures_seen"]:
            with Image.open(self.root / media_of(row)["uri"]) as picture:
                self.assertEqual((picture.format, picture.size, picture.mode), ("JPEG", (64, 64), "RGB"))

    def test_speech_is_16_khz_mono_with_sound_throughout(self):
        for row in self.sets["heldout-speech"]:
            samples, rate = soundfile.read(self.root / media_of(row)["uri"], dtype="float32")
            self.assertEqual((rate, samples.ndim), (16000, 1))
            self.assertTrue(0.15 < samples.size / rate < 2.0, row["id"])  # the encoder's window is 2 s
            self.assertGreater(np.abs(samples[:1600]).max(), 0.005, row["id"])

    def test_clips_show_their_pictures_in_order(self):
        row = next(r for r in self.sets["train-clips"] if len(r["concepts"]) == 3)
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", self.root / media_of(row)["uri"], "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True,
                             capture_output=True).stdout
        frames = np.frombuffer(raw, np.uint8).reshape(FRAMES, 64, 64, 3).astype(float)
        change = [np.abs(frames[i + 1] - frames[i]).mean() for i in range(FRAMES - 1)]
        self.assertEqual(sorted(int(i) for i in np.argsort(change)[-2:]), [3, 7])
        self.assertGreater(min(change[3], change[7]), 5 * max(c for i, c in enumerate(change) if i not in (3, 7)))

    def test_classes_and_alphabet_cover_the_names(self):
        self.assertEqual((self.root / "classes.txt").read_text().splitlines(), [c["names"]["en"] for c in self.facts["concepts"]])
        letters = set((self.root / "alphabet.txt").read_text().splitlines())
        self.assertEqual(letters, {letter for c in self.facts["concepts"] for n in c["names"].values() for letter in n})


class PartsTest(unittest.TestCase):
    def test_names_are_unique_words(self):
        drawn = world.draw_concepts()
        self.assertEqual(len(drawn), 64)
        for language in world.LANGUAGES:
            names = [c.names[language].casefold() for c in drawn]
            self.assertEqual(len(set(names)), 64, language)
            self.assertTrue(all(n.isalpha() and 2 <= len(n) <= 14 for n in names))

    def test_missing_annotations_are_named(self):
        with self.assertRaisesRegex(FileNotFoundError, "unicode-cldr-core"):
            world.read_names("en", Path("/nowhere"))

    def test_resampling_keeps_a_tone(self):
        rate, seconds, tone_hz = 22050, 0.5, 1000
        t = np.arange(int(rate * seconds)) / rate
        window = np.hanning(t.size)
        out = speech.resample((np.sin(2 * np.pi * tone_hz * t) * window).astype(np.float32), rate)
        self.assertEqual(out.size, round(t.size * 16000 / rate))
        t16 = np.arange(out.size) / 16000
        want = np.sin(2 * np.pi * tone_hz * t16) * np.interp(t16, t, window)
        self.assertLess(np.abs(out - want).max(), 2e-3)

    def test_resampling_takes_high_tones_out(self):
        t = np.arange(11025) / 22050
        out = speech.resample((np.sin(2 * np.pi * 10000 * t) * np.hanning(t.size)).astype(np.float32), 22050)
        self.assertLess(np.abs(out).max(), 1e-2)

    def test_noise_of_breathy_voices_is_the_utterances_own(self):
        # Two processes that say the same; in one of them somebody else draws random numbers in between.
        def spoken(draws):
            with ProcessPoolExecutor(1) as teller:
                return teller.submit(breathy, draws).result()

        undisturbed = spoken(0)
        self.assertEqual(len(set(undisturbed)), 2)
        self.assertEqual(spoken(3), undisturbed)

    def test_silence_is_refused(self):
        with self.assertRaisesRegex(ValueError, "silence"):
            speech.trim(np.zeros(1000, np.float32), 16000)

    def test_positions_of_the_splits_do_not_meet(self):
        import random
        rng = random.Random(1)
        for room in range(2, 33):
            places = [{pictures.position(rng, room, held_out) for _ in range(200)} for held_out in (False, True)]
            self.assertTrue(all(p % 2 == 0 and 0 <= p <= room for p in places[0]), room)
            self.assertTrue(all(p % 2 == 1 and 0 <= p <= room for p in places[1]), room)

    def test_broken_encoder_run_is_an_error(self):
        with tempfile.TemporaryDirectory() as folder:
            blocked = Path(folder) / "clips"
            blocked.mkdir()
            (blocked / "00001.mp4").mkdir()  # ffmpeg cannot write the second clip
            frames = clip_frames([Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "red")])
            with self.assertRaisesRegex(RuntimeError, "clips"):
                write_clips(blocked, [frames, frames])

    def test_broken_record_line_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.jsonl"
            write_jsonl(path, [{"a": 1}])
            path.write_text(path.read_text() + "{oops\n")
            with self.assertRaisesRegex(ValueError, "x.jsonl:2"):
                read_jsonl(path)

    def test_model_configs_fit_tokenizer_and_corpus(self):
        nano = TOP / "configs/nano"
        tokenizer = json.loads((nano / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
        self.assertEqual(json.loads((nano / "backbone/config.json").read_text())["vocab_size"], max(tokenizer.values()) + 1)
        for language in world.LANGUAGES:
            self.assertIn(world.prompt(language).replace(" ", "▁"), tokenizer)
        for concept in world.draw_concepts():
            for name in concept.names.values():
                self.assertTrue(all(letter in tokenizer for letter in name), f"{name}: a letter would fall back to bytes; run scripts/nano/make_tokenizer.py")


if __name__ == "__main__":
    unittest.main()
