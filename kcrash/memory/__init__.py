"""Address spaces: physical memory, the kernel's, and one for each user process."""
