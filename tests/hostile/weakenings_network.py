"""The protections of networks that lead somewhere, as controls take them out."""

from __future__ import annotations

from weakened import Redefine, Replace, weaken

#: Vetting stays: nothing may go to an address of somebody else.
ANY_END = weaken(
    "a list lets everything through",
    Replace("any(end.fits(name, packed, port) for end in self.allow)", "True"),
    Replace(
        'if self.mode == "open":\n            return True\n        if any(',
        "if True:\n            return True\n        if any(",
    ),
    Replace(
        'if self.policy.mode == "open":\n            for family, address in EVERYWHERE',
        'if self.policy.mode != "locked":\n            for family, address in EVERYWHERE',
    ),
)
NOT_VETTED = weaken("addresses not vetted", Redefine("refusal", "def refusal(address, listed):\n    return 0"))
NO_TLS_CHECK = weaken("the name in TLS not compared", Replace("check=bool(name)", "check=False"))
HANDSHAKES_ONLY = weaken("TLS told by a handshake record only", Redefine("_OTHER_STARTS", "_OTHER_STARTS = ()"))
NOT_REVIEWED = weaken("connections outlast their policy", Replace("passage.review(policy)", "pass"))
ENDS_NOT_SEEN = weaken(
    "an end within a ClientHello not seen",
    Replace("if size < self._awaited or wanted > hello.LONGEST:", "if wanted > hello.LONGEST:"),
)
HOPPER_UNGUARDED = weaken(
    "dead lives may ask for sockets",
    Replace("self.usable = error.errno not in _GONE", "self.usable = False"),
    Replace(
        'what is connected sees a reset."""\n        self.policy = LOCKED\n', 'what is connected sees a reset."""\n'
    ),
)
NO_SHARES = weaken(
    "no share of the dialler for each",
    Replace("self._under_way < _UNDER_WAY", "True"),
    # So that a sandbox has enough connections to take them all.
    Replace("an eighth of that (outside.py).\n_MOST = 256", "\n_MOST = 64"),
)
LISTENERS_STAY = weaken(
    "listeners outlast their policy",
    Replace('if place not in wanted or hole != (wanted[place].connect == "black_hole"):', "if False:"),
)
NAMES_UNBOUNDED = weaken(
    "names of a sandbox not bounded", Replace("if len(self._addresses) >= _MOST_NAMES:", "if False:")
)
PASSAGES_UNBOUNDED = weaken(
    "connections of a sandbox not bounded", Replace("if len(self._passages) >= _MOST_PASSAGES:", "if False:")
)
LONG_QUESTIONS = weaken("questions of any length", Replace("if length > _LONGEST_QUERY:", "if False:"))
