"""Text from files and other processes, as it may be shown."""


def shown(line: str) -> str:
    """A line without what is no letter: on a terminal that might be an order."""
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)
