"""A command line with known faults, for the test that the fuzzer finds them: `main([FAULT])`."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def main(args: Sequence[str]) -> int:
    """Do what the first argument says."""
    match args[0]:
        case "succeed":
            print("done")
            return 0
        case "refuse":
            return _refuse()
        case "raise":
            raise ValueError("a mistake")
        case "exit":
            sys.exit("a message")
        case "hang":
            time.sleep(60)
        case "allocate":
            held = bytearray(2_200_000_000)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(60)
        case "die":
            os.abort()
        case "print a traceback":
            print("Traceback (most recent call last):\n  ...\nValueError: a mistake", file=sys.stderr)
            return 0
        case "print two lines":
            print("jaxcnn: one\ntwo", file=sys.stderr)
            return 2
        case "say nothing":
            print("jaxcnn: ; see jaxcnn --help", file=sys.stderr)
            return 2
        case "return 3":
            return 3
        case "leave a part":
            Path("result.json.part").write_text("{")
            return 0
        case "write and refuse":
            Path("result.json").write_text("{}")
            return _refuse()
        case "change and refuse":
            Path("net.py").write_text("")
            return _refuse()
        case "reach a network":
            import urllib.request

            urllib.request.urlopen("http://example.com", timeout=60)
    return 0


def _refuse() -> int:
    print("jaxcnn: refused", file=sys.stderr)
    return 2
