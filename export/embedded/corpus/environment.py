"""Environmental sounds from physical sketches: noise, resonances and random events. One program plays recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sc_runtime.semanticodec.config import SAMPLE_RATE

from .effects import PROGRAM, make_recordings
from .signals import (
    Signal,
    band,
    band_noise,
    clock,
    convolve,
    decay,
    filter_curve,
    place,
    ring,
    scatter,
    seconds,
    sine,
    sprinkle,
    swell,
    unit,
    wander,
    white,
)
from .splits import Split, pick

#: A program returns float32 [length] at 16 kHz, at any level.
Program = Callable[[np.random.Generator, int], Signal]


def make_coloured_noise(rng: np.random.Generator, length: int) -> Signal:
    """White to brown noise, of a band or with a notch, steady or gated."""
    slope, lowest = rng.uniform(-0.3, 2.2), rng.uniform(20, 300)
    noise = filter_curve(white(rng, length), lambda f: np.maximum(f, lowest) ** (-slope / 2))
    if rng.random() < 0.5:
        low = float(np.exp(rng.uniform(np.log(60), np.log(3000))))
        noise = filter_curve(noise, band(low, low * float(rng.uniform(1.3, 8)), float(rng.uniform(1, 5))))
    if rng.random() < 0.3:
        noise *= (sine(float(rng.uniform(0.3, 6)), length) > rng.uniform(-0.5, 0.5)) * np.float32(0.95) + np.float32(
            0.05
        )
    elif rng.random() < 0.5:
        noise *= wander(rng, length, float(rng.uniform(0.2, 2)), 0.2, 1)
    return noise


def make_wind(rng: np.random.Generator, length: int) -> Signal:
    """Gusts: bands of noise that rise in pitch as they grow, and a whistle at times."""
    gust = wander(rng, length, rng.uniform(0.3, 1.2)) ** 2
    rumble = band_noise(rng, length, 30, 250, 1) * (0.3 + 0.7 * gust)
    howl = np.zeros(length, np.float32)
    for centre in np.exp(rng.uniform(np.log(250), np.log(1800), 4)):
        strength = np.clip(gust + wander(rng, length, 0.8, -0.4, 0.2), 0, 1)
        howl += band_noise(rng, length, centre * 0.85, centre * 1.18, 3) * strength**2
    if rng.random() < 0.4:
        pitch = float(rng.uniform(400, 1200)) * (0.8 + 0.5 * gust)
        howl += np.float32(0.6) * sine(pitch * (1 + 0.01 * unit(band_noise(rng, length, 1, 20))), length) * gust**3
    return rumble * np.float32(rng.uniform(0.3, 1.0)) + howl * np.float32(0.5)


def make_rain(rng: np.random.Generator, length: int) -> Signal:
    """Many drops as a hiss, with single drops over it."""
    grain = decay(seconds(0.01), rng.uniform(0.003, 0.01), 0.0002) * white(rng, seconds(0.01))
    hiss = unit(sprinkle(rng, length, float(rng.uniform(1500, 9000)), grain))
    hiss = unit(filter_curve(hiss, band(float(rng.uniform(200, 1500)), float(rng.uniform(4000, 7800)), 1)))
    drop = ring((rng.uniform(800, 2500), rng.uniform(2500, 5500)), (0.03, 0.015), (1, 0.5), seconds(0.05))
    drops = unit(sprinkle(rng, length, float(rng.uniform(3, 60)), drop, 1.2))
    return hiss * wander(rng, length, 0.5, 0.6, 1) + drops * np.float32(rng.uniform(0.1, 1.0))


def make_waves(rng: np.random.Generator, length: int) -> Signal:
    """Surf: noise that swells, breaks with hiss and draws back."""
    track = band_noise(rng, length, 30, 400, 1) * np.float32(0.15)
    low, high = band_noise(rng, length, 80, 900, 1), band_noise(rng, length, 900, 7000, 1)
    time = -float(rng.uniform(0, 3))
    while time < length / SAMPLE_RATE:
        rise, fall = float(rng.uniform(1, 2.5)), float(rng.uniform(2, 4))
        count = seconds(rise + fall)
        shape = np.interp(clock(count), [0, rise, rise + fall], [0, 1, 0]).astype(np.float32)
        strength = float(rng.uniform(0.5, 1))
        envelope = np.zeros(length, np.float32)
        place(envelope, shape**2, time, strength)
        hiss = np.zeros(length, np.float32)
        place(hiss, shape**4, time + 0.3, strength)
        track += low * envelope + high * hiss * np.float32(0.6)
        time += float(rng.uniform(2.5, 5))
    return track


def make_engine(rng: np.random.Generator, length: int) -> Signal:
    """Cylinders firing at a speed that changes, behind an exhaust pipe; from a ship's diesel to a motorbike."""
    idle = float(np.exp(rng.uniform(np.log(12), np.log(110))))
    speed = wander(rng, length, rng.uniform(0.2, 0.8), idle, idle * rng.uniform(1.05, 2.2))
    cycles = np.cumsum(speed, dtype=np.float64) / SAMPLE_RATE
    sharp = rng.uniform(3, 12)
    firing = np.exp(-(cycles % 1.0).astype(np.float32) * np.float32(sharp))
    uneven = 1 + np.float32(rng.uniform(0, 0.5)) * np.sin(np.pi * (cycles % 2.0)).astype(np.float32)
    noise = white(rng, length)
    raw = firing * uneven * (1 + np.float32(rng.uniform(0.1, 0.8)) * noise) + np.float32(0.05) * noise
    peaks = rng.uniform(60, 1500, 4)
    broad = rng.uniform(0.3, 1.0)
    return filter_curve(
        raw,
        lambda f: (
            (f > 20)
            * (0.1 + sum(np.exp(-((np.log2(np.maximum(f, 1) / p) / broad) ** 2)) for p in peaks))
            / (1 + (f / 2500) ** 2)
        ),
    )


def make_bells(rng: np.random.Generator, length: int) -> Signal:
    """Church bells, hand bells, chimes, gongs: inharmonic modes struck now and then."""
    track = np.zeros(length, np.float32)
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.0, 4.1, 5.4, 6.8]) * np.exp(rng.normal(0, 0.02, 10))
    base, lasting = float(np.exp(rng.uniform(np.log(180), np.log(1800)))), rng.uniform(1, 7)
    amplitudes = rng.uniform(0.2, 1, 10) / np.arange(1, 11) ** 0.5
    for shift in rng.choice([1.0, 1.122, 1.26, 1.335, 1.498, 1.682], int(rng.integers(1, 4)), replace=False):
        bell = ring(base * shift * ratios, lasting / ratios**0.7, amplitudes, seconds(min(lasting, 8)))
        for time in scatter(rng, rng.uniform(0.3, 1.5), length / SAMPLE_RATE - 1):
            place(track, bell, time, float(rng.uniform(0.3, 1)))
    return track


def make_birds(rng: np.random.Generator, length: int) -> Signal:
    """Songs of some birds: phrases of quick glides, each bird with its own."""
    track = band_noise(rng, length, 200, 3000, 1) * np.float32(0.005)
    for _ in range(int(rng.integers(1, 5))):
        syllables = []
        for _ in range(int(rng.integers(1, 5))):
            count = seconds(rng.uniform(0.03, 0.25))
            start, end = np.exp(rng.uniform(np.log(1800), np.log(6500), 2))
            line = np.linspace(0, 1, count, dtype=np.float32)
            curve = start + (end - start) * line + rng.uniform(-1200, 1200) * np.sin(np.pi * line)
            trill = 1 + np.float32(rng.uniform(0, 0.08)) * sine(float(rng.uniform(15, 60)), count)
            pitch = np.clip(curve * trill, 900, 7600).astype(np.float32)
            tone = sine(pitch, count) + np.float32(rng.uniform(0, 0.15)) * sine(np.minimum(2 * pitch, 7700), count)
            syllables.append(tone * swell(count, 0.012, 0.02))
        loudness, gap = float(rng.uniform(0.2, 1)), rng.uniform(0.01, 0.15)
        for start in scatter(rng, rng.uniform(0.3, 1), length / SAMPLE_RATE):
            for _ in range(int(rng.integers(1, 6))):
                for syllable in syllables:
                    place(track, syllable, start, loudness)
                    start += len(syllable) / SAMPLE_RATE + gap
    return track


def make_crickets(rng: np.random.Generator, length: int) -> Signal:
    """Crickets and cicadas: high tones in pulses, several insects at once."""
    track = band_noise(rng, length, 100, 2000, 1) * np.float32(0.02)
    time = clock(length)
    for _ in range(int(rng.integers(2, 7))):
        pitch, pulse, chirp = rng.uniform(2500, 7000), rng.uniform(15, 90), rng.uniform(0.5, 4)
        pulses = np.clip(sine(float(pulse), length), 0, 1)
        chirps = (time * np.float32(chirp) + np.float32(rng.random())) % 1 < rng.uniform(0.2, 1)
        smooth = convolve(chirps.astype(np.float32), np.full(seconds(0.005), 1 / seconds(0.005), np.float32))
        tone = sine(float(pitch), length, float(rng.uniform(0, 6))) + np.float32(0.2) * band_noise(
            rng, length, pitch * 0.95, pitch * 1.05
        )
        track += np.float32(rng.uniform(0.1, 1)) * tone * pulses * smooth
    return track


def make_footsteps(rng: np.random.Generator, length: int) -> Signal:
    """Steps on wood, gravel, snow or stone at a walker's pace."""
    track = np.zeros(length, np.float32)
    pace, crunch = rng.uniform(0.3, 0.8), rng.uniform(0, 1)
    thump, low, high = rng.uniform(60, 180), rng.uniform(300, 2000), rng.uniform(3000, 7500)
    time = float(rng.uniform(0, pace))
    while time < length / SAMPLE_RATE:
        count = seconds(0.35)
        step = ring((thump, thump * 2.3), (0.12, 0.06), (1.0, 0.5), count)
        grit = band_noise(rng, count, low, high, 1) * decay(count, rng.uniform(0.1, 0.35), 0.01)
        crackle = grit * (rng.random(count, np.float32) < 0.05) * np.float32(3)
        loudness = float(rng.uniform(0.6, 1))
        place(track, step * np.float32(1 - crunch) + (grit + crackle) * np.float32(0.1 + 0.4 * crunch), time, loudness)
        place(track, grit, time + 0.09, loudness * 0.15)
        time += pace * float(rng.uniform(0.93, 1.07))
    return track


def make_knocks(rng: np.random.Generator, length: int) -> Signal:
    """Knocking and hammering on a door, a crate or a pipe."""
    track = np.zeros(length, np.float32)
    base = float(np.exp(rng.uniform(np.log(90), np.log(1200))))
    ratios = np.sort(rng.uniform(1, 9, 7))
    lasting = rng.uniform(0.05, 0.5)
    click = band_noise(rng, seconds(0.03), 500, 7000, 1) * decay(seconds(0.03), 0.02, 0.0005)
    body = ring(base * ratios, lasting / ratios**0.5, rng.uniform(0.2, 1, 7), seconds(lasting * 1.3))
    place(body, click, 0.0, float(rng.uniform(0.1, 0.6)))
    time = float(rng.uniform(0, 0.6))
    while time < length / SAMPLE_RATE:
        gap = rng.uniform(0.1, 0.45)
        for _ in range(int(rng.integers(2, 7))):
            place(track, body, time, float(rng.uniform(0.5, 1)))
            time += gap * float(rng.uniform(0.9, 1.1))
        time += float(rng.uniform(0.3, 1.8))
    return track


def make_fire(rng: np.random.Generator, length: int) -> Signal:
    """A fire: roar, hiss, and crackles of every size."""
    roar = band_noise(rng, length, 40, 400, 1) * wander(rng, length, 4, 0.4, 1)
    hiss = band_noise(rng, length, 2000, 7500, 1) * wander(rng, length, 3, 0.1, 1) ** 2
    count = seconds(0.03)
    crackles = np.zeros(length, np.float32)
    for _ in range(4):
        grain = band_noise(rng, count, rng.uniform(400, 2000), 7500, 1) * decay(
            count, rng.uniform(0.004, 0.025), 0.0003
        )
        crackles += sprinkle(rng, length, float(rng.uniform(2, 15)), grain, 1.0)
    mixed = roar * np.float32(rng.uniform(0.2, 0.8)) + hiss * np.float32(rng.uniform(0.02, 0.15))
    return mixed + crackles * np.float32(rng.uniform(0.5, 1.5))


def make_siren(rng: np.random.Generator, length: int) -> Signal:
    """Alarms: wailing, two-tone, beeping or yelping."""
    time, kind = clock(length), int(rng.integers(4))
    low = float(rng.uniform(350, 1200))
    high, rate = low * float(rng.uniform(1.2, 2.2)), float(rng.uniform(0.15, 0.6))
    loud = np.ones(length, np.float32)
    if kind == 0:
        pitch = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * rate * time))
    elif kind == 1:
        pitch = np.where((time * (rate * 2)) % 1 < 0.5, low, high)
    elif kind == 2:
        pitch = np.full(length, high * 1.5)
        beeps = ((time * (rate * 6)) % 1 < rng.uniform(0.3, 0.7)).astype(np.float32)
        loud = convolve(beeps, np.full(seconds(0.004), 1 / seconds(0.004), np.float32))
    else:
        pitch = low + (high - low) * ((time * (rate * 8)) % 1)
    pitch = pitch.astype(np.float32)
    dark = rng.uniform(0.5, 2.5)
    tone = sum(
        np.float32(h**-dark) * sine(pitch * h, length) * (pitch * h < 7600) for h in range(1, 9 if dark < 2 else 4)
    )
    return np.asarray(tone, np.float32) * loud + band_noise(rng, length, 50, 2000, 1) * np.float32(0.01)


def make_hum(rng: np.random.Generator, length: int) -> Signal:
    """Mains hum, a refrigerator, a transformer, a fan: harmonics of a steady tone, and air."""
    base = float(pick(rng, (50.0, 60.0, rng.uniform(25, 180))))
    track = np.zeros(length, np.float32)
    for harmonic in range(1, 25):
        if base * harmonic < 4000 and rng.random() < 0.7:
            track += np.float32(rng.exponential() / harmonic**0.9) * sine(base * harmonic, length, rng.uniform(0, 6))
    air = band_noise(rng, length, 60, float(rng.uniform(500, 6000)), 1)
    beat = 1 + np.float32(rng.uniform(0, 0.5)) * sine(float(rng.uniform(0.2, 12)), length)
    return unit(track) * beat + air * np.float32(rng.uniform(0.05, 1.0))


def make_applause(rng: np.random.Generator, length: int) -> Signal:
    """Many hands, from a few people to a hall, growing and dying down."""
    track = np.zeros(length, np.float32)
    for _ in range(6):
        count, centre = seconds(0.04), rng.uniform(700, 2500)
        grain = band_noise(rng, count, centre * 0.6, centre * 2.2, 1) * decay(count, rng.uniform(0.01, 0.04), 0.0005)
        track += sprinkle(rng, length, float(np.exp(rng.uniform(np.log(3), np.log(150)))), grain, 0.5)
    return track * wander(rng, length, rng.uniform(0.1, 0.5), 0.2, 1)


def make_bubbles(rng: np.random.Generator, length: int) -> Signal:
    """Bubbling or dripping water: each bubble a sine that rises as it fades (Minnaert's tone)."""
    track = np.zeros(length, np.float32)
    rate, pitch = rng.uniform(3, 45), rng.uniform(250, 1400)
    for time in scatter(rng, rate, length / SAMPLE_RATE):
        count, start = seconds(rng.uniform(0.02, 0.12)), pitch * float(np.exp(rng.normal(0, 0.5)))
        rise = np.linspace(1, rng.uniform(1.05, 1.8), count, dtype=np.float32)
        place(track, sine(start * rise, count) * decay(count, count / SAMPLE_RATE), time, float(rng.exponential()))
    return track + band_noise(rng, length, 300, 4000, 1) * np.float32(rng.uniform(0, 0.05))


def make_stream(rng: np.random.Generator, length: int) -> Signal:
    """A brook, a tap, a fountain: thousands of bubbles over a steady wash."""
    track = band_noise(rng, length, rng.uniform(150, 600), rng.uniform(2500, 7000), 1) * np.float32(
        rng.uniform(0.1, 0.8)
    )
    for _ in range(10):
        count, pitch = seconds(0.06), float(np.exp(rng.uniform(np.log(300), np.log(4000))))
        bubble = sine(pitch * np.linspace(1, 1.3, count, dtype=np.float32), count) * decay(count, 0.05)
        track += sprinkle(rng, length, float(rng.uniform(10, 80)), bubble, 0.8) * wander(rng, length, 1.5, 0.1, 0.6)
    return track


def make_clock(rng: np.random.Generator, length: int) -> Signal:
    """Ticking, of a watch or of a grandfather's clock; a metronome."""
    track = np.zeros(length, np.float32)
    pitch, lasting, every = (
        float(np.exp(rng.uniform(np.log(700), np.log(5000)))),
        rng.uniform(0.01, 0.08),
        rng.uniform(0.15, 1),
    )
    for number in range(int(length / SAMPLE_RATE / every) + 1):
        shift = 1.0 if number % 2 else 1.12
        modes = (pitch * shift, pitch * 1.7 * shift, pitch * 0.4)
        tick = ring(modes, (lasting, lasting / 2, lasting), (1, 0.6, 0.4), seconds(0.12))
        place(track, tick, number * every, float(rng.uniform(0.9, 1)))
    return track + band_noise(rng, length, 50, 1000, 1) * np.float32(0.002)


def make_telephone(rng: np.random.Generator, length: int) -> Signal:
    """Dialling (two tones a key), ringing and busy tones, modem-like warbles."""
    track, time = np.zeros(length, np.float32), 0.0
    rows, columns = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0, 1633.0)
    while time < length / SAMPLE_RATE:
        kind = int(rng.integers(3))
        if kind == 0:
            for _ in range(int(rng.integers(4, 12))):
                count = seconds(rng.uniform(0.07, 0.2))
                key = sine(pick(rng, rows), count) + sine(pick(rng, columns), count)
                place(track, key * swell(count, 0.004, 0.004), time)
                time += count / SAMPLE_RATE + float(rng.uniform(0.05, 0.2))
        elif kind == 1:
            count, pitch = seconds(rng.uniform(0.4, 1.2)), float(rng.uniform(350, 480))
            for _ in range(int(rng.integers(2, 5))):
                place(track, (sine(pitch, count) + sine(pitch * 1.11, count)) * swell(count, 0.01, 0.01), time)
                time += 1.8 * count / SAMPLE_RATE
        else:
            count = seconds(rng.uniform(0.5, 1.5))
            bits = np.repeat(rng.choice([1200.0, 2200.0], count // 100 + 1), 100)[:count].astype(np.float32)
            place(track, sine(bits, count) * swell(count, 0.01, 0.01), time)
            time += count / SAMPLE_RATE
        time += float(rng.uniform(0.2, 1))
    return track


def make_thunder(rng: np.random.Generator, length: int) -> Signal:
    """Cracks and a long rumble, over rain at times."""
    track = np.zeros(length, np.float32)
    for time in scatter(rng, 0.25, length / SAMPLE_RATE - 2):
        count = seconds(rng.uniform(3, 6))
        rumble = band_noise(rng, count, 20, rng.uniform(90, 400), 1) * wander(rng, count, 5, 0.1, 1) ** 2
        place(track, rumble * decay(count, count / SAMPLE_RATE * 1.3, 0.1), time)
        crack = band_noise(rng, seconds(0.6), 100, 6000, 0.7) * decay(seconds(0.6), 0.5, 0.003)
        place(track, crack, time, float(rng.uniform(0, 1.5)))
    return track + make_rain(rng, length) * np.float32(rng.uniform(0.02, 0.2))


def make_barks(rng: np.random.Generator, length: int) -> Signal:
    """Short voiced calls behind a throat: dogs, sea lions, geese."""
    track = np.zeros(length, np.float32)
    base, rough = float(np.exp(rng.uniform(np.log(150), np.log(700)))), rng.uniform(0.1, 0.6)
    throat = rng.uniform(500, 2500, 3)
    for start in scatter(rng, rng.uniform(0.4, 1.5), length / SAMPLE_RATE - 0.3):
        for _ in range(int(rng.integers(1, 4))):
            count = seconds(rng.uniform(0.1, 0.35))
            line = np.linspace(0, 1, count, dtype=np.float32)
            pitch = base * (0.7 + 0.5 * np.sin(np.pi * line)).astype(np.float32) * np.float32(rng.uniform(0.9, 1.1))
            saw = ((np.cumsum(pitch, dtype=np.float64) / SAMPLE_RATE) % 1.0).astype(np.float32) - np.float32(0.5)
            voice = saw + np.float32(rough) * white(rng, count) * (0.3 + np.abs(saw))
            call = filter_curve(
                voice, lambda f: 0.05 + sum(np.exp(-(((f - peak) / (0.15 * peak + 60)) ** 2)) for peak in throat)
            )
            place(track, unit(call) * swell(count, 0.02, 0.06), start, float(rng.uniform(0.5, 1)))
            start += count / SAMPLE_RATE + float(rng.uniform(0.1, 0.3))
    return track


def make_vacuum(rng: np.random.Generator, length: int) -> Signal:
    """Vacuum cleaner, hair dryer, drill: a whine that settles, and a rush of air."""
    whine, run_up = float(rng.uniform(250, 1500)), float(rng.uniform(0.2, 2))
    load = wander(rng, length, rng.uniform(0.3, 3), 0.9, 1.05)
    pitch = whine * load * (1 - 0.7 * np.exp(-clock(length) / np.float32(run_up)))
    tone = sum(np.float32(rng.exponential() / h) * sine(pitch * h, length) * (pitch * h < 7600) for h in range(1, 8))
    air = band_noise(rng, length, rng.uniform(100, 800), rng.uniform(2500, 7500), 1)
    return np.asarray(tone, np.float32) * np.float32(rng.uniform(0.1, 0.8)) + air * load**6


def make_creak(rng: np.random.Generator, length: int) -> Signal:
    """Doors, ropes and ice: stick and slip, a pulse train that wanders, through the modes of wood."""
    moving = np.clip(wander(rng, length, 1.2, -0.6, 1.2), 0, 1)
    rate = wander(rng, length, 2.5, 15, rng.uniform(80, 300))
    cycles = np.cumsum(rate, dtype=np.float64) / SAMPLE_RATE
    pulses = np.zeros(length, np.float32)
    slips = np.flatnonzero(np.diff(np.floor(cycles)))
    pulses[slips] = rng.uniform(0.4, 1, len(slips))
    modes = np.exp(rng.uniform(np.log(250), np.log(3500), 8))
    wood = ring(modes, rng.uniform(0.02, 0.1, 8), rng.uniform(0.3, 1, 8), seconds(0.12))
    return convolve(pulses * moving, wood) + band_noise(rng, length, 50, 1500, 1) * np.float32(0.01)


def make_sweeps(rng: np.random.Generator, length: int) -> Signal:
    """Sonar, lasers, whistles, radio tuning: glides of sines and of noise."""
    track, time = np.zeros(length, np.float32), 0.0
    while time < length / SAMPLE_RATE:
        count = seconds(rng.uniform(0.1, 2.0))
        start, end = np.exp(rng.uniform(np.log(120), np.log(7000), 2))
        pitch = (start * (end / start) ** np.linspace(0, 1, count)).astype(np.float32)
        glide = sine(pitch, count)
        if rng.random() < 0.3:
            glide = np.tanh(3 * glide + np.float32(0.3)) * (pitch < 2500) + glide * (pitch >= 2500)
        for echo in range(int(pick(rng, (1, 1, 3)))):
            place(track, glide * swell(count, 0.01, 0.05), time + echo * 0.25, 0.4**echo)
        time += count / SAMPLE_RATE + float(rng.uniform(0, 0.6))
    return track + band_noise(rng, length, 100, 5000, 1) * np.float32(rng.uniform(0, 0.1))


def make_clicks(rng: np.random.Generator, length: int) -> Signal:
    """Geiger counters, vinyl, ratchets, cards: clicks at random or in runs."""
    count = seconds(0.02)
    click = band_noise(rng, count, rng.uniform(200, 2000), 7500, 1) * decay(count, rng.uniform(0.002, 0.02), 0.0002)
    track = sprinkle(rng, length, float(np.exp(rng.uniform(np.log(6), np.log(150)))), click, 0.6)
    for start in scatter(rng, rng.uniform(0.1, 1), length / SAMPLE_RATE - 0.5):
        step = rng.uniform(0.01, 0.06)
        for number in range(int(rng.integers(5, 30))):
            place(track, click, start + number * step, float(rng.uniform(0.7, 1.3)))
    return track


def make_helicopter(rng: np.random.Generator, length: int) -> Signal:
    """Blades that chop the air, a turbine over them, coming near and going away."""
    rate, sharp = rng.uniform(9, 24), rng.uniform(2, 8)
    phase = (clock(length) * np.float32(rate)) % 1
    chop = np.exp(-phase * np.float32(sharp)) * band_noise(rng, length, 40, rng.uniform(300, 1500), 1)
    thud = np.exp(-phase * np.float32(sharp * 3)) * sine(float(rng.uniform(50, 110)), length)
    turbine = sine(float(rng.uniform(900, 3000)) * wander(rng, length, 0.5, 0.98, 1.02), length)
    air = band_noise(rng, length, 300, 5000, 1)
    mixed = chop + thud + turbine * np.float32(rng.uniform(0.02, 0.2)) + air * np.float32(0.15)
    return mixed * wander(rng, length, 0.2, 0.3, 1)


def make_frogs(rng: np.random.Generator, length: int) -> Signal:
    """A pond at night: croaks, each a burst of pulses through a vocal sac."""
    track = band_noise(rng, length, 500, 3000, 1) * np.float32(0.01)
    for _ in range(int(rng.integers(2, 7))):
        pitch, pulse, lasts = rng.uniform(300, 2500), rng.uniform(25, 120), rng.uniform(0.1, 0.5)
        count = seconds(lasts)
        rasp = np.clip(sine(float(pulse), count), 0, 1) ** 3
        slide = np.linspace(0.9, 1.1, count, dtype=np.float32)
        croak = (sine(pitch * slide, count) + np.float32(0.4) * sine(pitch * 2.1 * slide, count)) * rasp
        period, loudness = lasts * rng.uniform(1.3, 5), float(rng.uniform(0.2, 1))
        time = float(rng.uniform(0, period))
        while time < length / SAMPLE_RATE:
            place(track, croak * swell(count, 0.02, 0.05), time, loudness * float(rng.uniform(0.7, 1)))
            time += period * float(rng.uniform(0.9, 1.15))
    return track


def make_glass(rng: np.random.Generator, length: int) -> Signal:
    """Glasses and dishes that clink, and a breaking one now and then."""
    track = np.zeros(length, np.float32)
    for start in scatter(rng, rng.uniform(0.6, 2.5), length / SAMPLE_RATE - 0.5):
        pieces = int(rng.integers(10, 40)) if rng.random() < 0.15 else int(rng.integers(1, 4))
        for _ in range(pieces):
            modes = rng.uniform(1200, 3500) * np.array([1, 2.3, 3.1, 4.2])
            clink = ring(modes, rng.uniform(0.05, 0.7) / np.arange(1, 5), (1, 0.7, 0.5, 0.3), seconds(0.5))
            place(track, clink, start, float(rng.uniform(0.3, 1)))
            start += float(rng.exponential(0.05))
    return track + band_noise(rng, length, 100, 3000, 1) * np.float32(0.003)


def make_horns(rng: np.random.Generator, length: int) -> Signal:
    """Cars' and ships' horns in traffic: reeds together, long and short."""
    track = band_noise(rng, length, 40, 900, 1) * np.float32(rng.uniform(0.03, 0.2))
    for start in scatter(rng, rng.uniform(0.4, 1.0), length / SAMPLE_RATE - 0.5):
        count, base = seconds(np.exp(rng.uniform(np.log(0.15), np.log(2)))), float(rng.uniform(90, 450))
        blast = np.zeros(count, np.float32)
        for interval in (1.0, float(pick(rng, (1.19, 1.25, 1.5)))):
            for harmonic in range(1, 18):
                if base * interval * harmonic < 7600:
                    weight = np.float32(np.exp(-(((base * interval * harmonic - 1100) / 1300) ** 2)) + 0.05)
                    blast += weight * sine(base * interval * harmonic, count, float(rng.uniform(0, 6)))
        place(track, unit(blast) * swell(count, 0.03, 0.06), start, float(rng.uniform(0.3, 1)))
    return track


def make_sawing(rng: np.random.Generator, length: int) -> Signal:
    """Sawing, sanding, scratching and sweeping: strokes of rough noise to and fro."""
    pace = rng.uniform(0.8, 4)
    stroke = np.sin(np.pi * ((clock(length) * np.float32(pace)) % 1)) ** np.float32(rng.uniform(0.7, 3))
    to_and_fro = np.where((clock(length) * np.float32(pace / 2)) % 1 < 0.5, 1.0, rng.uniform(0.2, 0.8)).astype(
        np.float32
    )
    teeth = np.clip(sine((rng.uniform(60, 350) * (0.3 + stroke)).astype(np.float32), length) + 0.3, 0, 2)
    rasp = band_noise(rng, length, rng.uniform(400, 1500), rng.uniform(4000, 7500), 1)
    body = band_noise(rng, length, 150, 600, 2)
    return (rasp * (np.float32(0.3) + teeth) + body * np.float32(0.4)) * stroke * to_and_fro


def make_typing(rng: np.random.Generator, length: int) -> Signal:
    """A keyboard or a typewriter: strokes in bursts, each key a little different, and a bell or a space bar."""
    track, time = band_noise(rng, length, 50, 2000, 1) * np.float32(0.004), 0.0
    base, lasting = rng.uniform(900, 2800), rng.uniform(0.015, 0.06)
    while time < length / SAMPLE_RATE:
        for _ in range(int(rng.integers(2, 12))):
            shift = float(rng.uniform(0.8, 1.25))
            key = ring(base * shift * np.array([0.3, 1, 1.7, 2.6]), [lasting] * 4, (0.8, 1, 0.6, 0.4), seconds(0.08))
            place(key, white(rng, seconds(0.006)) * decay(seconds(0.006), 0.006, 0.0003), 0.0, 0.4)
            place(track, key, time, float(rng.uniform(0.4, 1)))
            place(track, key, time + 0.07, 0.15)
            time += float(rng.uniform(0.08, 0.25))
        time += float(rng.uniform(0.2, 0.9))
    return track


TRAINED_PROGRAMS: dict[str, Program] = {
    "coloured noise": make_coloured_noise,
    "wind": make_wind,
    "rain": make_rain,
    "waves": make_waves,
    "engine": make_engine,
    "bells": make_bells,
    "birds": make_birds,
    "crickets": make_crickets,
    "footsteps": make_footsteps,
    "knocks": make_knocks,
    "fire": make_fire,
    "siren": make_siren,
    "hum": make_hum,
    "applause": make_applause,
    "bubbles": make_bubbles,
    "stream": make_stream,
    "clock": make_clock,
    "telephone": make_telephone,
    "thunder": make_thunder,
    "barks": make_barks,
    "vacuum": make_vacuum,
    "creak": make_creak,
    "sweeps": make_sweeps,
    "clicks": make_clicks,
    PROGRAM: make_recordings,
}
HELD_OUT_PROGRAMS: dict[str, Program] = {
    "helicopter": make_helicopter,
    "frogs": make_frogs,
    "glass": make_glass,
    "horns": make_horns,
    "sawing": make_sawing,
    "typing": make_typing,
}


def programs_of(split: Split) -> dict[str, Program]:
    """The sound programs of a split, none of which is in the other."""
    return TRAINED_PROGRAMS if split == "train" else HELD_OUT_PROGRAMS


def make_sound(
    rng: np.random.Generator, split: Split, length: int, programs: Mapping[str, Program] | None = None
) -> Signal:
    """float32 [length] at 16 kHz, RMS 1: one program of `split`, or in one clip of five a second one behind it.

    `programs` are used instead of those of `split`; `None` uses those of `split`.
    """
    if programs is None:
        programs = programs_of(split)
    names = list(programs)
    track = unit(programs[pick(rng, names)](rng, length))
    if rng.random() < 0.2:
        behind = unit(programs[pick(rng, names)](rng, length))
        track += behind * np.float32(10 ** rng.uniform(-0.9, -0.1))
    return track
