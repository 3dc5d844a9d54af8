"""Robust federated inference: rules that combine the answers of clients, some of which lie, and attacks on them.

    from covey.federated.robust_inference.suite import evaluate

`suite` attacks rules on stored outputs; `program` answers queries of a run. `answers` checks rows, `order` has the
means, `static_rules`, `learned_rules` and `purification` the rules, `attacks` the lies, `certificates` the margins.
"""
