"""Templates of the texts that a gate can be fitted on: no sentence of theirs is in the other two families."""

from random import Random

from math_templates import Problem, Template

NAMES = ("Wanda", "Victor", "Sofia", "Rashid", "Paula", "Mei", "Kofi", "Johan", "Helga", "Dmitri")


def library(rng: Random) -> Problem:
    rooms, shelves, volumes = rng.randint(2, 6), rng.randint(5, 15), rng.randint(20, 45)
    return Problem(
        f"A library keeps {volumes} volumes on each shelf, {shelves} shelves in each room, and owns {rooms} rooms. "
        "Give the size of the collection.",
        (
            f"One room has {shelves} * {volumes} = {shelves * volumes} volumes.",
            f"All rooms: {rooms} * {shelves * volumes} = {rooms * shelves * volumes}.",
        ),
        f"{rooms * shelves * volumes} volumes",
    )


def saving(rng: Random) -> Problem:
    name, have, weekly, weeks = rng.choice(NAMES), rng.randint(20, 90), rng.randint(5, 15), rng.randint(4, 20)
    goal = have + weekly * weeks
    return Problem(
        f"{name} wants a camera for {goal} pounds, owns {have} pounds already and puts aside {weekly} pounds weekly. "
        "In how many weeks is the camera affordable?",
        (f"Missing amount: {goal} - {have} = {goal - have}.", f"Weeks: {goal - have} / {weekly} = {weeks}."),
        f"{weeks} weeks",
    )


def rise(rng: Random) -> Problem:
    rent, share = 40 * rng.randint(10, 30), 5 * rng.randint(1, 6)
    more = rent * share // 100
    return Problem(
        f"The monthly rent of a flat was {rent} pounds and goes up by {share} per cent. State the rent from now on.",
        (
            f"The rise amounts to {share} / 100 * {rent} = {more} pounds.",
            f"From now on: {rent} + {more} = {rent + more} pounds.",
        ),
        f"{rent + more} pounds",
    )


def brackets(rng: Random) -> Problem:
    a, b, y = rng.randint(2, 9), rng.randint(1, 12), rng.randint(2, 15)
    return Problem(
        f"Determine y such that {a}(y + {b}) = {a * (y + b)}.",
        (
            f"Dividing by the factor in front leaves y + {b} = {a * (y + b)} / {a} = {y + b}.",
            f"Taking {b} off: y = {y + b} - {b} = {y}.",
        ),
        f"y = {y}",
    )


def box(rng: Random) -> Problem:
    a, b, c = (rng.randint(2, 15) for _ in range(3))
    return Problem(
        f"Find the volume and the surface of a box with edges {a}, {b} and {c}.",
        (
            f"Volume: {a} * {b} * {c} = {a * b * c}.",
            f"Three different faces: {a * b}, {a * c} and {b * c}, in sum {a * b + a * c + b * c}.",
            f"Every face occurs twice, so the surface is 2 * {a * b + a * c + b * c} = {2 * (a * b + a * c + b * c)}.",
        ),
        f"volume {a * b * c}, surface {2 * (a * b + a * c + b * c)}",
    )


def workers(rng: Random) -> Problem:
    crew, days, fewer = rng.choice(
        ((6, 10, 4), (8, 9, 6), (12, 5, 10), (4, 15, 5), (9, 8, 12), (10, 14, 7), (5, 18, 6))
    )
    return Problem(
        f"A wall is finished by {crew} workers within {days} days. "
        f"How long would {fewer} workers need for the same wall?",
        (
            f"The whole job is {crew} * {days} = {crew * days} days of one worker.",
            f"Spread over {fewer} workers it lasts {crew * days} / {fewer} = {crew * days // fewer} days.",
        ),
        f"{crew * days // fewer} days",
    )


def primes(rng: Random) -> Problem:
    factors = sorted(rng.choice((2, 2, 3, 3, 5, 7)) for _ in range(rng.randint(3, 5)))
    steps, rest = [], 1
    for factor in factors:
        rest *= factor
    number = rest
    for factor in factors[:-1]:
        steps.append(f"{rest} / {factor} = {rest // factor}.")
        rest //= factor
    return Problem(
        f"Write {number} as a product of primes.",
        (*steps, f"What is left, {rest}, is prime itself."),
        " * ".join(map(str, factors)),
    )


def binary(rng: Random) -> Problem:
    number = rng.randint(9, 120)
    steps, rest = [], number
    while rest:
        steps.append(f"{rest} = 2 * {rest // 2} + {rest % 2}.")
        rest //= 2
    return Problem(
        f"Write the decimal number {number} in binary.",
        (*steps, "Read the remainders from the last to the first."),
        f"{number:b}",
    )


def clock(rng: Random) -> Problem:
    hour, minute, length = rng.randint(8, 15), 5 * rng.randint(0, 11), 5 * rng.randint(14, 50)
    end = hour * 60 + minute + length
    return Problem(
        f"A film begins at {hour}:{minute:02d} and runs for {length} minutes. At what time is it over?",
        (
            f"{length} minutes are {length // 60} h and {length % 60} min.",
            f"In minutes since midnight: {hour * 60 + minute} + {length} = {end}.",
            f"{end} = {end // 60} * 60 + {end % 60}.",
        ),
        f"{end // 60}:{end % 60:02d}",
    )


def scale(rng: Random) -> Problem:
    factor, centimetres = rng.choice((20, 25, 50, 200)), rng.randint(3, 28)
    return Problem(
        f"On a map one centimetre stands for {factor} kilometres. Two cities are {centimetres} centimetres "
        "apart on paper. What separates them in reality?",
        (f"Multiply by the scale: {centimetres} * {factor} = {centimetres * factor}.",),
        f"{centimetres * factor} kilometres",
    )


def squares_difference(rng: Random) -> Problem:
    a, b = rng.randint(20, 60), rng.randint(2, 19)
    return Problem(
        f"Use the difference of two squares to work out {a}^2 - {b}^2.",
        (
            f"Factors: {a} - {b} = {a - b} and {a} + {b} = {a + b}.",
            f"Product: {a - b} * {a + b} = {(a - b) * (a + b)}.",
        ),
        f"{a * a - b * b}",
    )


def line(rng: Random) -> Problem:
    x, slope, y = rng.randint(1, 6), rng.randint(2, 9), rng.randint(1, 20)
    run = rng.randint(2, 7)
    return Problem(
        f"A straight line passes through ({x}, {y}) and ({x + run}, {y + slope * run}). Find its slope and where "
        "it cuts the vertical axis.",
        (
            f"Differences: {x + run} - {x} = {run} and {y + slope * run} - {y} = {slope * run}.",
            f"Slope: {slope * run} / {run} = {slope}.",
            f"At zero: {y} - {slope} * {x} = {y - slope * x}.",
        ),
        f"slope {slope}, axis at {y - slope * x}",
    )


def chickens(rng: Random) -> Problem:
    name, hens, goats = rng.choice(NAMES), rng.randint(4, 25), rng.randint(3, 20)
    heads, legs = hens + goats, 2 * hens + 4 * goats
    return Problem(
        f"On the farm of {name} live hens and goats with {heads} heads and {legs} legs. How many goats are there?",
        (
            f"With hens only there would be 2 * {heads} = {2 * heads} legs.",
            f"The extra legs: {legs} - {2 * heads} = {legs - 2 * heads}.",
            f"A goat has 2 extra legs: {legs - 2 * heads} / 2 = {goats}.",
        ),
        f"{goats} goats",
    )


def passwords(rng: Random) -> Problem:
    letters, digits = rng.randint(3, 9), rng.randint(2, 3)
    return Problem(
        f"A code has one of {letters} letters followed by {digits} digits. Count the possible codes.",
        (
            f"Digits: 10^{digits} = {10**digits}.",
            f"With the letter: {letters} * {10**digits} = {letters * 10**digits}.",
        ),
        f"{letters * 10**digits}",
    )


TEMPLATES: tuple[Template, ...] = (
    library, saving, rise, brackets, box, workers, primes, binary, clock, scale, squares_difference, line, chickens,
    passwords,
)  # fmt: skip
