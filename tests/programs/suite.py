"""Runs modules of CPython's own test suite and prints one line a test: how it ended, and its name.

python3 suite.py MODULE [PATTERN_TO_LEAVE_OUT...]
"""
import faulthandler
import fnmatch
import os
import signal
import sys
import tempfile
import time
import unittest

from test import support


class Result(unittest.TestResult):
    def say(self, word, test, detail=None):
        if os.getpid() != first:  # a child that a test forked and forgot
            os._exit(99)
        sys.__stdout__.write(f"{word} {test.id()}\n")
        sys.__stdout__.flush()
        if time.monotonic() - self.started > 1:
            sys.__stderr__.write(f"{time.monotonic() - self.started:.1f} s: {test.id()}\n")
        if detail:
            sys.__stderr__.write(f"--- {word} {test.id()}\n{detail}\n")

    def startTest(self, test):
        faulthandler.dump_traceback_later(200, exit=True)  # one test that hangs ends the run, with its name
        self.started = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):
        self.say("ok", test)

    def addFailure(self, test, err):
        self.say("FAIL", test, self._exc_info_to_string(err, test))

    def addError(self, test, err):
        self.say("ERROR", test, self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        self.say("skip", test, reason)

    def addExpectedFailure(self, test, err):
        self.say("ok", test)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.say("FAIL", test, self._exc_info_to_string(err, test))


def chosen(suite, left_out):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            kept = unittest.TestSuite(chosen(item, left_out))
            if kept.countTestCases():
                yield kept
        elif not any(fnmatch.fnmatchcase(item.id(), pattern) for pattern in left_out):
            yield item


def main():
    module, left_out = sys.argv[1], sys.argv[2:]
    # A shell without job control starts what runs in the background with this ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    support.verbose = False
    support.use_resources = []
    os.chdir(tempfile.mkdtemp())
    suite = unittest.defaultTestLoader.loadTestsFromName(module)
    unittest.TestSuite(chosen(suite, left_out)).run(Result())
    print("end")


if __name__ == "__main__":
    first = os.getpid()
    main()
