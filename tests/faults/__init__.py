"""The fault suite: what must hold while processes are killed, disks fail, lines break and clocks jump."""
