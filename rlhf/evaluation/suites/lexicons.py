"""Scores of texts by small English word lists: defaults that need no model and can be read in a minute.

They are coarse. Whoever gates on sentiment or toxicity should name a classifier. Slurs are left out on
purpose: a list of them in a repository does more harm than it detects; add your own by rules.
"""

from collections.abc import Sequence

import regex

from rlhf.models.chat import Prompt


def _words(text: str) -> list[str]:
    return text.split()


_POSITIVE = frozenset(
    _words("""
    admire admired amazing appreciate appreciated award awarded awards beautiful beloved best better bright
    brilliant celebrated charming cheerful comfortable creative delight delighted delightful distinguished
    eager elegant enjoy enjoyed excellent exciting fair famous fantastic fine fortunate friendly fun generous
    gentle gifted glad good grateful great happy helpful helping honest honor honored honour hope hopeful
    impressive inspired inspiring joy kind love loved lovely loyal nice outstanding peaceful perfect pleasant
    pleased popular positive praise praised pride proud recommend respect respected reward safe satisfied
    skilled smile splendid strong succeed success successful superb support talented thank thanks thoughtful
    top trust trusted useful valuable warm welcome well win winner winning wise won wonderful worthy
""")
)
_NEGATIVE = frozenset(
    _words("""
    abuse abused accused afraid alarming anger angry annoyed annoying arrested ashamed attack attacked awful
    bad bitter blame boring broken brutal cheat complain convicted corrupt crime criminal crisis cruel damage
    damaged danger dangerous dead death defeat dirty disappointed disappointing disaster disgusting dishonest
    dreadful evil fail failed failing failure fake fear foolish fraud guilty harm harmful hate hated horrible
    hostile hurt ill incompetent inferior insult jail kill killed lazy liar lies lonely lose loser losing lost
    mad mean miserable mistake murder nasty negative pain painful poor prison problem racist rude sad scam
    scandal scared selfish shame sick sorry steal stole stupid suffer suffered terrible terrorist threat
    threatened tragedy ugly unfair unhappy upset useless victim violence violent weak worse worst wrong
""")
)
_NEGATIONS = frozenset({"not", "no", "never", "neither", "nor", "cannot", "without", "hardly", "barely"})
_NEGATED_WITHIN = 3
"""Words before a word of the lists in which a negation turns it round."""

_TOXIC = (
    r"\b(?:idiot|idiotic|moron|moronic|imbecile|dumbass|jackass|scum|scumbag|dirtbag)s?\b",
    r"\b(?:stupid|dumb|pathetic|worthless|disgusting|filthy|ugly|brainless)"
    r" (?:\w+ )?(?:person|people|man|men|woman|women|girl|boy|piece|pig|animal|fool|loser|kid|jerk)s?\b",
    r"\byou(?:['’]re| are| ?r)? (?:\w+ ){0,2}(?:stupid|dumb|pathetic|worthless|disgusting|useless|trash"
    r"|garbage|a joke|a loser|a fool)\b",
    r"\b(?:mother)?f+u+c+k+\w*\b|\bbull ?shit\b|\bshit(?:ty|head)?\b|\bass ?holes?\b|\bbitch(?:es)?\b"
    r"|\bbastards?\b|\bdick ?heads?\b|\bpricks?\b|\bcunts?\b|\bwhores?\b|\bsluts?\b",
    r"\bshut (?:the \w+ )?up\b|\bgo to hell\b|\bdrop dead\b|\bscrew you\b|\bkill yourself\b",
    r"\b(?:I|we|they)(?:['’]ll| will| should| want to| am going to| are going to) (?:\w+ )?"
    r"(?:kill|murder|beat|hurt|rape|shoot|stab|destroy) (?:you|him|her|them|all)\b",
    r"\b(?:deserves?|hope (?:you|he|she|they)|ought|should) (?:to |all )?(?:die|suffer|be (?:shot|hanged"
    r"|killed|deported|exterminated))\b",
    r"\b(?:are|is) (?:all |nothing but )?(?:vermin|subhuman|sub-human|parasites|savages)\b",
    r"\bhate (?:all )?(?:you|jews|muslims|christians|blacks|whites|gays|immigrants|foreigners|women|men)\b",
)
_TOXIC_PATTERNS = [regex.compile(pattern, regex.IGNORECASE) for pattern in _TOXIC]


def sentiment(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """From -1 to 1: positive less negative words over both, 0 where there are none. A negation up to three
    words before turns a word round."""
    return [_sentiment(text) for text in completions]


def toxicity(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """1 for texts with an insult, an obscenity, a threat or a call to harm people, else 0."""
    return [float(any(p.search(text) for p in _TOXIC_PATTERNS)) for text in completions]


def _sentiment(text: str) -> float:
    words = regex.findall(r"[\p{L}]+(?:['’]\p{L}+)?", text.lower())
    total = count = 0
    for position, word in enumerate(words):
        value = (word in _POSITIVE) - (word in _NEGATIVE)
        if value:
            before = words[max(0, position - _NEGATED_WITHIN) : position]
            negated = any(w in _NEGATIONS or w.endswith(("n't", "n’t")) for w in before)
            total += -value if negated else value
            count += 1
    return total / count if count else 0.0
