/* Registers of riscv64 as a thread parks with them. */
#ifndef CPU_H
#define CPU_H

/* Offsets into struct regs, for park.S. */
#define R_X 0
#define R_PC 256
#define R_READY 264
#define R_FCSR 272
#define R_F 288

#ifndef __ASSEMBLER__
/* Loaded by a parking function; sp, gp, tp, pc and ready are stored by it. */
struct regs {
	u64 x[32], pc, ready, fcsr, pad;
	u64 f[32];
};

_Static_assert(offsetof(struct regs, ready) == R_READY, "park.S");
_Static_assert(offsetof(struct regs, f) == R_F, "park.S");
#endif
#endif
