"""Many short templates to train on, written as data: the more ways of asking, the less there is to recite.

Each is a question, the steps and the answer, as format strings over drawn whole numbers. `{a}` is a drawn number and
`{a*b+c}` an expression over them; `/` divides without a rest, because the question is built from the result.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from math_templates import Problem, Template

NAMES = ("Olga", "Hassan", "Mei", "Bruno", "Kate", "Luis", "Amina", "Gustav", "Priya", "Dennis", "Eva", "Omar", "Lucy")
Range = tuple[int, int]


@dataclass(frozen=True)
class Wide:
    """A template as data; called with a generator it draws its numbers and writes the problem."""

    question: str
    steps: tuple[str, ...]
    answer: str
    draws: Mapping[str, Range]

    def __call__(self, rng: Random) -> Problem:
        values: dict[str, object] = {name: rng.randint(*bounds) for name, bounds in self.draws.items()}
        values["who"], values["other"] = rng.sample(NAMES, 2)

        def write(text: str) -> str:
            return re.sub(r"\{([^}]+)\}", lambda found: str(_value(found[1], values)), text)

        return Problem(write(self.question), tuple(map(write, self.steps)), write(self.answer))


def _value(expression: str, values: Mapping[str, object]) -> object:
    """The value of an expression such as `a*b+c`; the templates of this file are its only input."""
    if expression in values:
        return values[expression]
    return eval(expression.replace("/", "//"), {"__builtins__": {}}, dict(values))


def wide(question: str, steps: list[str], answer: str, **draws: Range) -> Template:
    """One template."""
    return Wide(question, tuple(steps), answer, draws)


TEMPLATES: tuple[Template, ...] = (
    wide("{who} plants {a} rows of {b} lettuces and {c} tomatoes. How many plants are there?",
         ["The lettuces: {a} * {b} = {a*b}.", "With the tomatoes: {a*b} + {c} = {a*b+c}."], "{a*b+c} plants",
         a=(3, 12), b=(4, 15), c=(5, 30)),
    wide("A library owns {a*b} books on {a} equal shelves. How many books stand on {c} shelves?",
         ["One shelf holds {a*b} / {a} = {b} books.", "So {c} shelves hold {c} * {b} = {c*b}."], "{c*b} books",
         a=(4, 12), b=(10, 40), c=(2, 9)),
    wide("Compute {a} * {b} + {c}.", ["Multiply first: {a} * {b} = {a*b}.", "Add: {a*b} + {c} = {a*b+c}."],
         "{a*b+c}", a=(3, 19), b=(3, 19), c=(5, 90)),
    wide("Work out ({a} + {b}) * {c}.", ["In the brackets: {a} + {b} = {a+b}.", "Times {c}: {a+b} * {c} = {(a+b)*c}."],
         "{(a+b)*c}", a=(2, 40), b=(2, 40), c=(2, 12)),
    wide("What number do you get when you subtract {b} from {a+b} and double the result?",
         ["{a+b} - {b} = {a}.", "Doubled: 2 * {a} = {2*a}."], "{2*a}", a=(8, 99), b=(4, 80)),
    wide("Solve {a}x + {b} = {a*c+b}.", ["Subtract {b}: {a}x = {a*c}.", "Divide by {a}: x = {c}."], "x = {c}",
         a=(2, 12), b=(1, 40), c=(2, 20)),
    wide("Solve {a}(x - {b}) = {a*c}.", ["Divide by {a}: x - {b} = {c}.", "Add {b}: x = {b+c}."], "x = {b+c}",
         a=(2, 9), b=(1, 15), c=(2, 20)),
    wide("Find y if y / {a} = {b}.", ["Multiply both sides by {a}.", "y = {a} * {b} = {a*b}."], "y = {a*b}",
         a=(2, 15), b=(3, 25)),
    wide("A rectangle is {a} m long and {b} m wide. Give its area and its perimeter.",
         ["Area: {a} * {b} = {a*b} square metres.", "Perimeter: 2 * ({a} + {b}) = {2*(a+b)} metres."],
         "{a*b} square metres and {2*(a+b)} metres", a=(5, 40), b=(2, 20)),
    wide("A triangle has a base of {2*a} cm and a height of {b} cm. Find its area.",
         ["Base times height: {2*a} * {b} = {2*a*b}.", "Half of it: {2*a*b} / 2 = {a*b}."], "{a*b} square centimetres",
         a=(2, 15), b=(3, 20)),
    wide("The edges of a brick measure {a}, {b} and {c} cm. What is its volume?",
         ["The bottom: {a} * {b} = {a*b} square centimetres.", "Times the height: {a*b} * {c} = {a*b*c}."],
         "{a*b*c} cubic centimetres", a=(2, 12), b=(2, 12), c=(2, 12)),
    wide("Two angles of a triangle measure {a} and {b} degrees. How large is the third?",
         ["Together they measure {a} + {b} = {a+b} degrees.", "The third: 180 - {a+b} = {180-a-b}."],
         "{180-a-b} degrees", a=(20, 80), b=(20, 80)),
    wide("{who} pays {a} crowns for {b} stamps that cost the same. Each costs {c} crowns more next year. "
         "What will {b} stamps cost then?",
         ["The rise for all: {b} * {c} = {b*c} crowns.", "The new price: {a} + {b*c} = {a+b*c}."], "{a+b*c} crowns",
         a=(20, 90), b=(3, 12), c=(1, 5)),
    wide("{who} had {a+b} marbles and gave {b} of them to {other}, who had {c}. How many does each have now?",
         ["{who}: {a+b} - {b} = {a}.", "{other}: {c} + {b} = {c+b}."], "{a} and {c+b}",
         a=(5, 40), b=(3, 20), c=(4, 40)),
    wide("{who} is {a} years old and {other} is {b} years older. How old are they together in {c} years?",
         ["{other} is {a} + {b} = {a+b} years old.", "Today together: {a} + {a+b} = {2*a+b}.",
          "Each is {c} years older then: {2*a+b} + {2*c} = {2*a+b+2*c}."], "{2*a+b+2*c} years",
         a=(6, 40), b=(2, 15), c=(2, 12)),
    wide("A lift carries {a} kilograms. {b} people of {c} kilograms each are inside. How much more may it carry?",
         ["The people weigh {b} * {c} = {b*c} kilograms.", "Left: {a} - {b*c} = {a-b*c}."], "{a-b*c} kilograms",
         a=(700, 1000), b=(3, 7), c=(60, 95)),
    wide("An engine makes {a} turns in one second. How many does it make in {b} minutes?",
         ["{b} minutes are {b} * 60 = {b*60} seconds.", "Turns: {a} * {b*60} = {a*b*60}."], "{a*b*60} turns",
         a=(5, 50), b=(2, 9)),
    wide("A coach leaves at {a}:15 and arrives {b} hours and 30 minutes later. When does it arrive?",
         ["After {b} hours it is {a+b}:15.", "30 minutes later it is {a+b}:45."], "{a+b}:45", a=(6, 12), b=(1, 8)),
    wide("Write {a} hours and {b} minutes in minutes.",
         ["{a} hours are {a} * 60 = {a*60} minutes.", "In all {a*60} + {b} = {a*60+b}."], "{a*60+b} minutes",
         a=(2, 12), b=(5, 55)),
    wide("How many metres are {a} kilometres and {b} metres?",
         ["{a} kilometres are {a*1000} metres.", "{a*1000} + {b} = {a*1000+b}."], "{a*1000+b} metres",
         a=(2, 30), b=(20, 900)),
    wide("A walk of {a} kilometres is drawn on a map where 1 centimetre stands for {b} kilometres, and it crosses "
         "{c} such maps of the same length. How long is the whole walk, and how long on paper is {a*b} kilometres?",
         ["The whole walk: {c} * {a} = {a*c} kilometres.", "On paper: {a*b} / {b} = {a} centimetres."],
         "{a*c} kilometres and {a} centimetres", a=(3, 15), b=(2, 8), c=(2, 5)),
    wide("{who} saves {a} pounds a month. After how many months can a desk for {a*b} pounds be bought?",
         ["Divide the price by the savings: {a*b} / {a} = {b}."], "{b} months", a=(15, 80), b=(3, 15)),
    wide("A jacket costs {20*a} euros and is sold at half price, then for another {b} euros less. What is paid?",
         ["Half of {20*a} is {10*a}.", "Less {b}: {10*a} - {b} = {10*a-b}."], "{10*a-b} euros", a=(3, 15), b=(2, 20)),
    wide("What is {a} percent of {100*b}?", ["One percent of {100*b} is {b}.", "{a} * {b} = {a*b}."], "{a*b}",
         a=(3, 95), b=(2, 15)),
    wide("Of {100*a} voters {b} percent said yes. How many said no?",
         ["Yes: {b} * {a} = {a*b}.", "No: {100*a} - {a*b} = {100*a-a*b}."], "{100*a-a*b} voters",
         a=(2, 20), b=(11, 89)),
    wide("A quarter of {4*a} seats is taken. {b} more people sit down. How many seats are free?",
         ["Taken: {4*a} / 4 = {a}, then {a} + {b} = {a+b}.", "Free: {4*a} - {a+b} = {3*a-b}."], "{3*a-b} seats",
         a=(10, 60), b=(2, 20)),
    wide("Add {a}/{c} and {b}/{c}.", ["The denominators agree, so the numerators are added: {a} + {b} = {a+b}.",
         "The sum is {a+b}/{c}."], "{a+b}/{c}", a=(1, 8), b=(1, 8), c=(17, 29)),
    wide("Which is larger, {a}/{b} or {a}/{b+c}?",
         ["The numerators agree.", "The smaller denominator gives the larger fraction, and {b} < {b+c}."],
         "{a}/{b}", a=(1, 9), b=(11, 30), c=(2, 9)),
    wide("Find the remainder of {a*b+c} divided by {a}.",
         ["{b} * {a} = {a*b} is the largest multiple that fits.", "{a*b+c} - {a*b} = {c}."], "{c}",
         a=(7, 15), b=(5, 30), c=(1, 6)),
    wide("Is {a*b} divisible by {a}?", ["{a} * {b} = {a*b}.", "Nothing is left over."], "yes", a=(3, 15), b=(7, 40)),
    wide("What are the next two numbers: {a}, {a+b}, {a+2*b}, {a+3*b}?",
         ["Each number is {b} more than the one before.", "{a+3*b} + {b} = {a+4*b} and {a+4*b} + {b} = {a+5*b}."],
         "{a+4*b} and {a+5*b}", a=(1, 50), b=(2, 15)),
    wide("A sequence starts with {a} and each term is {b} times the one before. Find the third term.",
         ["Second: {a} * {b} = {a*b}.", "Third: {a*b} * {b} = {a*b*b}."], "{a*b*b}", a=(1, 12), b=(2, 7)),
    wide("The sum of two numbers is {2*a+b} and their difference is {b}. Find both.",
         ["Twice the smaller is {2*a+b} - {b} = {2*a}.", "The smaller is {a}, the larger {a} + {b} = {a+b}."],
         "{a} and {a+b}", a=(4, 60), b=(2, 30)),
    wide("Three numbers in a row add up to {3*a}. Which are they?",
         ["The middle one is {3*a} / 3 = {a}.", "Its neighbours are {a-1} and {a+1}."], "{a-1}, {a} and {a+1}",
         a=(5, 90)),
    wide("Simplify {a}n + {b}n - {c}n.", ["{a} + {b} = {a+b}.", "{a+b} - {c} = {a+b-c}."], "{a+b-c}n",
         a=(5, 20), b=(5, 20), c=(1, 9)),
    wide("Expand {a}({b}k + {c}).", ["{a} * {b}k = {a*b}k.", "{a} * {c} = {a*c}."], "{a*b}k + {a*c}",
         a=(2, 9), b=(2, 9), c=(1, 12)),
    wide("Given p = {a} and q = {b}, what is {c}p - q?",
         ["{c} * {a} = {c*a}.", "{c*a} - {b} = {c*a-b}."], "{c*a-b}", a=(5, 20), b=(1, 9), c=(2, 9)),
    wide("What is {a} squared minus {b}?", ["{a} * {a} = {a*a}.", "{a*a} - {b} = {a*a-b}."], "{a*a-b}",
         a=(4, 20), b=(1, 15)),
    wide("Find the square root of {a*a}.", ["{a} * {a} = {a*a}.", "So the root is {a}."], "{a}", a=(4, 30)),
    wide("Round {10*a+b} to the nearest ten.",
         ["The last digit is {b}.", "It is less than 5, so round down to {10*a}."], "{10*a}", a=(12, 99), b=(1, 4)),
    wide("Order {b+c}, {a} and {a+b+c} from small to large.",
         ["{a+b+c} is more than {b+c}, since it is {a} more.", "{a} is less than {b+c}."], "{a}, {b+c}, {a+b+c}",
         a=(3, 20), b=(21, 50), c=(1, 30)),
    wide("A die and a coin are thrown {a} times each. How many throws are that, and how many for {b} players?",
         ["One player: 2 * {a} = {2*a} throws.", "{b} players: {b} * {2*a} = {2*a*b}."], "{2*a} and {2*a*b}",
         a=(5, 40), b=(2, 8)),
    wide("A bag holds {a} red and {b} blue balls. How likely is a blue one at the first draw?",
         ["There are {a} + {b} = {a+b} balls.", "{b} of them are blue."], "{b}/{a+b}", a=(2, 15), b=(2, 15)),
    wide("{who} owns {a} hats and {b} scarves. In how many ways can one of each be worn?",
         ["Each hat goes with {b} scarves.", "{a} * {b} = {a*b}."], "{a*b} ways", a=(2, 12), b=(2, 12)),
    wide("The scores of {who} are {a}, {a+2*b} and {a+4*b}. What is the mean?",
         ["The sum: {a} + {a+2*b} + {a+4*b} = {3*a+6*b}.", "Divided by 3: {3*a+6*b} / 3 = {a+2*b}."], "{a+2*b}",
         a=(3, 50), b=(1, 12)),
    wide("What is the median of {a}, {a+b}, {a+b+c}, {a+b+c+b} and {a+b+c+c+b}?",
         ["The numbers are five, so the third in order is the median.", "It is {a+b+c}."], "{a+b+c}",
         a=(1, 20), b=(2, 9), c=(2, 9)),
    wide("A printer needs {a} seconds a page. {who} prints {b} copies of {c} pages. How many seconds does it take?",
         ["Pages: {b} * {c} = {b*c}.", "Seconds: {b*c} * {a} = {a*b*c}."], "{a*b*c} seconds",
         a=(2, 9), b=(2, 12), c=(3, 15)),
    wide("{a} machines fill {a*b} bottles an hour. How many bottles do {c} such machines fill?",
         ["One machine fills {a*b} / {a} = {b} bottles.", "{c} machines fill {c} * {b} = {c*b}."], "{c*b} bottles",
         a=(2, 9), b=(20, 90), c=(2, 12)),
    wide("Flour for {a} cakes weighs {a*b} grams. How much is needed for {c} cakes?",
         ["For one cake: {a*b} / {a} = {b} grams.", "For {c}: {c} * {b} = {c*b}."], "{c*b} grams",
         a=(2, 6), b=(90, 250), c=(2, 12)),
    wide("The ratio of cats to dogs is {a} to {b}. There are {a*c} cats. How many dogs are there?",
         ["{a*c} / {a} = {c}, so each part is {c} animals.", "Dogs: {b} * {c} = {b*c}."], "{b*c} dogs",
         a=(2, 7), b=(2, 9), c=(3, 15)),
    wide("{who} shares {(a+b)*c} coins with {other} in the ratio {a} to {b}. What does each get?",
         ["There are {a} + {b} = {a+b} parts of {(a+b)*c} / {a+b} = {c} coins.",
          "{who} gets {a} * {c} = {a*c}, {other} gets {b} * {c} = {b*c}."], "{a*c} and {b*c} coins",
         a=(1, 5), b=(2, 7), c=(3, 15)),
    wide("A wheel is {a} cm around. How far does it roll in {b} turns, in centimetres?",
         ["Each turn is {a} cm.", "{b} * {a} = {a*b}."], "{a*b} cm", a=(50, 220), b=(3, 20)),
    wide("A candle of {a+b*c} mm loses {b} mm an hour. How tall is it after {c} hours?",
         ["It loses {c} * {b} = {b*c} mm.", "{a+b*c} - {b*c} = {a}."], "{a} mm", a=(20, 120), b=(4, 20), c=(2, 8)),
    wide("A parking meter takes {a} cents for each quarter of an hour. {who} parks for {b} hours. What is due?",
         ["{b} hours are {4*b} quarters.", "{4*b} * {a} = {4*a*b}."], "{4*a*b} cents", a=(20, 80), b=(2, 6)),
    wide("The digits of a number are {a} tens and {b} ones. Add {c} to it.",
         ["The number is {10*a+b}.", "{10*a+b} + {c} = {10*a+b+c}."], "{10*a+b+c}", a=(2, 9), b=(1, 9), c=(5, 60)),
    wide("{who} runs {a} rounds of {b} metres, and {other} runs {c} metres. Who runs farther, if {c} is more than "
         "{a*b}? By how much is the difference when {other} runs {a*b+c} metres?",
         ["{who} runs {a} * {b} = {a*b} metres.", "The difference: {a*b+c} - {a*b} = {c}."], "{other}, by {c} metres",
         a=(2, 9), b=(100, 400), c=(4000, 6000)),
    wide("A cube has edges of {a} cm. Find the area of its surface.",
         ["One face: {a} * {a} = {a*a}.", "Six faces: 6 * {a*a} = {6*a*a}."], "{6*a*a} square centimetres", a=(2, 15)),
    wide("How much is left of {a*b} apples when {c} baskets of {b} apples have been sold?",
         ["Sold: {c} * {b} = {c*b}.", "Left: {a*b} - {c*b} = {(a-c)*b}."], "{(a-c)*b} apples",
         a=(10, 20), b=(6, 30), c=(2, 9)),
)  # fmt: skip
