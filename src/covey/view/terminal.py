"""Text from files and other processes, made safe for a terminal."""


def shown(line: str) -> str:
    """The line with control characters escaped."""
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)
