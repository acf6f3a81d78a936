"""A small assembler for classic BPF: system-call filters and socket filters (linux/bpf_common.h, linux/filter.h)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Code", "Op", "assemble"]

LOAD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30  # BPF_LD | W, H, B | ABS
LOAD_BYTE_BEHIND, HEADER_LENGTH = (
    0x50,
    0xB1,
)  # BPF_LD | B | IND: at X + k; BPF_LDX | B | MSH: X = length of the IPv4 header at k
AND, RETURN = 0x54, 0x06  # BPF_ALU | AND | K, BPF_RET | K
JUMP, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT = 0x05, 0x15, 0x35, 0x45  # BPF_JMP | JA, JEQ, JGE, JSET | K


class Op(NamedTuple):
    """One instruction; `yes` and `no` are labels, "" is the next instruction."""

    code: int
    k: int = 0
    yes: str = ""
    no: str = ""


# A label is a string between instructions.
Code = Sequence["str | Op"]


def assemble(code: Code) -> bytes:
    """An array of struct sock_filter. Jumps go forward only; conditional ones reach 255 instructions."""
    places: dict[str, int] = {}
    ops: list[Op] = []
    for item in code:
        if isinstance(item, str):
            places[item] = len(ops)
        else:
            ops.append(item)
    program = bytearray()
    for here, op in enumerate(ops):
        yes, no = (places[label] - here - 1 if label else 0 for label in (op.yes, op.no))
        if op.code == JUMP:
            program += struct.pack("=HBBI", op.code, 0, 0, yes)
        else:
            program += struct.pack("=HBBI", op.code, yes, no, op.k)
    return bytes(program)
