"""The language of docstrings and comments: a noun or a verb first, and the field's own words."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import covey
from covey.parts import kinds
from covey.parts.parameters import Part, fields_of

OPENINGS = {
    "What": "a noun: 'The entries of a message', not 'What a message says'",
    "Who": "the noun: 'The nodes that send', not 'Who sends'",
    "Whom": "the noun: 'The senders of the node', not 'Whom the node hears'",
    "Whose": "the noun: 'The senders of messages', not 'Whose messages'",
    "Where": "'The path' or 'The indices', not 'Where it lies'",
    "How": "'The number of nodes', not 'How many nodes'",
    "Of what": "the noun",
    "Of which": "the noun",
    "Of whom": "the noun",
    "On what": "the noun: 'The agreement on the sum', not 'On what they agree'",
    "By what": "the noun: 'The digest by which', not 'By what'",
    "To whom": "'The receivers'",
}
"""The banned first words of a docstring, and what to write instead. Comments may begin with 'Where' and 'How'."""
PHRASES = {
    "in vain": "the outcome: 'without an answer', 'without effect'",
    "gone on with": "'continued' or 'resumed'",
    "is told": "'receives', or the message that is sent",
    "are told": "'receive', or the message that is sent",
    "was told": "'has received'",
    "were told": "'have received'",
    "told anew": "'sent anew'",
    "has heard": "'has received'",
    "not heard": "'not received', or 'lacks'",
    "nobody counts": "'no node counts', or 'is not counted'",
    "had again": "'restored' or 'repeated'",
}
"""The banned phrases of docstrings and comments, and what to write instead."""
_OPENING = re.compile(rf"\W*({'|'.join(OPENINGS)})\b")
_IN_COMMENTS = re.compile(rf"\W*({'|'.join(OPENINGS.keys() - {'Where', 'How'})})\b")
_PHRASE = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
_WORD = re.compile(r"\b(told|heard|nobody|whom)\b", re.IGNORECASE)
"""The words that are neither in messages nor in names of covey's own code."""
_JOIN = re.compile(r"""["']\s+f?["']""")
"""Matches between the parts of a string that goes over several lines."""
_PARAMETER = re.compile(r"(The|A|An|Whether) .+\.")
_ARGUMENT = re.compile(r"^ +\w+(?:, \w+)*: (how|what|where|when|why|who|whom|which)\b", re.MULTILINE)
"""Matches an argument or attribute in a docstring whose text is a question, not a noun."""
_SUSPECT = re.compile(rf"""^\s*[rR]?["'#]\W*({"|".join(OPENINGS)})\b|#\W*({"|".join(OPENINGS)})\b""", re.MULTILINE)
"""Matches every module with a banned opening, and some others: it spares the reading of most."""


def texts(source: str) -> list[tuple[int, str, re.Pattern[str]]]:
    """The docstrings, attribute docstrings and comments of a module, with their lines and the openings they must not have.

    Comments on lines of their own that follow each other are one text.
    """
    found = [
        (node.lineno, node.value.value, _OPENING)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    comments: list[tuple[int, str]] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline) if "#" in source else ():
        if token.type == tokenize.COMMENT:
            line, alone = token.start[0], token.line.lstrip().startswith("#")
            if alone and comments and last == line - 1:
                first, text = comments[-1]
                comments[-1] = first, f"{text} {token.string.lstrip('# ')}"
            else:
                comments.append((line, token.string))
            last = line if alone else 0
    return found + [(line, text, _IN_COMMENTS) for line, text in comments]


def faults(source: str, name: str) -> list[str]:
    """The banned openings and phrases of a module, each with its line and what to write instead."""
    if (
        not _SUSPECT.search(source)
        and not _ARGUMENT.search(source)
        and not _PHRASE.search(" ".join(source.replace("#", " ").split()))
    ):
        return []
    found = []
    for line, text, opening in texts(source):
        if begins := opening.match(text):
            word = begins[1]
            found.append(f"{name}:{line}: begins with {word!r}; write {OPENINGS[word]}")
        asked = _ARGUMENT.findall(text) if opening is _OPENING else []
        found += [f"{name}:{line}: has an argument that begins with {word!r}; write a noun" for word in asked]
        phrases = _PHRASE.findall(" ".join(text.split()))
        found += [f"{name}:{line}: has {phrase!r}; write {PHRASES[phrase.lower()]}" for phrase in phrases]
    return found


def test_docstrings_and_comments_use_the_words_of_the_field():
    root = Path(__file__).parent.parent
    others = ("tests", "examples", "bench", "fuzz", "native", "experiments")
    folders = [Path(covey.__file__).parent, *(root / name for name in others)]
    wrong = [
        fault
        for folder in folders
        for file in sorted(folder.rglob("*.py"))
        if file != Path(__file__)
        for fault in faults(file.read_text(encoding="utf-8"), f"{folder.name}/{file.relative_to(folder)}")
    ]
    assert not wrong, "\n".join(wrong)


def test_messages_use_the_words_of_the_field():
    root = Path(covey.__file__).parent
    for file in root.rglob("*.py"):
        joined = _JOIN.sub("", file.read_text(encoding="utf-8"))
        assert not _PHRASE.search(" ".join(joined.split())), file
        assert not _WORD.search(joined), file


def derived(cls: type[Part]) -> Iterator[type[Part]]:
    """The classes below a class of parts."""
    for below in cls.__subclasses__():
        yield below
        yield from derived(below)


def test_the_text_of_a_parameter_is_a_noun_phrase():
    for family, known in kinds.built_in().items():
        for kind in known:
            kinds.load(family, kind)
    declared = {
        (cls.__qualname__, name): limits.doc
        for cls in derived(Part)
        if cls.kind and cls.__module__.startswith("covey.") and "<locals>" not in cls.__qualname__
        for name, (_, limits) in fields_of(cls).items()
    }
    wrong = {key: text for key, text in declared.items() if not _PARAMETER.fullmatch(text) or _PHRASE.search(text)}
    assert not wrong
    assert len(declared) > 300


def test_planted_faults_are_found():
    source = '''"""How it works."""
# Who sends all
# is told at once.
x = 1  # What it is.
"""Where it lies, which nobody
counts."""


def f():
    r"""Whose it is.

    Args:
        size: how large it is.
    """
    # Where it is large, a copy is cheaper.
    return "# What is no comment, in vain"
'''
    found = [fault.split("; write")[0] for fault in faults(source, "m")]
    assert sorted(found) == [
        "m:10: begins with 'Whose'",
        "m:10: has an argument that begins with 'how'",
        "m:1: begins with 'How'",
        "m:2: begins with 'Who'",
        "m:2: has 'is told'",
        "m:4: begins with 'What'",
        "m:5: begins with 'Where'",
        "m:5: has 'nobody counts'",
    ]


def test_plain_words_are_no_faults():
    source = (
        '"""The nodes that send, where the graph is known. Whatever follows is one sentence."""\n# Whether it is so.\n'
    )
    assert faults(source, "m") == []
