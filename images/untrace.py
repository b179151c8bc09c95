#!/usr/bin/env python3
"""Takes the function tracer's calls out of a kernel module: each `call __fentry__` becomes the no-operation that the kernel would make of it.

Loading a module, the kernel looks up the name of every function that could be traced in the list of all names, and does so before it can
patch the call away. Without calls to patch there is nothing to look up. Then `__mcount_loc`, the list of them, has nothing to list: remove it.
Usage: untrace.py MODULE"""

import struct, sys

SHT_SYMTAB, SHT_RELA, SHF_EXECINSTR = 2, 4, 4
PC32 = {2, 4}  # R_X86_64_PC32, R_X86_64_PLT32; 0 is R_X86_64_NONE
CALL, NOP5 = 0xE8, bytes.fromhex("0f1f440000")


def untrace(elf):
    head, count = struct.unpack_from("<Q", elf, 40)[0], struct.unpack_from("<H", elf, 60)[0]
    # name, type, flags, address, offset, size, link, info, align, entry size
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, head + n * 64) for n in range(count)]
    symbols = next(s for s in sections if s[1] == SHT_SYMTAB)
    names = sections[symbols[6]][4]
    name = lambda n: bytes(elf[names + n:elf.index(b"\0", names + n)])
    traced = {n for n in range(symbols[5] // 24) if name(struct.unpack_from("<I", elf, symbols[4] + n * 24)[0]) == b"__fentry__"}
    for section in sections:
        if section[1] != SHT_RELA or not sections[section[7]][2] & SHF_EXECINSTR:
            continue
        for at in range(section[4], section[4] + section[5], 24):
            where, info = struct.unpack_from("<QQ", elf, at)
            call = sections[section[7]][4] + where - 1
            if info >> 32 in traced and info & 0xFFFFFFFF in PC32 and elf[call] == CALL:
                elf[call:call + 5] = NOP5
                struct.pack_into("<Q", elf, at + 8, 0)


def main(path):
    with open(path, "r+b") as file:
        elf = bytearray(file.read())
        if elf[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", elf, 16) != (1, 62):
            sys.exit(f"untrace.py: {path} is no module for x86-64")
        untrace(elf)
        file.seek(0)
        file.write(elf)


main(*sys.argv[1:])
