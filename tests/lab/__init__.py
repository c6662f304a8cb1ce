"""The lab: real dumps of real kernels, with the truth about what they hold."""
