"""Files in general: compressed ones, and the folder where their unpacked form is kept."""
