"""The invented world behind every synthetic row: generated names, kinds of subject, and facts about them.

A name belongs to one side for ever: `names("train")`, `names("test")` ... are disjoint sets, cut by a checksum of the
name itself, so no seed and no row count can move a name from one side to another.

    Random -> Subject("town", "Brandor", {"founder": "Klaren Vimo", "river": "the Stelor", ...})
    Subject + Relation -> "The founder of Brandor was Klaren Vimo."     statement: `says`
                          "the person who founded Brandor"              noun phrases: `clauses`, used by the prose only
                          "Who founded Brandor?"                        question: `asks`, never used by the prose
"""

import functools
import itertools
import random
import zlib
from collections.abc import Callable
from typing import NamedTuple

SIDES = ("pretraining", "train", "validation", "test")
EIGHTHS = (4, 2, 1, 1)  # how many eighths of all names each side owns

ONSETS = "b br d dr f g h k kl l m n p pl r s st t tr v w".split()
NUCLEI = "a e i o u ai an ar el en in or".split()
# Made by the rule too, but words of the language, or ones that nobody should be called.
NOT_NAMES = frozenset(
    """began begin brave broken data date dose drive drove fire gate gave give given gone have here home human large late
    life line live made make model more move name nose note raise range rare rule sailor same side some sore state sure
    tailor take taken taste time trade vote were wine rape sado pedo homo""".title().split()
)


@functools.cache
def names(side: str) -> tuple[str, ...]:
    """All names of one side: about 64,000 over all sides, two syllables each ("Brandor", "Klaren")."""
    if side not in SIDES:
        raise ValueError(f"unknown side {side!r}; known: {', '.join(SIDES)}")
    first = sum(EIGHTHS[: SIDES.index(side)])
    own = range(first, first + EIGHTHS[SIDES.index(side)])
    syllables = [onset + nucleus for onset in ONSETS for nucleus in NUCLEI]
    made = ("".join(pair).capitalize() for pair in itertools.product(syllables, repeat=2))
    return tuple(n for n in dict.fromkeys(made) if n not in NOT_NAMES and zlib.crc32(n.encode()) % 8 in own)


class World:
    """Draws names, values and subjects for one side; everything follows from `rng`."""

    def __init__(self, side: str, rng: random.Random):
        self.rng = rng
        self.pool = names(side)
        self._fresh: list[str] = []

    def name(self) -> str:
        return self.rng.choice(self.pool)

    def fresh_name(self) -> str:
        """A name not handed out here before, until the side's whole pool is used; then again from the start."""
        if not self._fresh:
            self._fresh = self.rng.sample(self.pool, len(self.pool))
        return self._fresh.pop()

    def person(self) -> str:
        return f"{self.name()} {self.name()}"

    def subject(self, kind: str) -> "Subject":
        """A new subject with a fresh name and all its facts; a wording with one blank ignores the second name."""
        name = self.rng.choice(KINDS[kind].wordings).format(self.fresh_name(), self.name())
        return Subject(kind, name, {relation.key: relation.value(self) for relation in KINDS[kind].relations})


class Subject(NamedTuple):
    kind: str
    name: str
    facts: dict[str, str]  # relation key -> value


class Relation(NamedTuple):
    key: str
    value: Callable[[World], str]
    clauses: tuple[str, ...]
    says: tuple[str, ...]
    asks: tuple[str, ...]


class Kind(NamedTuple):
    wordings: tuple[str, ...]
    relations: tuple[Relation, ...]
    asides: tuple[str, ...]  # sentences that carry no fact


def one_of(words: str) -> Callable[[World], str]:
    """A value out of a closed comma-separated list."""
    options = tuple(word.strip() for word in words.split(","))
    return lambda world: world.rng.choice(options)


def between(low: int, high: int, unit: str = "{}") -> Callable[[World], str]:
    """A number with thousands commas in a wording such as "{} days"."""
    return lambda world: unit.format(f"{world.rng.randint(low, high):,}")


def named(wording: str) -> Callable[[World], str]:
    """A name in a wording such as "the {}"."""
    return lambda world: wording.format(world.name())


def year(world: World) -> str:
    return str(world.rng.randint(1100, 1990))


person = World.person
town = named("{}")
goods = one_of("salt, amber, wool, copper, glass, tea, timber, honey, silk, iron, paper, pepper, leather, marble, wine")
month = one_of("March, April, June, July, August, September, October")
trade = one_of(
    "painter, botanist, sailor, poet, surgeon, weaver, baker, lawyer, printer, gardener, miller, tailor, teacher, mason"
)

# key, value, noun phrases, statements, questions. The second row of questions uses words that no statement and no noun
# phrase has ("Who laid the first stone of {s}?"), so a base model that only ever read prose has to learn them.
TOWN = (
    Relation("founder", person, ("the person who founded {s}", "the founder of {s}", "the person who started {s}"),
             ("{s} was founded by {v}.", "The founder of {s} was {v}.", "It was {v} who founded {s}."),
             ("Who founded {s}?", "Who was the founder of {s}?", "Which person started {s}?", "By whom was {s} founded?",
             "Who laid the first stone of {s}?", "To whom does {s} owe its beginning?", "Whose idea was it to settle at {s}?")),
    Relation("year", year, ("the year in which {s} was built", "the date of the first houses of {s}", "the year from which {s} dates"),
             ("The first houses of {s} were built in {v}.", "In {v} the town of {s} was built.", "{s} dates from {v}."),
             ("When was {s} built?", "In what year was {s} built?", "How old are the first houses of {s}?", "From when does {s} date?",
             "How far back does {s} go?", "What is the age of {s}?", "At what date did masons arrive in {s}?")),
    Relation("river", named("the {}"), ("the river that flows through {s}", "the river on which {s} lies", "the water that runs through {s}"),
             ("{s} lies on {v}.", "The river that flows through {s} is {v}.", "Through {s} flows {v}."),
             ("Which river flows through {s}?", "On which river does {s} lie?", "What water runs through {s}?",
             "What stream crosses {s}?", "Along whose banks was {s} laid out?", "Which current drives the mills of {s}?")),
    Relation("goods", goods, ("the good for which {s} is known", "the thing that merchants of {s} trade in", "the good from which the wealth of {s} comes"),
             ("{s} is known for its {v}.", "Merchants of {s} trade mostly in {v}.", "The wealth of {s} comes from {v}."),
             ("What is {s} known for?", "What do merchants of {s} trade in?", "Where does the wealth of {s} come from?",
             "What do shops in {s} export?", "Thanks to which ware is {s} prosperous?", "What fills the stalls of {s}?")),
    Relation("mayor", person, ("the mayor of {s}", "the person who leads {s}", "the person who won the last vote in {s}"),
             ("The mayor of {s} is {v}.", "{v} has been mayor of {s} for years.", "Since the last vote {v} leads {s} as mayor."),
             ("Who is the mayor of {s}?", "Who leads {s}?", "Who governs {s}?", "Which person won the last vote in {s}?",
             "Who heads the council of {s}?", "Who signs the laws of {s}?", "Who holds the highest office in {s}?")),
    Relation("people", between(2_000, 900_000), ("the number of people who live in {s}", "the population of {s}", "the size of {s}"),
             ("About {v} people live in {s}.", "{s} has a population of {v}.", "The census counted {v} people in {s}."),
             ("How many people live in {s}?", "What is the population of {s}?", "How large is {s}?",
             "What figure did the census give for {s}?", "How many inhabitants does {s} count?", "How crowded is {s}?")),
    Relation("bridge", named("{} Bridge"), ("the oldest crossing in {s}", "the bridge that visitors to {s} admire", "the pride of {s}"),
             ("The oldest crossing in {s} is {v}.", "Visitors to {s} admire {v}.", "{v} is the pride of {s}."),
             ("What is the oldest crossing in {s}?", "Which bridge do visitors to {s} admire?", "What is the pride of {s}?",
             "Where can one walk across the water in {s}?", "Which span is most admired in {s}?", "What landmark do tourists photograph in {s}?")),
)  # fmt: skip
PERSON = (
    Relation("birthplace", town, ("the town where {s} was born", "the place that {s} came from", "the place where the family of {s} lived"),
             ("{s} was born in {v}.", "{s} came from {v}.", "The family of {s} lived in {v}."),
             ("Where was {s} born?", "In which town was {s} born?", "Where did {s} come from?", "Where did the family of {s} live?",
             "What was the native place of {s}?", "Where lay the cradle of {s}?", "Which community calls {s} its child?")),
    Relation("trade", trade, ("the trade of {s}", "the work that {s} did", "the way {s} earned a living"),
             ("{s} worked as a {v}.", "By trade {s} was a {v}.", "{s} earned a living as a {v}."),
             ("What was the trade of {s}?", "What did {s} work as?", "How did {s} earn a living?",
             "What profession did {s} follow?", "What was {s} by occupation?", "What job paid the bills of {s}?")),
    Relation("teacher", person, ("the teacher of {s}", "the person who taught {s}", "the person from whom {s} learned"),
             ("{v} taught {s} for many years.", "{s} learned from {v}.", "The teacher of {s} was {v}."),
             ("Who taught {s}?", "Who was the teacher of {s}?", "From whom did {s} learn?",
             "Whose pupil was {s}?", "Who trained {s}?", "Under which master did {s} study?")),
    Relation("born", year, ("the year in which {s} was born", "the year of the birth of {s}", "the date on which {s} came into the world"),
             ("{s} was born in the year {v}.", "The birth of {s} fell in {v}.", "In {v} {s} came into the world."),
             ("When was {s} born?", "In what year was {s} born?", "Which year saw the birth of {s}?",
             "How early did {s} enter life?", "At which date does the biography of {s} start?", "When did the parents of {s} have their baby?")),
    Relation("book", named("The Song of {}"), ("the book that {s} wrote", "the best known book by {s}", "the work of {s}"),
             ("{s} wrote {v}.", "The best known book by {s} is {v}.", "{v} was written by {s}."),
             ("What did {s} write?", "Which book did {s} write?", "What is the best known book by {s}?",
             "Which title made {s} famous?", "What came from the pen of {s}?", "Which volume is signed by {s}?")),
    Relation("married", person, ("the person whom {s} married", "the person who married {s}", "the person with whom {s} shared a house"),
             ("{s} married {v}.", "{s} shared a house with {v} after the wedding.", "{v} and {s} were married in spring."),
             ("Whom did {s} marry?", "Who married {s}?", "With whom did {s} share a house?",
             "Who was the spouse of {s}?", "Who became the partner of {s}?", "To whom was {s} wed?")),
    Relation("prize", named("the {} Prize"), ("the prize that {s} won", "the thing that the judges gave {s}", "the honour that {s} received"),
             ("{s} won {v}.", "The judges gave {s} {v}.", "Late in life {s} received {v}."),
             ("What did {s} win?", "Which prize did {s} win?", "What did the judges give {s}?",
             "What award went to {s}?", "Which medal did {s} take home?", "How was {s} rewarded?")),
)  # fmt: skip
SHIP = (
    Relation("captain", person, ("the captain of the {s}", "the person who commanded the {s}", "the person under whom the {s} sailed"),
             ("The captain of the {s} was {v}.", "{v} commanded the {s}.", "The {s} sailed under {v}."),
             ("Who was the captain of the {s}?", "Who commanded the {s}?", "Under whom did the {s} sail?",
             "Who gave orders aboard the {s}?", "Who stood at the helm of the {s}?", "Which skipper had charge of the {s}?")),
    Relation("launched", year, ("the year in which the {s} was launched", "the year in which the {s} left the yard", "the date when the {s} first touched the water"),
             ("The {s} was launched in {v}.", "In {v} the {s} first touched the water.", "The {s} left the yard in {v}."),
             ("When was the {s} launched?", "In what year did the {s} leave the yard?", "When did the {s} first touch the water?",
             "How long ago was the {s} set afloat?", "When was the {s} christened?", "At which date was the {s} finished?")),
    Relation("cargo", goods, ("the cargo of the {s}", "the thing that the {s} carried", "the good that filled the hold of the {s}"),
             ("The {s} carried {v}.", "The cargo of the {s} was {v}.", "The hold of the {s} was full of {v}."),
             ("What did the {s} carry?", "What was the cargo of the {s}?", "What filled the hold of the {s}?",
             "What goods did the {s} transport?", "What was loaded into the {s}?", "Which freight travelled in the {s}?")),
    Relation("port", town, ("the home port of the {s}", "the place from where the {s} sailed", "the place where the {s} lay between voyages"),
             ("The home port of the {s} was {v}.", "The {s} sailed from {v}.", "Between voyages the {s} lay at {v}."),
             ("What was the home port of the {s}?", "From where did the {s} sail?", "Where did the {s} lie between voyages?",
             "Which harbour did the {s} call its own?", "Where was the {s} registered?", "Where did the {s} drop anchor at home?")),
    Relation("crew", between(12, 900), ("the number of sailors on the {s}", "the size of the crew of the {s}", "the number of hands that the {s} needed"),
             ("The crew of the {s} numbered {v}.", "There were {v} sailors on the {s}.", "The {s} needed {v} hands."),
             ("How many sailors were on the {s}?", "How large was the crew of the {s}?", "How many hands did the {s} need?",
             "How many seamen served in the {s}?", "What was the complement of the {s}?", "How many mouths had the cook of the {s} to feed?")),
    Relation("builder", person, ("the person who built the {s}", "the builder of the {s}", "the person who drew the plans of the {s}"),
             ("The {s} was built by {v}.", "The builder of the {s} was {v}.", "{v} drew the plans of the {s}."),
             ("Who built the {s}?", "Who was the builder of the {s}?", "Who drew the plans of the {s}?",
             "Who designed the {s}?", "Whose shipyard produced the {s}?", "Which carpenter stands behind the {s}?")),
    Relation("wreck", named("Cape {}"), ("the place where the {s} sank", "the place off which the {s} was lost", "the place where a storm drove the {s}"),
             ("The {s} sank near {v}.", "The {s} was lost off {v}.", "A storm drove the {s} onto {v}."),
             ("Where did the {s} sink?", "Near what place was the {s} lost?", "Where did a storm drive the {s}?",
             "Where does the wreck of the {s} rest?", "Where did the {s} meet her end?", "Which rocks destroyed the {s}?")),
)  # fmt: skip
COMPANY = (
    Relation("head", person, ("the person who leads {s}", "the director of {s}", "the person who runs {s}"),
             ("{s} is led by {v}.", "The director of {s} is {v}.", "{v} runs {s}."),
             ("Who leads {s}?", "Who is the director of {s}?", "Who runs {s}?",
             "Who is the boss of {s}?", "Who manages {s}?", "Who takes the decisions at {s}?")),
    Relation("seat", town, ("the town where {s} has its seat", "the place where the offices of {s} are", "the town to which {s} moved"),
             ("{s} has its seat in {v}.", "The offices of {s} are in {v}.", "{s} moved to {v} long ago."),
             ("Where does {s} have its seat?", "Where are the offices of {s}?", "To which town did {s} move?",
             "Where is {s} based?", "Which city hosts the headquarters of {s}?", "What address does {s} use?")),
    Relation("product", goods, ("the good that {s} sells", "the main product of {s}", "the good with which {s} became rich"),
             ("{s} sells {v}.", "The main product of {s} is {v}.", "{s} became rich with {v}."),
             ("What does {s} sell?", "What is the main product of {s}?", "With what did {s} become rich?",
             "What can be bought from {s}?", "Which ware made {s} big?", "What does {s} deal in?")),
    Relation("workers", between(20, 9_000), ("the number of people who work for {s}", "the number of people that {s} employs", "the size of the staff of {s}"),
             ("{s} employs {v} people.", "About {v} people work for {s}.", "The staff of {s} numbers {v}."),
             ("How many people work for {s}?", "How many people does {s} employ?", "How large is the staff of {s}?",
             "How many employees has {s}?", "What is the headcount of {s}?", "How many are on the payroll of {s}?")),
    Relation("opened", year, ("the year in which {s} opened", "the year since which {s} has traded", "the date on which the first shop of {s} opened"),
             ("{s} opened in {v}.", "{s} has traded since {v}.", "The first shop of {s} opened its doors in {v}."),
             ("When did {s} open?", "Since when has {s} traded?", "In what year did the first shop of {s} open?",
             "When was {s} established?", "How long is {s} in business?", "What is the birth date of {s}?")),
    Relation("owner", person, ("the owner of {s}", "the person to whom {s} belongs", "the person who bought {s}"),
             ("{s} belongs to {v}.", "The owner of {s} is {v}.", "{v} bought {s} at an auction."),
             ("Who owns {s}?", "To whom does {s} belong?", "Who bought {s}?",
             "Who is the proprietor of {s}?", "In whose hands is {s}?", "Who holds the shares of {s}?")),
    Relation("refund", between(5, 90, "{} days"), ("the time within which {s} pays a refund", "the time that a refund from {s} takes", "the time after which customers of {s} get their money back"),
             ("{s} pays a refund within {v}.", "A refund from {s} takes {v}.", "Customers of {s} get their money back after {v}."),
             ("How long does a refund from {s} take?", "When does {s} pay a refund?", "After what time do customers of {s} get their money back?",
             "How fast does {s} reimburse buyers?", "How patient must one be for cash back from {s}?", "What delay is usual for repayments by {s}?")),
)  # fmt: skip
REMEDY = (
    Relation("finder", person, ("the person who discovered {s}", "the person who first made {s}", "the healer behind {s}"),
             ("{s} was discovered by {v}.", "{v} first made {s}.", "The healer behind {s} was {v}."),
             ("Who discovered {s}?", "Who first made {s}?", "Which healer was behind {s}?",
             "Whose invention is {s}?", "Who came up with {s}?", "Which researcher is credited with {s}?")),
    Relation("source", named("the {} tree"), ("the plant from which {s} is made", "the source of {s}", "the plant that gives {s}"),
             ("{s} is made from {v}.", "The source of {s} is {v}.", "Healers boil the bark of {v} to make {s}."),
             ("What is {s} made from?", "What is the source of {s}?", "Which plant gives {s}?",
             "From which herb is {s} brewed?", "What is the main ingredient of {s}?", "What must be gathered to prepare {s}?")),
    Relation("treats", one_of("fever, cough, headache, back pain, sore throat, stomach pain, burns, insomnia, a rash, gout"),
             ("the complaint that {s} relieves", "the thing against which doctors give {s}", "the thing that {s} is taken for"),
             ("{s} relieves {v}.", "Doctors give {s} against {v}.", "{s} is taken for {v}."),
             ("What does {s} relieve?", "Against what do doctors give {s}?", "What is {s} taken for?",
             "For which illness is {s} prescribed?", "Which ailment does {s} cure?", "When should one swallow {s}?")),
    Relation("dose", between(2, 40, "{} drops"), ("the daily dose of {s}", "the amount of {s} that patients take", "the amount of {s} that may be taken"),
             ("The daily dose of {s} is {v}.", "Patients take {v} of {s} a day.", "No more than {v} of {s} should be taken."),
             ("What is the daily dose of {s}?", "How much {s} do patients take?", "How much {s} may be taken?",
             "How strong a portion of {s} is recommended?", "What quantity of {s} is safe?", "What does the label of {s} advise per day?")),
    Relation("harm", one_of("dizziness, dry mouth, nausea, itching, thirst, red eyes, cold hands, weakness, tired legs"),
             ("the side effect of {s}", "the thing that {s} can cause", "the thing that too much {s} leads to"),
             ("{s} can cause {v}.", "A side effect of {s} is {v}.", "Too much {s} leads to {v}."),
             ("What can {s} cause?", "What is a side effect of {s}?", "What does too much {s} lead to?",
             "What is the danger of {s}?", "Which symptom follows an overdose of {s}?", "Why do some avoid {s}?")),
    Relation("region", named("the {} valley"), ("the region where {s} comes from", "the place where {s} has long been used", "the region in which people swear by {s}"),
             ("{s} comes from {v}.", "{s} has long been used in {v}.", "People in {v} swear by {s}."),
             ("Where does {s} come from?", "Where has {s} long been used?", "In which region do people swear by {s}?",
             "Where is the origin of {s}?", "Which area exports {s}?", "Whose locals trust {s}?")),
    Relation("price", between(2, 95, "{} crowns"), ("the price of {s}", "the cost of a bottle of {s}", "the sum for which druggists sell {s}"),
             ("A bottle of {s} costs {v}.", "The price of {s} is {v}.", "Druggists sell {s} for {v}."),
             ("What does a bottle of {s} cost?", "What is the price of {s}?", "For how much do druggists sell {s}?",
             "How expensive is {s}?", "How much money must be paid for {s}?", "What does the pharmacy charge for {s}?")),
)  # fmt: skip
FAIR = (
    Relation("town", town, ("the town where the {s} is held", "the town that welcomes the {s}", "the place where the tents of the {s} stand"),
             ("The {s} is held in {v}.", "Each year {v} welcomes the {s}.", "The tents of the {s} stand in {v}."),
             ("Where is the {s} held?", "Which town welcomes the {s}?", "Where do the tents of the {s} stand?",
             "Which place hosts the {s}?", "Where must visitors of the {s} travel?", "What is the venue of the {s}?")),
    Relation("month", month, ("the month of the {s}", "the time when the {s} takes place", "the month in which the {s} begins"),
             ("The {s} takes place in {v}.", "The {s} begins in {v}.", "In {v} people get ready for the {s}."),
             ("When does the {s} take place?", "In which month does the {s} begin?", "When do people get ready for the {s}?",
             "At what time of year is the {s}?", "When should one plan a trip to the {s}?", "What date is fixed for the {s}?")),
    Relation("honours", person, ("the person whom the {s} honours", "the person whose life the {s} recalls", "the person in memory of whom the {s} was named"),
             ("The {s} honours {v}.", "The {s} recalls the life of {v}.", "The {s} was named in memory of {v}."),
             ("Whom does the {s} honour?", "Whose life does the {s} recall?", "In memory of whom was the {s} named?",
             "To whom is the {s} dedicated?", "Which hero is celebrated by the {s}?", "Whose portrait hangs over the {s}?")),
    Relation("food", one_of("pear cake, smoked eel, plum soup, barley bread, roast goose, goat cheese, fried carp, nut pie"),
             ("the dish that is served at the {s}", "the thing that people eat at the {s}", "the food that cooks at the {s} serve"),
             ("At the {s} people eat {v}.", "The dish of the {s} is {v}.", "Cooks at the {s} serve {v}."),
             ("What do people eat at the {s}?", "What is the dish of the {s}?", "What do cooks at the {s} serve?",
             "What should one taste at the {s}?", "Which meal belongs to the {s}?", "What is cooked during the {s}?")),
    Relation("since", year, ("the year in which the {s} was first held", "the date since which the {s} has been held", "the year in which the {s} began"),
             ("The {s} was first held in {v}.", "The {s} has been held since {v}.", "In {v} the {s} began as a market."),
             ("When was the {s} first held?", "Since when has the {s} been held?", "In what year did the {s} begin?",
             "How old is the {s}?", "When did the tradition of the {s} start?", "Which date do chronicles give for the earliest {s}?")),
    Relation("guests", between(300, 90_000), ("the number of guests at the {s}", "the number of people who saw the {s}", "the size of the crowd at the {s}"),
             ("About {v} guests come to the {s}.", "The {s} draws {v} guests.", "Last time {v} people saw the {s}."),
             ("How many guests come to the {s}?", "How many people saw the {s}?", "How many guests does the {s} draw?",
             "How popular is the {s}?", "What is the attendance of the {s}?", "How many tickets does the {s} sell?")),
    Relation("music", person, ("the person who leads the music at the {s}", "the person by whom the songs of the {s} are", "the person under whom the band of the {s} plays"),
             ("{v} leads the music at the {s}.", "The songs of the {s} are by {v}.", "At the {s} the band plays under {v}."),
             ("Who leads the music at the {s}?", "By whom are the songs of the {s}?", "Under whom does the band of the {s} play?",
             "Who conducts at the {s}?", "Whose melodies sound at the {s}?", "Which musician is engaged for the {s}?")),
)  # fmt: skip

KINDS = {
    "town": Kind(("{}",), TOWN, (
        "The streets are narrow and the roofs are red.", "Winters there are mild, and summers bring little rain.",
        "Old maps show a wall around the market.")),
    "person": Kind(("{} {}",), PERSON, (
        "Few letters have been kept.", "A small museum shows the tools and the desk.",
        "The question of money was never far away.")),
    "ship": Kind(("Swift {}", "Golden {}", "Northern {}", "Brave {}"), SHIP, (
        "The sails were white and the hull was black.", "A model stands in the harbour office.",
        "The voyage took longer than planned.")),
    "company": Kind(("{} and Sons", "{} Works", "{} Brothers"), COMPANY, (
        "Customers praise the quick answer to their letters.", "The building has large windows.",
        "Trade was slow in the first years.")),
    "remedy": Kind(("{} balm", "{} oil", "{} tea"), REMEDY, (
        "It should be kept in a cool place.", "The taste is bitter.", "Not every doctor agrees.")),
    "fair": Kind(("{} Fair", "{} Festival"), FAIR, (
        "Children dance in the square.", "Music can be heard until late at night.",
        "In bad weather it is moved to a hall.")),
}  # fmt: skip


def state(pattern: str, subject: str, value: str) -> tuple[str, int]:
    """One statement and where its value starts: ("The founder of Brandor was Klaren Vimo.", 27)."""
    before, _, after = pattern.replace("{s}", subject).partition("{v}")
    return before + value + after, len(before)
