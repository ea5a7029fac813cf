"""More templates to train on: little stories, so that the specialist learns to reason, not to recite sentences."""

from random import Random

from math_templates import Problem, Template

PEOPLE = ("Alice", "Robert", "Maya", "Simon", "Clara", "Peter", "Julia", "Adam", "Nora", "Felix", "Rosa", "Henry")


def bus(rng: Random) -> Problem:
    start, off, on = rng.randint(20, 60), rng.randint(3, 18), rng.randint(3, 25)
    return Problem(
        f"There are {start} passengers on a bus. At the market {off} get off and {on} get on. How "
        "many passengers ride on?",
        (
            f"After some get off: {start} - {off} = {start - off}.",
            f"After others get on: {start - off} + {on} = {start - off + on}.",
        ),
        f"{start - off + on}",
    )


def novel(rng: Random) -> Problem:
    who, daily, days, rest = rng.choice(PEOPLE), rng.randint(8, 40), rng.randint(4, 14), rng.randint(10, 90)
    return Problem(
        f"{who} reads {daily} pages of a novel every evening. The novel has {daily * days + rest} pages. "
        f"How many pages are unread after {days} evenings?",
        (f"Read: {days} * {daily} = {days * daily}.", f"Unread: {days * daily + rest} - {days * daily} = {rest}."),
        f"{rest} pages",
    )


def fuel(rng: Random) -> Problem:
    litres, hundreds, price = rng.randint(4, 9), rng.randint(2, 12), rng.randint(1, 3)
    return Problem(
        f"A car burns {litres} litres per 100 km, and a litre costs {price} dollars. What does the "
        f"fuel for {100 * hundreds} km cost?",
        (
            f"{100 * hundreds} km are {hundreds} times 100 km.",
            f"Litres burnt: {hundreds} * {litres} = {hundreds * litres}.",
            f"Cost: {hundreds * litres} * {price} = {hundreds * litres * price}.",
        ),
        f"{hundreds * litres * price} dollars",
    )


def thermometer(rng: Random) -> Problem:
    dawn, up, down = rng.randint(-12, 8), rng.randint(4, 18), rng.randint(2, 15)
    return Problem(
        f"At dawn the thermometer reads {dawn} degrees. It climbs {up} degrees until lunch and drops {down} degrees by "
        "midnight. What does it read then?",
        (f"Lunch: {dawn} + {up} = {dawn + up}.", f"Midnight: {dawn + up} - {down} = {dawn + up - down}."),
        f"{dawn + up - down} degrees",
    )


def tournament(rng: Random) -> Problem:
    n = rng.randint(5, 16)
    return Problem(
        f"{n} players enter a chess tournament and everyone plays everyone else once. How many games are played?",
        (
            f"Each of the {n} players has {n - 1} opponents: {n} * {n - 1} = {n * (n - 1)}.",
            f"That counts every game twice, so {n * (n - 1)} / 2 = {n * (n - 1) // 2}.",
        ),
        f"{n * (n - 1) // 2} games",
    )


def pizza(rng: Random) -> Problem:
    who, other = rng.sample(PEOPLE, 2)
    pizzas, a, b = rng.randint(2, 5), rng.randint(3, 7), rng.randint(2, 8)
    return Problem(
        f"{pizzas} pizzas are cut into 8 slices each. {who} eats {a} slices and {other} eats {b}. "
        "How many slices are over?",
        (
            f"Slices: {pizzas} * 8 = {pizzas * 8}.",
            f"Eaten: {a} + {b} = {a + b}.",
            f"Over: {pizzas * 8} - {a + b} = {pizzas * 8 - a - b}.",
        ),
        f"{pizzas * 8 - a - b} slices",
    )


def seats(rng: Random) -> Problem:
    rows, wide, sold = rng.randint(8, 25), rng.randint(10, 30), rng.randint(20, 79)
    return Problem(
        f"A theatre has {rows} rows of {wide} seats, and {sold} seats are taken. How many people can still sit down?",
        (f"All seats: {rows} * {wide} = {rows * wide}.", f"Free seats: {rows * wide} - {sold} = {rows * wide - sold}."),
        f"{rows * wide - sold}",
    )


def exchange(rng: Random) -> Problem:
    who, money, rate, fee = rng.choice(PEOPLE), rng.randint(20, 90), rng.randint(3, 12), rng.randint(2, 15)
    return Problem(
        f"{who} changes {money} dollars into crowns. A dollar gives {rate} crowns, and the bank "
        f"keeps a fee of {fee} crowns. "
        "How many crowns are paid out?",
        (
            f"Before the fee: {money} * {rate} = {money * rate}.",
            f"After the fee: {money * rate} - {fee} = {money * rate - fee}.",
        ),
        f"{money * rate - fee} crowns",
    )


def exam(rng: Random) -> Problem:
    who, questions, share = rng.choice(PEOPLE), 20 * rng.randint(1, 6), 5 * rng.randint(8, 19)
    right = questions * share // 100
    return Problem(
        f"{who} answers {right} of {questions} questions correctly. What percentage is that, and "
        "how many answers are wrong?",
        (
            f"The fraction is {right} / {questions} = {right / questions:g}.",
            f"As a percentage: {right / questions:g} * 100 = {share}.",
            f"Wrong: {questions} - {right} = {questions - right}.",
        ),
        f"{share}%, {questions - right} wrong",
    )


def tiles(rng: Random) -> Problem:
    side, across, along = rng.choice((20, 25, 50)), rng.randint(6, 20), rng.randint(6, 20)
    return Problem(
        f"A kitchen floor of {side * across} cm by {side * along} cm is covered with square tiles of side {side} cm. "
        "How many tiles does the job take?",
        (
            f"Across: {side * across} / {side} = {across} tiles.",
            f"Along: {side * along} / {side} = {along} tiles.",
            f"Total: {across} * {along} = {across * along} tiles.",
        ),
        f"{across * along} tiles",
    )


def trees(rng: Random) -> Problem:
    gap, spaces = rng.randint(3, 12), rng.randint(6, 30)
    return Problem(
        f"Trees stand along a road of {gap * spaces} metres, one at each end and one every {gap} "
        "metres. How many trees is that?",
        (f"Spaces: {gap * spaces} / {gap} = {spaces}.", f"One tree more than spaces: {spaces} + 1 = {spaces + 1}."),
        f"{spaces + 1} trees",
    )


def phone(rng: Random) -> Problem:
    fixed, rate, minutes = rng.randint(5, 20), rng.randint(2, 9), 10 * rng.randint(3, 20)
    total = 100 * fixed + rate * minutes
    return Problem(
        f"A phone plan costs {fixed} dollars a month and {rate} cents for each minute. What is the "
        f"bill for {minutes} minutes?",
        (
            f"Minutes: {minutes} * {rate} = {minutes * rate} cents.",
            f"Fixed part: {fixed} dollars = {100 * fixed} cents.",
            f"Bill: {100 * fixed} + {minutes * rate} = {total} cents.",
        ),
        f"{total / 100:.2f} dollars",
    )


def harvest(rng: Random) -> Problem:
    crate, crates, over = rng.randint(6, 24), rng.randint(5, 30), rng.randint(1, 5)
    return Problem(
        f"A farmer picks {crate * crates + over} pears and packs {crate} in a crate. How many "
        "crates are full and what is over?",
        (
            f"{crate} * {crates} = {crate * crates} pears fill {crates} crates.",
            f"{crate * crates + over} - {crate * crates} = {over} are over.",
        ),
        f"{crates} crates, {over} pears over",
    )


def profit(rng: Random) -> Problem:
    who, count, cost, gain = rng.choice(PEOPLE), rng.randint(5, 40), rng.randint(2, 20), rng.randint(1, 9)
    return Problem(
        f"{who} makes {count} baskets for {cost} dollars each and sells each for {cost + gain} "
        "dollars. What is the profit?",
        (f"Profit on one: {cost + gain} - {cost} = {gain}.", f"Profit on all: {gain} * {count} = {gain * count}."),
        f"{gain * count} dollars",
    )


def stairs(rng: Random) -> Problem:
    floors, steps, height = rng.randint(3, 12), rng.randint(12, 24), rng.randint(14, 20)
    return Problem(
        f"A tower has {floors} floors with {steps} stairs between floors, each {height} cm high. "
        "How high is the tower in cm?",
        (
            f"Stairs: {floors} * {steps} = {floors * steps}.",
            f"Height: {floors * steps} * {height} = {floors * steps * height}.",
        ),
        f"{floors * steps * height} cm",
    )


def runners(rng: Random) -> Problem:
    who, other = rng.sample(PEOPLE, 2)
    fast, slow, seconds = rng.randint(6, 9), rng.randint(3, 5), rng.randint(10, 60)
    return Problem(
        f"{who} runs {fast} metres a second and {other} runs {slow}. They start together. "
        f"How far ahead is {who} after {seconds} seconds?",
        (
            f"The lead grows by {fast} - {slow} = {fast - slow} metres a second.",
            f"{fast - slow} * {seconds} = {(fast - slow) * seconds}.",
        ),
        f"{(fast - slow) * seconds} metres",
    )


def digits(rng: Random) -> Problem:
    number = rng.randint(1000, 99999)
    shown = " + ".join(str(number))
    total = sum(map(int, str(number)))
    return Problem(
        f"Is {number} divisible by 3?",
        (
            f"The digit sum is {shown} = {total}.",
            f"{total} = 3 * {total // 3} + {total % 3}.",
            "The number is divisible by 3 exactly if its digit sum is.",
        ),
        "no" if total % 3 else "yes",
    )


def rounding(rng: Random) -> Problem:
    number = rng.randint(1001, 9999)
    low = number // 100 * 100
    rounded = low + 100 * (number - low >= 50)
    return Problem(
        f"Round {number} to the nearest hundred.",
        (f"{number} lies between {low} and {low + 100}.", f"The distance to {low} is {number - low}."),
        f"{rounded}",
    )


TEMPLATES: tuple[Template, ...] = (
    bus, novel, fuel, thermometer, tournament, pizza, seats, exchange, exam, tiles, trees, phone, harvest, profit,
    stairs, runners, digits, rounding,
)  # fmt: skip
