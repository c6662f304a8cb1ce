/* Registers of 32-bit ARM as a thread parks with them. */
#ifndef CPU_H
#define CPU_H

/* Offsets into struct regs, for park.S. */
#define R_R 0
#define R_CPSR 64
#define R_READY 68
#define R_FPSCR 72
#define R_D 80

#ifndef __ASSEMBLER__
/* Loaded by a parking function; sp, pc and ready are stored by it. */
struct regs {
	uint32_t r[16], cpsr, ready, fpscr, pad;
	u64 d[32];
};

_Static_assert(offsetof(struct regs, cpsr) == R_CPSR, "park.S");
_Static_assert(offsetof(struct regs, d) == R_D, "park.S");
#endif
#endif
