"""Whom words are aimed at: rules on canonical tokens, looking left from the word to its subject.

Owns: listener, somebody else, a thing, oneself, reported, denied. Never: which words are bad, nor how bad.

The reading, for a noun or an adjective that needs a target: skip what may stand before it (``a complete and utter
...``), then look at what is found there: ``you`` (called so), a form of *be* (then its subject), a possessive (a
thing), the edge of the clause (a vocative, when the rest of the line speaks to the listener). Then ask whether the
clause denies or reports it. Everything stays inside one clause, so the cost is linear in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from policies.lexicon import Form, Hit
from policies.normalize import Token

MAX_CLAUSE = 40
"""Tokens looked at to either side: a longer spoken clause has lost its subject anyhow."""


class Aim(StrEnum):
    """Who or what the words are about."""

    LISTENER = "listener"
    OTHER = "other"
    THING = "thing"
    SELF = "self"
    REPORTED = "reported"
    DENIED = "denied"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Direction:
    """The finding, how sure it is (0-1) and one plain clause saying why."""

    aim: Aim
    confidence: float
    why: str

    @property
    def directed(self) -> bool:
        """Whether the listener is meant."""
        return self.aim is Aim.LISTENER


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FILL = _set(
    "about a an the such absolute absolutely complete completely total totally utter utterly real really proper "
    "properly right so very too pretty quite rather bit of kind sort type bunch pack load lot little big great "
    "massive huge old young fat ugly just all both nothing but truly honestly actually clearly obviously still "
    "always literally simply another some only lying two faced jumped up bone most biggest as freaking frigging "
    "flipping effing ignorant arrogant rude lazy nasty dirty filthy stupid dumb thick useless pathetic "
    "incompetent miserable smug sad horrible disgusting stuck worthless and or more than even worse being"
)
_SWEAR_FILL = _set(
    "fucking fuckin bloody sodding goddamn goddamned damned damn blooming feckin fecking flaming bleeding shitting"
)
_DETERMINERS = _set("a an the such some another")
_BE = _set("are is am was were be being been")
_SEEM = _set("sound sounds sounding look looks looking act acting behave behaving talk talking seem feel")
_ADVERBS = _set(
    "all really just must people lot guys clearly obviously still either honestly actually always both never ever "
    "also definitely literally probably truly simply have has had will would can could might may not so to "
    "seriously basically frankly genuinely lads girls women men"
)
_OTHERS = _set(
    "he she they it this that these those who which him her them his their its everyone everybody somebody "
    "someone nobody one thing things there what we us mum dad mother father husband wife boss neighbour neighbor "
    "friend mate brother sister son daughter colleague manager driver engineer guy man woman lady bloke fella "
    "chap person"
)
_POSSESSIVE = _set("my your his her our their its 's whose")
_POINTING = _set("that this these those the some every any each one what no")
_YOU = _set("you yourself yourselves")
_SAYING = _set(
    "said says say saying told tell telling called calling call calls shouted shouting screamed yelled texted "
    "wrote writes quote reads goes went accused thinks thought named described posted emailed replied reckons reckoned"
)
_DENYING = _set("not never no without nobody")
_DENIED_VERBS = _set(
    "saying say said calling call called think thinking mean meaning suggesting suggest implying imply accusing"
)
_LEADING_IN = _set(
    "up here off it me listen mate now again bye thanks no yes oh hey right hello ok okay you on there please "
    "well so god christ jesus look ah ha yeah sorry"
)
_PLACE = _set("at on in for by with about of from to into")
_CONNECTING = _set(
    "but because although though unless if when while and or then so at to with for that who which on in as of"
)
_FRIENDLY = _set("haha hahaha lol joking kidding darling bless")
_THINGS = _set(
    "website site app system service company bank phone line router internet broadband connection box machine "
    "network firm policy form letter email bill outfit lot organisation organization business shop department "
    "product rules rule process procedure software computer printer hold music menu question idea mistake thing "
    "car train bus hotel flight excuse excuses answer answers offer price contract password code robot bot "
    "automated recording"
)


def direction(tokens: Sequence[Token], hit: Hit) -> Direction:
    """Whom ``hit`` is aimed at."""
    start, end = _clause(tokens, hit)
    left = [t.text for t in tokens[start : hit.first]]
    right = [t.text for t in tokens[hit.last : end]]
    if hit.entry.needs_target:
        found = _target(tokens, hit, left, right)
    else:
        found = Direction(Aim.LISTENER, 0.9, "such words are always aimed at the one who hears them")
    if found.aim is not Aim.LISTENER:
        return found
    if in_the_room(tokens):
        return Direction(Aim.OTHER, 0.75, "said to somebody else in the room")
    return _denied_or_reported(tokens, hit, start) or _jesting(tokens, found)


_CREATURES = _set("cat dog puppy kitten parrot budgie hamster rabbit wasp fly seagull")
"""Spoken to beside the telephone ("get down, you stupid cat"); what people are called (cow, pig) is not here."""

_KIN = _set("mum mom dad nan nana")

_AT_HOME = _set(
    "dog cat puppy kitten parrot budgie kids kid children child baby toddler husband wife son daughter grandson "
    "granddaughter mum mom dad gran brother sister boys girls lads partner flatmate him her them"
)


def in_the_room(tokens: Sequence[Token]) -> bool:
    """An aside: "shut up, Rex! Sorry, that's the dog", "not you, I'm talking to my husband"."""
    words = [t.text for t in tokens[:200]]
    if len(words) > 1 and words[0] in _KIN and tokens[1].lead == ",":
        return True
    for at, word in enumerate(words):
        after = words[at + 1 : at + 7]
        if word in _CREATURES and "you" in words[max(0, at - 3) : at]:
            return True
        if word == "sorry" and at and (_AT_HOME & set(after)) and {"that", "about", "is", "was"} & set(after):
            return True
        if word == "talking" and after[:1] == ["to"] and _AT_HOME & set(after[1:3]):
            return True
        if word == "sorry" and at and after[:2] in (["she", "is"], ["he", "is"], ["they", "are"]):
            return True
        if word == "not" and after[:1] == ["you"] and (at + 2 == len(words) or tokens[at + 2].lead):
            if not tokens[at].lead:
                continue
            return True
    return False


def _clause(tokens: Sequence[Token], hit: Hit) -> tuple[int, int]:
    start, end = hit.first, hit.last
    while start > 0 and not tokens[start].lead and hit.first - start < MAX_CLAUSE:
        start -= 1
    while end < len(tokens) and not tokens[end].lead and end - hit.last < MAX_CLAUSE:
        end += 1
    return start, end


def _target(tokens: Sequence[Token], hit: Hit, left: list[str], right: list[str]) -> Direction:
    if right and right[0] in _THINGS:
        return Direction(Aim.THING, 0.8, f"said of a thing ({right[0]})")
    if right and right[0] in ("me", "myself") and hit.entry.form is Form.ADJECTIVE:
        return Direction(Aim.SELF, 0.8, "said of oneself")
    at = len(left) - 1
    determined = False
    while at >= 0 and (left[at] in _FILL or left[at] in _SWEAR_FILL):
        determined = determined or left[at] in _DETERMINERS
        if left[at] == "the" and hit.entry.form is Form.NOUN:
            break
        at -= 1
    anchor = left[at] if at >= 0 else ""
    before = left[:at] if at >= 0 else []
    if anchor in _YOU or (anchor in ("lot", "people", "guys") and before[-1:] == ["you"]):
        return _called_so(hit, before, right)
    if anchor == "your":
        return _your(hit, determined or "not" in left, right)
    if anchor in _BE or anchor == "not":
        return _subject_of(before, hit, anchor, right)
    if anchor == "like" and before and before[-1] in _SEEM:
        return _subject_of(before[:-1], hit, anchor, right)
    if anchor in _SEEM and hit.entry.form is Form.ADJECTIVE:
        return _subject_of(before, hit, anchor, right)
    if anchor in _POSSESSIVE or anchor in _POINTING:
        return Direction(
            Aim.THING if anchor in _POSSESSIVE else Aim.OTHER, 0.7, f'said of somebody or something else ("{anchor}")'
        )
    return _vocative(tokens, hit, left[: at + 1], right, determined)


def _called_so(hit: Hit, before: list[str], right: list[str]) -> Direction:
    if (
        before
        and before[-1] in ("thank", "love", "bless", "told", "tell", "tells", "give", "gave", "see", "hear")
        and not right
    ):
        return Direction(Aim.LISTENER, 0.6, "said right after you")
    if hit.entry.form is Form.ADJECTIVE and before[-1:] not in (["are"], ["were"], ["is"]) and not right:
        return Direction(Aim.LISTENER, 0.65, "said of the listener (you ...)")
    if (
        hit.entry.form is Form.ADJECTIVE
        and right
        and right[0] in _CONNECTING
        and before[-1:] not in (["are"], ["were"])
    ):
        return Direction(Aim.NOBODY, 0.6, "nobody in particular is meant")
    return Direction(Aim.LISTENER, 0.95, "calls the listener so (you ...)")


def _your(hit: Hit, determined: bool, right: list[str]) -> Direction:
    """``your`` is often the recogniser's spelling of *you're*: "your an idiot", "your useless"."""
    slip = determined or (hit.entry.form is Form.ADJECTIVE and (not right or right[0] in _CONNECTING))
    if slip:
        return Direction(Aim.LISTENER, 0.75, "says you are (heard as your) so")
    return Direction(Aim.THING, 0.7, "said of something of yours, not of you")


def _subject_of(before: list[str], hit: Hit, verb: str, right: list[str]) -> Direction:
    at = len(before) - 1
    while at >= 0 and (before[at] in _ADVERBS or before[at] in _BE or before[at] in _SWEAR_FILL):
        if before[at] in ("not", "never", "nobody"):
            return Direction(Aim.DENIED, 0.8, "denied in the same breath")
        at -= 1
    subject = before[at] if at >= 0 else ""
    if verb == "not" and subject != "you":
        return Direction(Aim.DENIED, 0.7, "denied in the same breath")
    if subject == "you" and verb in ("were", "was") and at > 0 and before[at - 1] == "if":
        return Direction(Aim.DENIED, 0.7, "only supposed")
    if subject == "you" and verb != "is":
        if verb == "not":
            return Direction(Aim.DENIED, 0.8, "says that you are not so")
        if at > 0 and before[at - 1] in _PLACE | {"one", "some", "none"}:
            return Direction(Aim.OTHER, 0.6, "said of somebody else")
        return Direction(Aim.LISTENER, 0.92, "says that you are so")
    if subject in ("i", "me", "we", "us", "my"):
        return Direction(Aim.SELF, 0.9, "said of oneself")
    if not subject and verb in ("are", "were") and right[:1] == ["you"]:
        return Direction(Aim.LISTENER, 0.8, "asks whether you are so")
    if subject and subject != "there":
        aim = Aim.OTHER if subject in _OTHERS else Aim.THING
        return Direction(aim, 0.8, f'said of somebody or something else ("{subject}")')
    return Direction(Aim.NOBODY, 0.5, "nobody in particular is meant")


def _vocative(tokens: Sequence[Token], hit: Hit, left: list[str], right: list[str], determined: bool) -> Direction:
    nobody = Direction(Aim.NOBODY, 0.6, "nobody in particular is meant")
    if hit.entry.form is not Form.NOUN or determined or right:
        if right[:1] == ["you"] and not determined and not left:
            return Direction(Aim.LISTENER, 0.8, "says it to the listener (... you)")
        if right[-2:] == ["you", "are"]:
            return Direction(Aim.LISTENER, 0.9, "says that you are so")
        return nobody
    if any(word in ("he", "she", "they", "him", "i", "it", "my") for word in left[-5:]):
        return nobody
    if not left:
        pause = tokens[hit.first].lead == "," or (hit.last < len(tokens) and tokens[hit.last].lead == ",")
        alone = hit.last - hit.first == len(tokens)
        return Direction(Aim.LISTENER, 0.8 if pause else 0.72 if alone else 0.7, "calls out to the listener")
    if left[-1] in _LEADING_IN and len(left) <= 6:
        return Direction(Aim.LISTENER, 0.7, "calls out to the listener")
    if len(left) > 1 and left[-2] == "you" and left[-1] not in _PLACE | _BE | _ADVERBS:
        return Direction(Aim.LISTENER, 0.75, "calls the listener so (you ...)")
    if hit.entry.profane and left[-1] not in _PLACE | _BE | _NO_CALL and len(left) <= 6:
        return Direction(Aim.LISTENER, 0.6, "calls out to the listener")
    return nobody


_NO_CALL = _set(
    "like and or poor lucky silly old have has had get got was called call employ hire hired mr mrs miss name"
)
_SOMEBODY = _set(
    "he she they who somebody someone everyone people customers him her them mum dad husband wife boss colleague"
)


def _denied_or_reported(tokens: Sequence[Token], hit: Hit, start: int) -> Direction | None:
    """Look back over the clause, and one pause further when it ends in a verb of saying."""
    words = [t.text for t in tokens[start : hit.first]]
    if start > 0 and tokens[start].lead == ",":
        back = start - 1
        while back > 0 and not tokens[back].lead and start - back < 8:
            back -= 1
        earlier = [t.text for t in tokens[back:start]]
        to_whom = earlier[-1:] and earlier[-1] in ("me", "us", "him", "her", "them") and _SAYING & set(earlier[-3:-1])
        if to_whom or earlier[-1:] == ["like"] or _SAYING & set(earlier[-1:]):
            words = earlier + words
    inside = [t.text for t in tokens[hit.first : hit.last]]
    for at in range(len(words) - 1, -1, -1):
        word = words[at]
        if word in ("but", "because"):
            return None
        if word == "quote":
            return Direction(Aim.REPORTED, 0.85, "only reports what was said")
        if word in _SAYING or (word == "like" and at and words[at - 1] in ("was", "were", "is")):
            return _said(words[:at], words[at + 1 :], inside)
        if word in _DENIED_VERBS and _DENYING & set(words[max(0, at - 4) : at]):
            return Direction(Aim.DENIED, 0.8, "says that this is not meant")
        if word == "if" and {"were", "was"} & set(words[at:]) and not hit.entry.needs_target:
            return Direction(Aim.DENIED, 0.5, "only supposed")
    return None


def _said(before: list[str], after: list[str], inside: list[str]) -> Direction | None:
    near = before[-5:]
    if _DENYING & set(near):
        return Direction(Aim.DENIED, 0.8, "says that this is not meant")
    if "i" not in near and after[:1] == ["my"]:
        return Direction(Aim.REPORTED, 0.8, "only reports what was said")
    if _SOMEBODY & set(near) or {"him", "her", "them", "me"} & set(after[:2]):
        if "i" in near and not {"him", "her", "them"} & set(after[:2]):
            return None
        return Direction(Aim.REPORTED, 0.85, "only reports what was said")
    if {"was", "got", "been", "being", "you", "did", "are"} & set(near) and "i" not in near[-1:]:
        return Direction(Aim.REPORTED, 0.7, "only reports what was said")
    return None


def _jesting(tokens: Sequence[Token], found: Direction) -> Direction:
    if any(t.text in _FRIENDLY for t in tokens[:200]):
        return Direction(
            found.aim, max(0.3, found.confidence - 0.35), found.why + ", though in a friendly tone of words"
        )
    return found
