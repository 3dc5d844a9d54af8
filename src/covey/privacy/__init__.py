"""Privacy: the accounting of noise, mechanisms, attacks on what nodes send, and semantic clustering."""

KINDS = {
    "program": {"semantic-clustering": "covey.privacy.clustering.semantic:SemanticClustering"},
    "profiles": {
        "communities": "covey.privacy.clustering.profiles:Communities",
        "movielens-100k": "covey.privacy.clustering.profiles:MovieLens",
        "files": "covey.privacy.clustering.profiles:OwnFiles",
    },
    "privacy-levels": {
        "homogeneous": "covey.privacy.clustering.levels:Homogeneous",
        "groups": "covey.privacy.clustering.levels:Groups",
        "per-item": "covey.privacy.clustering.levels:PerItem",
        "files": "covey.privacy.clustering.levels:OwnLevels",
    },
    "attack": {
        "membership-loss": "covey.privacy.attacks.membership:MembershipLoss",
        "membership-lira": "covey.privacy.attacks.lira:MembershipLiRA",
        "membership-series": "covey.privacy.attacks.series:MembershipSeries",
        "inversion": "covey.privacy.attacks.inversion:Inversion",
        "linkability": "covey.privacy.attacks.linkability:Linkability",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
