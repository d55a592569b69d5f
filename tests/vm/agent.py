"""The host's hand in the virtual machine: takes a shell command a line (JSON), runs it as root, answers with a line.

Runs there with the system's Python, as a service of systemd. A command's processes are its own: they may go on when it has ended.
"""

import json
import os
import subprocess

PORT = "/dev/virtio-ports/agent"


def run(request: dict[str, object]) -> dict[str, object]:
    """One command: its status and what it wrote, or that it took too long."""
    with open("/run/vm-out", "w+b") as out, open("/run/vm-err", "w+b") as err:
        process = subprocess.Popen(
            ["/bin/bash", "-c", str(request["command"])],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd="/",
        )
        try:
            status = process.wait(float(str(request["seconds"])))
        except subprocess.TimeoutExpired:
            process.kill()
            status = -1
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return {"status": status, "out": texts[0], "err": texts[1]}


def serve() -> None:
    """Answer until the machine ends."""
    port = os.open(PORT, os.O_RDWR | os.O_CLOEXEC)
    os.write(port, b'{"ready": true}\n')
    data = b""
    while True:
        while b"\n" not in data:
            chunk = os.read(port, 65536)
            if not chunk:
                return  # nobody is at the other end; systemd starts us again
            data += chunk
        line, _, data = data.partition(b"\n")
        answer = json.dumps(run(json.loads(line))).encode() + b"\n"
        while answer:
            answer = answer[os.write(port, answer) :]


if __name__ == "__main__":
    serve()
