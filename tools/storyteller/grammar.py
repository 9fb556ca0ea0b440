"""The storyteller's corpus: a seeded grammar that yields documents with the exact cost of each choice.

A `Document` is a chat (or one raw tale) together with its `bits`: the sum of -log2 p over every random
choice of its derivation. Two derivations may give one string, so the bits bound the string's own
information from above; a model cannot be expected below the string's, nor need it reach the bound.
Choices of a turn are counted on that turn, so answers and prompts can be told apart.

Training never holds a (name, place, object) triple for which `held_out` is true; evaluation uses only
those. Every document is a function of (seed, index) alone. Callers: train_storyteller.py and
measure_storyteller.py.
"""

import hashlib
import math
import random
import re
from dataclasses import dataclass, field

from . import lexicon, sentences

LISTS = {**lexicon.LEX, **sentences.RULES}
HELD_OUT_SHARE = 0.05
INVENTED_SHARE = 1 / 3
_TOKEN = re.compile(r"[\[\]|]|<[a-z_]+>|\{[a-z]+\}|[^\[\]|<{]+")


@dataclass
class Turn:
    """One message; `bits` is what its own random choices cost."""

    role: str
    content: str
    bits: float


@dataclass
class Topic:
    """What a tale is about. `place_core` and `object_core` carry no article."""

    name: str
    pronoun: str
    place: str
    place_core: str
    object_core: str
    object_noun: str

    @property
    def key(self):
        return (self.name, self.place_core, self.object_core)


@dataclass
class Document:
    """A chat, or a raw text when its only turn has the role `text`; topics in the order asked for."""

    turns: list = field(default_factory=list)
    topics: list = field(default_factory=list)

    @property
    def messages(self):
        return [{"role": t.role, "content": t.content} for t in self.turns]


def held_out(key):
    """Whether the triple is kept from training: a fixed 1 in 20 of them by hash."""
    digest = hashlib.sha256("|".join(key).lower().encode()).digest()
    return int.from_bytes(digest[:4], "little") < HELD_OUT_SHARE * 2**32


def contains_topic(text, topic):
    """The evaluation's check: name, place and object, each without article, occur literally as whole
    words, ignoring case."""
    low = text.lower()
    return tuple(re.search(r"(?<![\w-])" + re.escape(core.lower()) + r"(?![\w-])", low) is not None
                 for core in topic.key)


# ------------------------------------------------------------------------------ templates

def _parse(tokens, nested):
    """Turns template tokens into a sequence of ('s', text), ('v', name), ('r', rule), ('c', branches)."""
    branches, seq = [], []
    for tok in tokens:
        if tok == "[":
            seq.append(("c", _parse(tokens, True)))
        elif tok == "|" and nested:
            branches.append(seq)
            seq = []
        elif tok == "]":
            return branches + [seq]
        elif tok[0] == "<":
            seq.append(("r", tok[1:-1]))
        elif tok[0] == "{":
            seq.append(("v", tok[1:-1]))
        else:
            seq.append(("s", tok))
    if nested:
        raise ValueError("unclosed [ in a template")
    return seq


_PARSED = {rule: [_parse(iter(_TOKEN.findall(entry)), False) for entry in entries]
           for rule, entries in LISTS.items()}
_VOWEL = re.compile(r"\b([Aa]) (?=[aeiouAEIOU]|hour|honest)(?!one\b)")
_START = re.compile(r"(^|[.!?]\"? |(?:^| )\")([a-z])")


def tidy(text):
    """Single spaces, `an` before vowels, a capital at each sentence and quotation start."""
    text = re.sub(r" +", " ", text).strip()
    text = _VOWEL.sub(r"\1n ", text)
    return _START.sub(lambda m: m.group(1) + m.group(2).upper(), text)


class Dice:
    """Makes random choices and keeps the account of what they cost."""

    def __init__(self, seed, index):
        self.rng = random.Random(f"storyteller {seed} {index}")
        self.bits = 0.0

    def pick(self, options):
        """One of `options`, uniformly."""
        self.bits += math.log2(len(options))
        return options[int(self.rng.random() * len(options))]

    def chance(self, p):
        """True with probability p."""
        hit = self.rng.random() < p
        self.bits -= math.log2(p if hit else 1 - p)
        return hit

    def weighted(self, options):
        """A key of the dict `options`, in proportion to its value."""
        total, at = sum(options.values()), self.rng.random()
        for key, weight in options.items():
            at -= weight / total
            if at < 0:
                break
        self.bits -= math.log2(options[key] / total)
        return key

    def take_bits(self):
        """The bits since the last call."""
        bits, self.bits = self.bits, 0.0
        return bits

    def _walk(self, seq, env, out):
        for kind, value in seq:
            if kind == "s":
                out.append(value)
            elif kind == "v":
                out.append(env[value])
            else:
                self._walk(self.pick(value if kind == "c" else _PARSED[value]), env, out)

    def expand(self, rule, env):
        """A tidied text of the rule."""
        out = []
        self._walk(self.pick(_PARSED[rule]), env, out)
        return tidy("".join(out))


# --------------------------------------------------------------------------------- topics

def _invented_name(dice, female):
    name = dice.pick(lexicon.NAME_HEADS)
    if dice.chance(0.5):
        name += dice.pick(lexicon.NAME_MIDS) + dice.pick(lexicon.NAME_VOWELS)
    return name + dice.pick(lexicon.SHE_TAILS if female else lexicon.HE_TAILS)


def person(dice):
    """(name, 'she' or 'he'): one of the listed names, or one made of syllables."""
    female = dice.chance(0.5)
    if dice.chance(INVENTED_SHARE):
        name = _invented_name(dice, female)
    else:
        name = dice.pick(lexicon.SHE_NAMES if female else lexicon.HE_NAMES)
    return name, "she" if female else "he"


def town(dice):
    """A town's name made of two parts."""
    return dice.pick(lexicon.TOWN_HEADS) + dice.pick(lexicon.TOWN_TAILS)


def place(dice):
    """(with article, without): 'the old lighthouse', 'the bakery' or a town."""
    kind = dice.weighted({"plain": 0.35, "adjective": 0.55, "town": 0.10})
    if kind == "town":
        name = town(dice)
        return name, name
    core = dice.pick(lexicon.PLACE_NOUNS)
    if kind == "adjective":
        core = dice.pick(lexicon.PLACE_ADJS) + " " + core
    return "the " + core, core


def thing(dice):
    """(object without article, its noun): ('brass compass', 'compass') or the noun twice."""
    noun = dice.pick(lexicon.OBJECT_NOUNS)
    return (dice.pick(lexicon.OBJECT_ADJS) + " " + noun if dice.chance(0.65) else noun), noun


def topic(dice, want_held_out):
    """A topic on the asked-for side of the hold-out; the rejected draws are not charged."""
    while True:
        before = dice.bits
        name, pronoun = person(dice)
        with_article, place_core = place(dice)
        drawn = Topic(name, pronoun, with_article, place_core, *thing(dice))
        if held_out(drawn.key) == want_held_out:
            return drawn
        dice.bits = before


def _topic_env(dice, about):
    """Template variables of one topic."""
    them, their = ("her", "her") if about.pronoun == "she" else ("him", "his")
    return {"n": about.name, "they": about.pronoun, "them": them, "their": their, "p": about.place,
            "pc": about.place_core, "o": about.object_core, "on": about.object_noun}


def _cast(dice):
    """The tale's minor parts, charged to the turn that tells it."""
    helper = dice.pick(LISTS["aadj"]) + " " + dice.pick(LISTS["animal"])
    return {"h": helper, "k": dice.pick(LISTS["kin"]), "w": town(dice)}


# ------------------------------------------------------------------------------ documents

def _say(doc, dice, role, rule, env):
    doc.turns.append(Turn(role, dice.expand(rule, env), 0.0))
    doc.turns[-1].bits = dice.take_bits()


def _tale_exchange(doc, dice, want, first):
    """A request, its tale and sometimes a question about it."""
    about = topic(dice, want)
    env = _topic_env(dice, about)
    full = dice.weighted({"ask_tale": 0.8, "ask_two": 0.06, "ask_name": 0.06, "ask_any": 0.08})
    lead = "" if first else dice.expand("again", env)
    request = tidy(f"{lead} {dice.expand(full, env)}")
    doc.turns.append(Turn("user", request, dice.take_bits()))
    env |= _cast(dice)
    _say(doc, dice, "assistant", "tales", env)
    if full == "ask_tale":
        doc.topics.append(about)
    if dice.chance(0.15):
        _say(doc, dice, "user", "follow_q", env)
        _say(doc, dice, "assistant", "follow_a", env)


def _tales(doc, dice, want, count):
    if dice.chance(0.3):
        _say(doc, dice, "system", "sys_tale", {})
    for index in range(count):
        _tale_exchange(doc, dice, want, index == 0)


def _inn_topic(doc, dice, want, env):
    """A question about a topic and up to three that follow it."""
    about = topic(dice, want)
    env = env | _topic_env(dice, about) | {"k": dice.pick(LISTS["kin"])}
    doc.topics.append(about)
    for kind in ("rumour", "who", "place", "object"):
        if kind == "rumour" or dice.chance(0.35):
            _say(doc, dice, "user", kind + "_q", env)
            _say(doc, dice, "assistant", kind + "_a", env)


def _inn(doc, dice, want, topics):
    """A guest and an innkeeper: greeting, trade and rumours in varying order, farewell."""
    env = {"i": person(dice)[0], "g": person(dice)[0], "w": town(dice), "k": dice.pick(LISTS["kin"])}
    env["inn"] = "the" + dice.expand("inn", {}).removeprefix("The")
    _say(doc, dice, "system", "sys", env)
    parts = [("hello", 0.5), ("room", 0.3), ("food", 0.3)] + [("topic", 1)] * topics + [("news", 0.2), ("bye", 0.3)]
    for kind, share in parts:
        if kind == "topic":
            _inn_topic(doc, dice, want, env)
        elif dice.chance(share):
            _say(doc, dice, "user", kind + "_q", env)
            _say(doc, dice, "assistant", kind + "_a", env)


def _raw(doc, dice, want):
    """A tale without any request."""
    about = topic(dice, want)
    doc.topics.append(about)
    _say(doc, dice, "text", "raw_tales", _topic_env(dice, about) | _cast(dice))


def document(seed, index, want_held_out=False, kind=None):
    """Document `index` of the corpus `seed`. `kind`: tale, tales, inn, raw, long_tales, long_inn, or
    None for the training mixture of the first four."""
    dice, doc = Dice(seed, index), Document()
    kind = kind or dice.weighted({"tale": 0.55, "tales": 0.05, "inn": 0.27, "raw": 0.13})
    if kind == "tale":
        _tales(doc, dice, want_held_out, 1)
    elif kind == "tales":
        _tales(doc, dice, want_held_out, 2)
    elif kind == "long_tales":
        _tales(doc, dice, want_held_out, 13)
    elif kind == "inn":
        _inn(doc, dice, want_held_out, 1)
    elif kind == "long_inn":
        _inn(doc, dice, want_held_out, 21)
    else:
        _raw(doc, dice, want_held_out)
    return doc
