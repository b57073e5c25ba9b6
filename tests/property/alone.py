"""A test in an interpreter of its own: what other tests have left in this one would change what it sees."""

import functools
import os
import subprocess
import sys

INSIDE = "VITLITE_TEST_ALONE"


def alone(test):
    """Run a test by a pytest of its own: torch's threads do not survive a fork, and others' memory is not its own."""
    @functools.wraps(test)
    def outside(**given):
        if os.environ.get(INSIDE):
            return test(**given)
        node = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", node]
        run = subprocess.run(command, env={**os.environ, INSIDE: "1"}, capture_output=True, encoding="utf-8")
        assert run.returncode == 0, run.stdout
        return None
    return outside
