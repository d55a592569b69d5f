"""Talks with commands that run: over pipes, and at a terminal of the command's own."""

import asyncio

from dkrctl.client import PIPE, Client


async def over_pipes(dkr: Client) -> None:
    """Nothing stands between this process and the command: these are the ends of the command's own pipes."""
    async with dkr.run("/bin/sed", "-u", "s/a/A/g", stdin=PIPE, stdout=PIPE, rm=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in ("banana", "papaya"):
            process.stdin.write(f"{word}\n".encode())
            print((await process.stdout.readline()).decode().strip())
        process.stdin.close()
        print("status", (await process.wait()).code)


async def at_a_terminal(dkr: Client) -> None:
    """What a person would see."""
    line = 'read word; echo "$word in $(stty size)"; exit 3'
    async with dkr.run("/bin/sh", "-c", line, terminal=True, size=(24, 80), rm=True) as process:
        assert process.terminal is not None
        await process.terminal.write(b"typed\r")
        shown = b""
        while data := await process.terminal.read():
            shown += data
        print(shown.decode().splitlines())  # what is typed is echoed by the terminal
        print("status", (await process.wait()).code)


async def main() -> None:
    """Both."""
    async with Client() as dkr:
        await over_pipes(dkr)
        await at_a_terminal(dkr)


asyncio.run(main())

# It prints:
# > bAnAnA
# > pApAyA
# > status 0
# > ['typed', 'typed in 24 80']
# > status 3
