/* Registers of loongarch64 as a thread parks with them. */
#ifndef CPU_H
#define CPU_H

/* Offsets into struct regs, for park.S. */
#define R_R 0
#define R_PC 256
#define R_READY 264
#define R_FCSR 272
#define R_FCC 280
#define R_F 288

#ifndef __ASSEMBLER__
/* Loaded by a parking function; tp, sp, r21, pc and ready are stored by it. fcc: a bit a condition flag. */
struct regs {
	u64 r[32], pc, ready, fcsr, fcc;
	u64 f[32];
};

_Static_assert(offsetof(struct regs, ready) == R_READY, "park.S");
_Static_assert(offsetof(struct regs, f) == R_F, "park.S");
#endif
#endif
