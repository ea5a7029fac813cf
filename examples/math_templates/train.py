"""Templates that the mathematics specialist is trained on."""

import math
from itertools import pairwise
from random import Random

from math_templates import Problem, Template

NAMES = ("Anna", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Hugo", "Irene", "Jonas", "Karen", "Leo")
GOODS = ("apples", "pencils", "books", "stamps", "tickets", "bottles", "candles", "coins", "marbles", "notebooks")


def shopping(rng: Random) -> Problem:
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    count, price, paid = rng.randint(3, 12), rng.randint(2, 9), 10 * rng.randint(12, 20)
    cost = count * price
    return Problem(
        f"{name} buys {count} {goods} at {price} dollars each and pays with {paid} dollars. How much change is due?",
        (f"The {goods} cost {count} * {price} = {cost} dollars.", f"The change is {paid} - {cost} = {paid - cost}."),
        f"{paid - cost}",
    )


def two_kinds(rng: Random) -> Problem:
    name, first, second = rng.choice(NAMES), *rng.sample(GOODS, 2)
    a, b, p, q = (rng.randint(2, 15) for _ in range(4))
    return Problem(
        f"In a shop {name} takes {a} {first} for {p} dollars apiece and {b} {second} for {q} dollars apiece. "
        "What is the total price?",
        (
            f"The {first}: {a} * {p} = {a * p}.",
            f"The {second}: {b} * {q} = {b * q}.",
            f"Together: {a * p} + {b * q} = {a * p + b * q}.",
        ),
        f"{a * p + b * q}",
    )


def equation(rng: Random) -> Problem:
    a, x, b = rng.randint(2, 12), rng.randint(-9, 15), rng.randint(1, 40)
    c = a * x + b
    return Problem(
        f"Solve for x: {a}x + {b} = {c}.",
        (f"Subtract {b} from both sides: {a}x = {c} - {b} = {c - b}.", f"Divide by {a}: x = {c - b} / {a} = {x}."),
        f"x = {x}",
    )


def both_sides(rng: Random) -> Problem:
    a, c, x, b = rng.randint(6, 14), rng.randint(2, 5), rng.randint(1, 12), rng.randint(1, 30)
    d = (a - c) * x + b
    return Problem(
        f"Find x if {a}x + {b} = {c}x + {d}.",
        (
            f"Move the terms in x to the left: {a}x - {c}x = {a - c}x.",
            f"Move the numbers to the right: {d} - {b} = {d - b}.",
            f"Then {a - c}x = {d - b}, and x = {d - b} / {a - c} = {x}.",
        ),
        f"x = {x}",
    )


def percent(rng: Random) -> Problem:
    share, whole = 5 * rng.randint(1, 19), 20 * rng.randint(2, 40)
    return Problem(
        f"What is {share}% of {whole}?",
        (
            f"One percent of {whole} is {whole} / 100 = {whole / 100:g}.",
            f"{share} * {whole / 100:g} = {share * whole // 100}.",
        ),
        f"{share * whole // 100}",
    )


def discount(rng: Random) -> Problem:
    price, cut = 20 * rng.randint(2, 30), 5 * rng.randint(1, 12)
    saved = price * cut // 100
    return Problem(
        f"A coat costs {price} dollars and is sold with a discount of {cut}%. What is the new price?",
        (
            f"The discount is {price} * {cut} / 100 = {saved} dollars.",
            f"The new price is {price} - {saved} = {price - saved}.",
        ),
        f"{price - saved}",
    )


def rectangle(rng: Random) -> Problem:
    w, h = rng.randint(3, 25), rng.randint(3, 25)
    return Problem(
        f"A rectangle is {w} cm wide and {h} cm high. Find its area and its perimeter.",
        (f"Area: {w} * {h} = {w * h}.", f"Perimeter: 2 * ({w} + {h}) = 2 * {w + h} = {2 * (w + h)}."),
        f"area {w * h}, perimeter {2 * (w + h)}",
    )


def triangle(rng: Random) -> Problem:
    base, height = 2 * rng.randint(2, 20), rng.randint(3, 30)
    return Problem(
        f"Compute the area of a triangle with base {base} and height {height}.",
        (
            f"The product is {base} * {height} = {base * height}.",
            f"Half of it is {base * height} / 2 = {base * height // 2}.",
        ),
        f"{base * height // 2}",
    )


def pythagoras(rng: Random) -> Problem:
    (a, b, c), k = rng.choice(((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25))), rng.randint(1, 5)
    a, b, c = a * k, b * k, c * k
    return Problem(
        f"The legs of a right triangle are {a} and {b}. How long is the hypotenuse?",
        (
            f"The squares are {a}^2 = {a * a} and {b}^2 = {b * b}.",
            f"Their sum is {a * a} + {b * b} = {c * c}.",
            f"The square root of {c * c} is {c}.",
        ),
        f"{c}",
    )


def travel(rng: Random) -> Problem:
    speed, hours = 5 * rng.randint(8, 24), rng.randint(2, 9)
    return Problem(
        f"A train runs at {speed} km per hour for {hours} hours. How far does it go?",
        ("Distance is speed times time.", f"{speed} * {hours} = {speed * hours}."),
        f"{speed * hours} km",
    )


def travel_time(rng: Random) -> Problem:
    speed, hours = 5 * rng.randint(8, 24), rng.randint(2, 9)
    return Problem(
        f"How many hours does a car need for {speed * hours} km at {speed} km per hour?",
        ("Time is distance divided by speed.", f"{speed * hours} / {speed} = {hours}."),
        f"{hours} hours",
    )


def average(rng: Random) -> Problem:
    count = rng.randint(3, 5)
    values = [rng.randint(1, 40) for _ in range(count - 1)]
    values.append(40 + (-sum(values) - 40) % count)
    total = sum(values)
    return Problem(
        f"Find the mean of {', '.join(map(str, values))}.",
        (
            f"The sum is {' + '.join(map(str, values))} = {total}.",
            f"There are {count} numbers: {total} / {count} = {total // count}.",
        ),
        f"{total // count}",
    )


def median(rng: Random) -> Problem:
    values = rng.sample(range(1, 60), rng.choice((5, 7)))
    ordered = sorted(values)
    middle = ordered[len(values) // 2]
    return Problem(
        f"What is the median of {', '.join(map(str, values))}?",
        (f"In order: {', '.join(map(str, ordered))}.", f"The middle one of {len(values)} values is {middle}."),
        f"{middle}",
    )


def gcd(rng: Random) -> Problem:
    k, a, b = rng.randint(2, 14), rng.randint(2, 12), rng.randint(2, 12)
    a, b = k * max(a, b), k * min(a, b)
    steps, x, y = [], a, b
    while y:
        steps.append(f"{x} = {x // y} * {y} + {x % y}.")
        x, y = y, x % y
    return Problem(
        f"Use Euclid's algorithm to find the greatest common divisor of {a} and {b}.",
        (*steps, f"The last divisor is {x}."),
        f"{x}",
    )


def lcm(rng: Random) -> Problem:
    a, b = rng.randint(4, 24), rng.randint(4, 24)
    divisor, multiple = math.gcd(a, b), math.lcm(a, b)
    return Problem(
        f"Find the least common multiple of {a} and {b}.",
        (f"gcd({a}, {b}) = {divisor}.", f"{a} * {b} = {a * b}.", f"{a * b} / {divisor} = {multiple}."),
        f"{multiple}",
    )


def fractions_sum(rng: Random) -> Problem:
    b, d = rng.sample(range(2, 10), 2)
    a, c = rng.randint(1, b - 1), rng.randint(1, d - 1)
    top, bottom = a * d + c * b, b * d
    k = math.gcd(top, bottom)
    return Problem(
        f"Add the fractions {a}/{b} and {c}/{d}.",
        (
            f"A common denominator is {b} * {d} = {bottom}.",
            f"{a}/{b} = {a * d}/{bottom} and {c}/{d} = {c * b}/{bottom}.",
            f"The sum is {top}/{bottom} = {top // k}/{bottom // k}.",
        ),
        f"{top // k}/{bottom // k}",
    )


def fractions_product(rng: Random) -> Problem:
    a, b, c, d = rng.randint(1, 9), rng.randint(2, 9), rng.randint(1, 9), rng.randint(2, 9)
    k = math.gcd(a * c, b * d)
    return Problem(
        f"Multiply {a}/{b} by {c}/{d}.",
        (
            f"Numerators: {a} * {c} = {a * c}.",
            f"Denominators: {b} * {d} = {b * d}.",
            f"Reduce by {k}: {a * c}/{b * d} = {a * c // k}/{b * d // k}.",
        ),
        f"{a * c // k}/{b * d // k}",
    )


def arithmetic_series(rng: Random) -> Problem:
    first, step, n = rng.randint(1, 12), rng.randint(2, 9), rng.randint(6, 20)
    last = first + (n - 1) * step
    return Problem(
        f"An arithmetic sequence starts with {first} and has difference {step}. What is its term number {n}?",
        (
            f"The term is {first} + ({n} - 1) * {step}.",
            f"{n - 1} * {step} = {last - first}.",
            f"{first} + {last - first} = {last}.",
        ),
        f"{last}",
    )


def geometric(rng: Random) -> Problem:
    first, ratio, n = rng.randint(1, 5), rng.choice((2, 3)), rng.randint(3, 6)
    terms = [first * ratio**i for i in range(n)]
    return Problem(
        f"A geometric sequence begins with {first} and its ratio is {ratio}. Write its first {n} terms.",
        tuple(f"{a} * {ratio} = {b}." for a, b in pairwise(terms)),
        ", ".join(map(str, terms)),
    )


def quadratic(rng: Random) -> Problem:
    p, q = sorted(rng.sample(range(1, 12), 2))
    return Problem(
        f"Solve x^2 - {p + q}x + {p * q} = 0 by factoring.",
        (
            f"Two numbers with sum {p + q} and product {p * q} are {p} and {q}.",
            f"So (x - {p})(x - {q}) = 0.",
        ),
        f"x = {p} or x = {q}",
    )


def expand(rng: Random) -> Problem:
    a, b = rng.randint(1, 12), rng.randint(1, 12)
    return Problem(
        f"Expand (x + {a})(x + {b}).",
        (f"The middle term is {a}x + {b}x = {a + b}x.", f"The constant is {a} * {b} = {a * b}."),
        f"x^2 + {a + b}x + {a * b}",
    )


def system(rng: Random) -> Problem:
    x, y = rng.randint(3, 20), rng.randint(1, 15)
    return Problem(
        f"Solve the system x + y = {x + y}, x - y = {x - y}.",
        (
            f"Add the equations: 2x = {x + y} + {x - y} = {2 * x}, so x = {x}.",
            f"From the first, y = {x + y} - {x} = {y}.",
        ),
        f"x = {x}, y = {y}",
    )


def interest(rng: Random) -> Problem:
    sum_, rate, years = 100 * rng.randint(2, 40), rng.randint(2, 8), rng.randint(2, 6)
    yearly = sum_ * rate // 100
    return Problem(
        f"{sum_} dollars earn simple interest of {rate}% a year. How much interest is that in {years} years?",
        (
            f"In one year: {sum_} * {rate} / 100 = {yearly}.",
            f"In {years} years: {yearly} * {years} = {yearly * years}.",
        ),
        f"{yearly * years} dollars",
    )


def power(rng: Random) -> Problem:
    base, exponent = rng.randint(2, 6), rng.randint(3, 5)
    steps = tuple(f"{base}^{i} = {base ** (i - 1)} * {base} = {base**i}." for i in range(2, exponent + 1))
    return Problem(f"Calculate {base}^{exponent}.", steps, f"{base**exponent}")


def remainder(rng: Random) -> Problem:
    b, q = rng.randint(3, 19), rng.randint(4, 30)
    r = rng.randint(0, b - 1)
    return Problem(
        f"What is the remainder when {b * q + r} is divided by {b}?",
        (f"{b} * {q} = {b * q}.", f"{b * q + r} - {b * q} = {r}."),
        f"{r}",
    )


def multiplication(rng: Random) -> Problem:
    a, b = rng.randint(12, 98), rng.randint(12, 98)
    tens, ones = b // 10 * 10, b % 10
    return Problem(
        f"Multiply {a} by {b}.",
        (f"{a} * {tens} = {a * tens}.", f"{a} * {ones} = {a * ones}.", f"{a * tens} + {a * ones} = {a * b}."),
        f"{a * b}",
    )


def sharing(rng: Random) -> Problem:
    name, other = rng.sample(NAMES, 2)
    a, b, part = rng.randint(2, 7), rng.randint(2, 7), rng.randint(3, 20)
    return Problem(
        f"{name} and {other} share {part * (a + b)} dollars in the ratio {a} to {b}. How much does {name} get?",
        (
            f"There are {a} + {b} = {a + b} parts.",
            f"One part is {part * (a + b)} / {a + b} = {part}.",
            f"{name} gets {a} * {part} = {a * part}.",
        ),
        f"{a * part} dollars",
    )


def ages(rng: Random) -> Problem:
    name, other = rng.sample(NAMES, 2)
    age, gap, years = rng.randint(8, 40), rng.randint(2, 12), rng.randint(3, 15)
    return Problem(
        f"{name} is {age} years old and {other} is {gap} years older. How old will {other} be in {years} years?",
        (
            f"Now {other} is {age} + {gap} = {age + gap}.",
            f"In {years} years: {age + gap} + {years} = {age + gap + years}.",
        ),
        f"{age + gap + years}",
    )


def probability(rng: Random) -> Problem:
    red, blue = rng.randint(2, 12), rng.randint(2, 12)
    k = math.gcd(red, red + blue)
    return Problem(
        f"A bag holds {red} red and {blue} blue balls. One ball is drawn. What is the probability that it is red?",
        (f"In all there are {red} + {blue} = {red + blue} balls.", f"Favourable: {red}, so {red}/{red + blue}."),
        f"{red // k}/{(red + blue) // k}",
    )


def conversion(rng: Random) -> Problem:
    hours, minutes = rng.randint(1, 9), rng.randint(1, 59)
    return Problem(
        f"Convert {hours} hours and {minutes} minutes to minutes.",
        (f"{hours} * 60 = {hours * 60}.", f"{hours * 60} + {minutes} = {hours * 60 + minutes}."),
        f"{hours * 60 + minutes} minutes",
    )


def combinations(rng: Random) -> Problem:
    n = rng.randint(4, 12)
    return Problem(
        f"In how many ways can 2 people be chosen from {n}?",
        (
            f"Ordered pairs: {n} * {n - 1} = {n * (n - 1)}.",
            f"Order does not matter: {n * (n - 1)} / 2 = {n * (n - 1) // 2}.",
        ),
        f"{n * (n - 1) // 2}",
    )


def leftover(rng: Random) -> Problem:
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    start, given, times = rng.randint(60, 120), rng.randint(3, 9), rng.randint(3, 6)
    return Problem(
        f"{name} has {start} {goods} and gives {given} of them to each of {times} friends. How many are left?",
        (
            f"Given away: {given} * {times} = {given * times}.",
            f"Left: {start} - {given * times} = {start - given * times}.",
        ),
        f"{start - given * times}",
    )


TEMPLATES: tuple[Template, ...] = (
    shopping, two_kinds, equation, both_sides, percent, discount, rectangle, triangle, pythagoras, travel, travel_time,
    average, median, gcd, lcm, fractions_sum, fractions_product, arithmetic_series, geometric, quadratic, expand,
    system, interest, power, remainder, multiplication, sharing, ages, probability, conversion, combinations, leftover,
)  # fmt: skip
