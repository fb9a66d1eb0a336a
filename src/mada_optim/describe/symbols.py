"""LaTeX letters for names in code, with the step as a subscript."""

import re

GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega"
).split()
ABBREVIATED = {"eps": "epsilon", "lam": "lambda"}
ACCENTS = ("hat", "bar", "tilde")
LETTER = re.compile(rf"({'|'.join((*GREEK, *ABBREVIATED))}|[A-Za-z])({'|'.join(ACCENTS)})?(\d*)")


def symbol(name: str) -> str:
    r"""LaTeX for a name: `vhat` is \hat v, `beta1` \beta_1, `mu_next` \mu^{\text{next}}, and `square` \text{square}."""
    parts = name.strip("_").split("_")
    letters = [match for part in parts if (match := LETTER.fullmatch(part))]
    words = [part for part in parts if not LETTER.fullmatch(part)]
    if len(letters) != 1:
        return rf"\text{{{' '.join(parts)}}}"
    above = rf"^{{\text{{{' '.join(words)}}}}}" if words else ""
    return _letter(*letters[0].groups()) + above


def _letter(base: str, accent: str | None, number: str) -> str:
    base = ABBREVIATED.get(base, base)
    base = rf"\{base}" if base in GREEK else base
    below = f"_{number if len(number) == 1 else f'{{{number}}}'}" if number else ""
    return (rf"\{accent} {base}" if accent else base) + below


def at(letter: str, when: str) -> str:
    """`letter` with the step `when` as a subscript; in a letter with the subscript t-1, the step replaces it."""
    if "t-1" in letter:
        return letter if when == "t-1" else letter.replace("{t-1}", "t").replace("t-1", "t")
    if match := re.fullmatch(r"(.*)_(\w|\{[^{}]*\})(\^\{.*\})?", letter):
        base, below, above = match.groups(default="")
        return f"{base}_{{{below.strip('{}')},{when}}}{above}"
    return f"{letter}_{when}" if len(when) == 1 else f"{letter}_{{{when}}}"
