"""Run the example for a browser, with two workers, until Ctrl-C. ``serve.py 8000`` chooses the port."""

from __future__ import annotations

import signal
import sys

from workers import HOST, directory, end_on_sigterm, lines, workers

PORT = 5014


def main(arguments: list[str]) -> int:
    """Serve; return the exit code."""
    end_on_sigterm()
    port = int(arguments[0]) if arguments else PORT
    try:
        with directory() as place, workers(place, cached=True, port=port) as port:
            with lines(port) as (line, _):
                line.ask("POST", "/init_db/")
            print(f"Open http://{HOST}:{port}/ (Ctrl-C ends it and deletes its database)", flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"Port {port} cannot be used: {error}. Choose another: serve.py 8000", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
