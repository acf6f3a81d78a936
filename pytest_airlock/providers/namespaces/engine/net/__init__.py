"""The network of sandboxes: what leads nowhere, who answers there, and what is recorded.

    place.py     a sandbox's own network name space: every address is local, nobody listens; made by its first process
    recorder.py  the socket that hears each try, and what a packet says
    dns.py       questions and answers, bounded
    pings.py     how a ping is refused
    process.py   the one process that holds these sockets of all sandboxes, outside of any
    records.py   what it remembers
    hopper.py    the process that makes sockets in those networks for it
    calls.py     the system calls that the network process may make
    forward.py   a port of the host that leads inside; relay.py carries the bytes
    netlink.py   messages to the kernel

Nothing is routed out of a sandbox: "locked" is the absence of a way, not a rule. Its kernel refuses by itself.
"""
