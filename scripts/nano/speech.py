"""speech.py: names spoken by espeak-ng through its library (one process says thousands), trimmed, at 16 kHz, as FLAC.

Seven training voices and two held-out ones: variants of the language's own voice, each with its speed (words a minute) and pitch.
"""
import ctypes
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE_HZ = 16000
SILENCE = 0.01  # of the peak: what lies below at both ends is cut
MARGIN_S = 0.02
TRAIN_VOICES = [("", 160, 50), ("+m1", 145, 45), ("+m2", 175, 40), ("+m3", 165, 55), ("+f1", 150, 55), ("+f2", 180, 60), ("+f4", 190, 50)]
HELD_OUT_VOICES = [("+f3", 165, 50), ("+m5", 160, 50)]
OUTPUT_SYNCHRONOUS, RATE, PITCH, UTF8, POSITION_CHARACTER = 2, 1, 3, 1, 1  # of espeak-ng's speak_lib.h
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """espeak-ng in this process; say() -> f32 samples at 16 kHz."""

    # Breathy voices (+f2, +f3) take their noise from the C library's rand(), one sequence for the whole process that any library may draw from or
    # seed. Each utterance begins it anew, so that nobody else's draw changes a corpus.
    NOISE_SEED = 1

    def __init__(self):
        try:
            self.library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError:
            raise FileNotFoundError("libespeak-ng.so.1 is missing; install Debian's espeak-ng") from None
        self.rate_hz = self.library.espeak_Initialize(OUTPUT_SYNCHRONOUS, 0, None, 0)
        if self.rate_hz <= 0:
            raise RuntimeError(f"espeak-ng did not start (espeak_Initialize gave {self.rate_hz})")
        self.library.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
                                              ctypes.c_void_p, ctypes.c_void_p]
        self.seed_noise = ctypes.CDLL(None).srand
        self.chunks = []
        self.callback = CALLBACK(self.receive)  # kept: the library calls it for as long as it lives
        self.library.espeak_SetSynthCallback(self.callback)

    def receive(self, samples, count, _events):
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, language: str, voice) -> np.ndarray:
        variant, speed, pitch = voice
        fault = self.library.espeak_SetVoiceByName(f"{language}{variant}".encode())
        if fault:
            raise RuntimeError(f"espeak-ng has no voice {language}{variant} (error {fault})")
        self.library.espeak_SetParameter(RATE, speed, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        self.chunks, data = [], text.encode()
        self.seed_noise(self.NOISE_SEED)
        fault = self.library.espeak_Synth(data, len(data) + 1, 0, POSITION_CHARACTER, 0, UTF8, None, None)
        if fault or not self.chunks:
            raise RuntimeError(f"espeak-ng said nothing for {text!r} in {language} (error {fault})")
        return resample(trim(np.concatenate(self.chunks).astype(np.float32) / 32768, self.rate_hz), self.rate_hz)


def trim(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    if loud.size == 0:
        raise ValueError("silence only")
    margin = int(MARGIN_S * rate_hz)
    return samples[max(loud[0] - margin, 0) : loud[-1] + 1 + margin]


def resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Band-limited, through the spectrum of the whole utterance (silence at both ends, so the wrap-around is harmless)."""
    pad = rate_hz // 20
    padded = np.concatenate([samples, np.zeros(pad - (samples.size + pad) % 441 + 441, np.float32)])
    target = padded.size * SAMPLE_RATE_HZ // rate_hz
    spectrum = np.fft.rfft(padded)[: target // 2 + 1]
    out = np.fft.irfft(spectrum, target) * (target / padded.size)
    return out[: round(samples.size * SAMPLE_RATE_HZ / rate_hz)].astype(np.float32)


def write_flac(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, np.clip(samples, -1, 1), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
