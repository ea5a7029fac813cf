"""Templates of the evaluation texts: no sentence of theirs is in the other two families, and no name either."""

import math
from random import Random

from math_templates import Problem, Template

NAMES = ("Priya", "Marek", "Yusuf", "Ingrid", "Tomas", "Nadia", "Oskar", "Lucia")


def bakery(rng: Random) -> Problem:
    trays, rolls, sold = rng.randint(4, 12), rng.randint(8, 24), rng.randint(10, 30)
    baked = trays * rolls
    return Problem(
        f"A bakery fills {trays} trays with {rolls} rolls on every tray. By noon {sold} rolls have been sold. "
        "How many rolls remain on the shelves?",
        (
            f"Baked that morning: {trays} * {rolls} = {baked} rolls.",
            f"Still there after the sales: {baked} - {sold} = {baked - sold}.",
        ),
        f"{baked - sold}",
    )


def wages(rng: Random) -> Problem:
    name, hours, rate, bonus = rng.choice(NAMES), rng.randint(12, 40), rng.randint(11, 25), 5 * rng.randint(2, 12)
    return Problem(
        f"{name} works {hours} hours this week for {rate} euros an hour and also receives a bonus of {bonus} euros. "
        "What does the payslip show?",
        (
            f"Hourly pay comes to {hours} * {rate} = {hours * rate} euros.",
            f"With the bonus it is {hours * rate} + {bonus} = {hours * rate + bonus} euros.",
        ),
        f"{hours * rate + bonus} euros",
    )


def tank(rng: Random) -> Problem:
    full, inflow, outflow = 0, rng.randint(9, 25), rng.randint(2, 8)
    minutes = rng.randint(6, 20)
    full = minutes * (inflow - outflow)
    return Problem(
        f"Water enters an empty tank at {inflow} litres a minute while a leak loses {outflow} litres a minute. "
        f"When will the tank contain {full} litres?",
        (
            f"Each minute the level grows by {inflow} - {outflow} = {inflow - outflow} litres.",
            f"Therefore {full} / {inflow - outflow} = {minutes} minutes are needed.",
        ),
        f"{minutes} minutes",
    )


def unknown(rng: Random) -> Problem:
    a, n, b = rng.randint(2, 9), rng.randint(3, 30), rng.randint(2, 25)
    return Problem(
        f"I think of a number, multiply it by {a} and take away {b}. The result is {a * n - b}. Which number was it?",
        (
            f"Call the number n; the story says {a}n - {b} = {a * n - b}.",
            f"Adding {b} gives {a}n = {a * n - b} + {b} = {a * n}.",
            f"Hence n = {a * n} / {a} = {n}.",
        ),
        f"{n}",
    )


def tax(rng: Random) -> Problem:
    name, net, rate = rng.choice(NAMES), 50 * rng.randint(2, 30), 2 * rng.randint(2, 12)
    tax_due = net * rate // 100
    return Problem(
        f"Before tax a bicycle is priced at {net} euros, and the tax rate is {rate} percent. "
        f"How much must {name} pay at the counter?",
        (
            f"Tax: {net} * {rate} / 100 = {tax_due} euros.",
            f"Price with tax included: {net} + {tax_due} = {net + tax_due} euros.",
        ),
        f"{net + tax_due} euros",
    )


def garden(rng: Random) -> Problem:
    w, d, path = rng.randint(6, 20), rng.randint(6, 20), rng.randint(1, 3)
    outer = (w + 2 * path) * (d + 2 * path)
    return Problem(
        f"A lawn measures {w} by {d} metres and a path {path} metres broad goes all around it. "
        "How many square metres does the path cover?",
        (
            f"Lawn and path form a block of {w + 2 * path} by {d + 2 * path} metres: "
            f"{w + 2 * path} * {d + 2 * path} = {outer}.",
            f"The lawn alone takes {w} * {d} = {w * d}.",
            f"So the path covers {outer} - {w * d} = {outer - w * d}.",
        ),
        f"{outer - w * d}",
    )


def meeting(rng: Random) -> Problem:
    name, other = rng.sample(NAMES, 2)
    a, b, hours = rng.randint(10, 20), rng.randint(12, 24), rng.randint(2, 6)
    gap = (a + b) * hours
    return Problem(
        f"{name} and {other} cycle towards each other from towns {gap} kilometres apart, one at {a} and one at {b} "
        "kilometres an hour. After how long do they meet?",
        (
            f"Every hour the gap closes by {a} + {b} = {a + b} kilometres.",
            f"It is closed after {gap} / {a + b} = {hours} hours.",
        ),
        f"{hours} hours",
    )


def scores(rng: Random) -> Problem:
    name = rng.choice(NAMES)
    target, tests = rng.randint(70, 85), [rng.randint(60, 90) for _ in range(3)]
    needed = 4 * target - sum(tests)
    return Problem(
        f"In three tests {name} scored {tests[0]}, {tests[1]} and {tests[2]}. "
        f"Which score in the fourth test would make the average {target}?",
        (
            f"Four tests with that average hold 4 * {target} = {4 * target} points.",
            f"So far there are {tests[0]} + {tests[1]} + {tests[2]} = {sum(tests)} points.",
            f"Missing: {4 * target} - {sum(tests)} = {needed}.",
        ),
        f"{needed}",
    )


def recipe(rng: Random) -> Problem:
    people, unit, guests = rng.randint(2, 6), 25 * rng.randint(1, 6), rng.randint(7, 15)
    return Problem(
        f"A recipe for {people} people asks for {people * unit} grams of flour. "
        f"How much flour do {guests} guests require?",
        (
            f"One person needs {people * unit} / {people} = {unit} grams.",
            f"For everyone that makes {guests} * {unit} = {guests * unit} grams.",
        ),
        f"{guests * unit} grams",
    )


def consecutive(rng: Random) -> Problem:
    middle = rng.randint(5, 60)
    return Problem(
        f"Three consecutive whole numbers add up to {3 * middle}. Name them.",
        (
            f"The one in the centre is a third of the total: {3 * middle} / 3 = {middle}.",
            f"Its neighbours are {middle} - 1 = {middle - 1} and {middle} + 1 = {middle + 1}.",
        ),
        f"{middle - 1}, {middle}, {middle + 1}",
    )


def dice(rng: Random) -> Problem:
    total = rng.randint(3, 11)
    ways = 6 - abs(total - 7)
    k = math.gcd(ways, 36)
    return Problem(
        f"Two fair dice are rolled together. How likely is a total of {total}?",
        (
            "Six faces on either die allow 6 * 6 = 36 equally likely pairs.",
            f"Exactly {ways} of these pairs add up to {total}.",
            f"The chance is {ways}/36 = {ways // k}/{36 // k}.",
        ),
        f"{ways // k}/{36 // k}",
    )


def function_value(rng: Random) -> Problem:
    a, b, c, x = rng.randint(2, 5), rng.randint(1, 9), rng.randint(1, 20), rng.randint(2, 9)
    value = a * x * x - b * x + c
    return Problem(
        f"Let f(t) = {a}t^2 - {b}t + {c}. Evaluate f({x}).",
        (
            f"First {a} * {x}^2 = {a} * {x * x} = {a * x * x}.",
            f"Next {b} * {x} = {b * x}.",
            f"Altogether {a * x * x} - {b * x} + {c} = {value}.",
        ),
        f"{value}",
    )


def staircase(rng: Random) -> Problem:
    n = rng.randint(8, 30)
    return Problem(
        f"Cans are stacked in rows of 1, 2, 3 and so on down to a bottom row of {n}. Count all the cans.",
        (
            f"Pairing the top row with the bottom row gives {n} + 1 = {n + 1} cans.",
            f"There are {n} rows, which is {n} / 2 such pairs: {n} * {n + 1} / 2 = {n * (n + 1) // 2}.",
        ),
        f"{n * (n + 1) // 2}",
    )


def mixed_coins(rng: Random) -> Problem:
    name, fives, twos = rng.choice(NAMES), rng.randint(3, 15), rng.randint(3, 15)
    return Problem(
        f"A purse belonging to {name} contains only 2-cent and 5-cent pieces, {fives + twos} pieces worth "
        f"{5 * fives + 2 * twos} cents. How many are 5-cent pieces?",
        (
            f"If all were 2-cent pieces, the worth would be 2 * {fives + twos} = {2 * (fives + twos)} cents.",
            f"The surplus is {5 * fives + 2 * twos} - {2 * (fives + twos)} = {3 * fives}.",
            f"Each 5-cent piece brings 3 more, hence {3 * fives} / 3 = {fives}.",
        ),
        f"{fives}",
    )


TEMPLATES: tuple[Template, ...] = (
    bakery, wages, tank, unknown, tax, garden, meeting, scores, recipe, consecutive, dice, function_value, staircase,
    mixed_coins,
)  # fmt: skip
