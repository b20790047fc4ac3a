#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""From results.tsv of a run: junit.xml, summary.txt, and whether it is as the lists have it.

Three classes: 'pass'; 'not run', with the test's own reason; 'kernel FUSE cannot', which fails, is in
kernel-fuse-cannot.list with the kernel's reason, and also fails on the reference server.
"""
import argparse
import collections
import os
import re
import sys
import xml.etree.ElementTree as xml


def read_list(path):
    """{test: reason}."""
    entries = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            for line in file:
                line = line.split("#")[0].strip()
                if line:
                    test, _, reason = line.partition(" ")
                    entries[test] = reason.strip()
    return entries


def read_results(path):
    results = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.startswith("#"):
                fields = line.rstrip("\n").split("\t")
                results.append((fields[0], fields[1], float(fields[2]), "\t".join(fields[3:])))
    return results


def without_paths(reason):
    reason = re.sub(r"/\S*/mnt/(test|scratch)", r"\1", reason)
    return re.sub(r"/dev/loop\d+", "DEVICE", reason).strip()


def printable(text):
    return "".join(c if c.isprintable() else "?" for c in text)


def write_junit(path, name, results, cannot):
    counts = collections.Counter(result for _, result, _, _ in results)
    suite = xml.Element("testsuite", name="xfstests." + name, tests=str(len(results)),
                        failures=str(len(results) - counts["pass"] - counts["notrun"]),
                        skipped=str(counts["notrun"]),
                        time="%.1f" % sum(seconds for _, _, seconds, _ in results))
    for test, result, seconds, reason in results:
        case = xml.SubElement(suite, "testcase", classname=name, name=test, time=str(seconds))
        if result == "notrun":
            xml.SubElement(case, "skipped", message=printable(reason))
        elif result != "pass":
            if test in cannot:
                reason = "kernel FUSE cannot: " + cannot[test]
            xml.SubElement(case, "failure", type=result, message=printable(reason))
    xml.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def wrong_results(name, results, must_pass, cannot, strict):
    wrong = []
    on_reference = name == "reference"
    for test, result, _, reason in results:
        failed = result not in ("pass", "notrun")
        if on_reference:
            if test in cannot and not failed:
                wrong.append("%s: is in kernel-fuse-cannot.list, but here: %s" % (test, result))
        elif failed and (test not in cannot or "fuse" not in name and "pbfs" not in name):
            wrong.append("%s: %s: %s" % (test, result, reason))
        elif result == "notrun" and test in must_pass and strict:
            wrong.append("%s: must pass, but is not run: %s" % (test, reason))
    return wrong


def summary(name, results, cannot, wrong):
    lines = []
    counts = collections.Counter(result for _, result, _, _ in results)
    known = sum(1 for test, result, _, _ in results
                if result not in ("pass", "notrun") and test in cannot)
    executed = len(results) - counts["notrun"]
    lines.append("%s: %d tests, %d executed, %d passed, %d failed (%d of them: kernel FUSE cannot), "
                 "%d not run" % (name, len(results), executed, counts["pass"],
                                 executed - counts["pass"], known, counts["notrun"]))
    reasons = collections.Counter(without_paths(reason) for _, result, _, reason in results
                                  if result == "notrun")
    if reasons:
        lines += ["", "not run, by the test's reason:"]
        lines += ["%5d  %s" % (count, reason) for reason, count in reasons.most_common()]
    failed = [r for r in results if r[1] not in ("pass", "notrun")]
    if failed:
        lines += ["", "failed:"]
        lines += ["  %s %s %.0f s: %s" % (test, result, seconds,
                                         "kernel FUSE cannot: " + cannot[test] if test in cannot
                                         else without_paths(reason))
                  for test, result, seconds, reason in failed]
    if wrong:
        lines += ["", "not as the lists have it:"] + ["  " + line for line in wrong]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fs", required=True)
    parser.add_argument("--lists", required=True)
    parser.add_argument("--strict", default="no")
    parser.add_argument("directory")
    options = parser.parse_args()
    results = read_results(os.path.join(options.directory, "results.tsv"))
    must_pass = read_list(os.path.join(options.lists, "must-pass.list"))
    cannot = read_list(os.path.join(options.lists, "kernel-fuse-cannot.list"))
    wrong = wrong_results(options.fs, results, must_pass, cannot, options.strict == "yes")
    write_junit(os.path.join(options.directory, "junit.xml"), options.fs, results, cannot)
    text = summary(options.fs, results, cannot, wrong)
    with open(os.path.join(options.directory, "summary.txt"), "w", encoding="utf-8") as file:
        file.write(text)
    print(text, end="")
    print("results:", options.directory)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
