"""Says of each query what it asks for: metrics with the labels they are chosen by, and the labels it groups and joins by.

Queries come in as a JSON list, and what is said of them goes out likewise.
"""

import json
import sys

import promql_parser as promql


def asked(query):
    selectors, labels = [], set()

    def visit(node):
        if isinstance(node, promql.VectorSelector):
            matchers = node.matchers.matchers
            chosen = [{"label": m.name, "is": m.op in (promql.MatchOp.Equal, promql.MatchOp.Re), "value": m.value} for m in matchers]
            selectors.append({"metric": node.name, "chosen": chosen})
        elif isinstance(node, promql.AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier:
            labels.update(node.modifier.group_labels or [])
            if node.modifier.matching:
                labels.update(node.modifier.matching.labels)

    promql.walk(promql.parse(query), visit)
    return {"selectors": selectors, "labels": sorted(labels)}


json.dump([asked(query) for query in json.load(sys.stdin)], sys.stdout)
