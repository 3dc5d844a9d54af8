"""The command line: `covey`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error and exit code 2."""
    from covey.cli.parser import make_parser
    from covey.errors import CoveyError

    parsed = make_parser().parse_args(arguments)
    try:
        code: int = parsed.command(parsed)
    except CoveyError as error:
        print("covey:", str(error).replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("covey: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone, as `| head` does.
        sys.stderr.close()
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
