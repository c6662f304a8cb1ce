"""What the structures of a Linux kernel mean.

Helpers here take a Session, yield values and never print. They ask whether a
member, type or symbol exists, newest form first, and cite the kernel commit
that changed it; they never compare version numbers.
"""
