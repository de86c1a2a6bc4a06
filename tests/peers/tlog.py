"""Judges checkpoints, records and proofs of a trail by aics-tlog, a verifier of C2SP's transparency logs that others wrote.

Reads one JSON object from standard input and writes another: what it accepts, and what it does not.
"""

import base64
import json
import sys

import aics_tlog as tlog


def judged(judge):
    # What is not even of the form is not accepted either.
    try:
        return bool(judge())
    except ValueError:
        return False


def checkpoint(text, key):
    note = tlog.parse_note(text)
    if not tlog.verify_checkpoint(note, key).log_ok:
        raise ValueError("not signed")
    return tlog.parse_checkpoint(note.text)


def hashes(proof):
    return [base64.b64decode(text, validate=True) for text in proof]


def main():
    asked = json.load(sys.stdin)
    key = tlog.parse_vkey(asked["key"])
    old, new = asked["old"], asked["new"]

    def included(record):
        head = checkpoint(new, key)
        leaf = record["json"].encode()
        return tlog.verify_leaf_inclusion(leaf, record["seq"], head.size, hashes(record["proof"]), head.root)

    def consistent():
        before, after = checkpoint(old, key), checkpoint(new, key)
        return tlog.verify_consistency(before.size, after.size, before.root, after.root, hashes(asked["consistency"]))

    json.dump(
        {
            "old": judged(lambda: checkpoint(old, key)),
            "new": judged(lambda: checkpoint(new, key)),
            "included": [judged(lambda: included(record)) for record in asked["records"]],
            "consistent": judged(consistent),
        },
        sys.stdout,
    )


main()
