"""The command line: `covey`."""

import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 after a user's mistake, 130 after Ctrl-C or SIGTERM.

    A mistake is one line on standard error.
    """
    from covey.cli.parser import make_parser
    from covey.cli.tables import say
    from covey.parts.errors import CoveyError
    from covey.runtime.interruption import handled

    parsed = make_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings(), handled(signal.default_int_handler, (signal.SIGTERM,)):
            warnings.showwarning = _show_warning
            code: int = parsed.command(parsed)
    except CoveyError as error:
        say(f"covey: {_short(str(error))}".replace("\n", " "), file=sys.stderr)
        return 2
    except MemoryError as error:
        say(f"covey: there is not enough memory. {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("covey: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has closed it, as `| head` does.
        sys.stderr.close()
        return 0
    return code


_LONGEST = 2000


def _short(text: str) -> str:
    """A message, without its middle if it is long."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST * 3 // 4]} ... {text[-_LONGEST // 4 :]}"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show covey's own warnings in one line, and others as Python does."""
    from covey.cli.tables import say
    from covey.parts.errors import ConfigurationWarning

    if issubclass(category, ConfigurationWarning):
        say(f"covey: warning: {_short(str(message))}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
