"""Privacy: the accounting of noise, and attacks on what nodes send."""

KINDS = {
    "attack": {
        "membership-loss": "covey.privacy.attacks.membership:MembershipLoss",
        "membership-lira": "covey.privacy.attacks.lira:MembershipLiRA",
        "membership-series": "covey.privacy.attacks.series:MembershipSeries",
        "inversion": "covey.privacy.attacks.inversion:Inversion",
        "linkability": "covey.privacy.attacks.linkability:Linkability",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
