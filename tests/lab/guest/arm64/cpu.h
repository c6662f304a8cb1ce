/* Registers of arm64 as a thread parks with them. */
#ifndef CPU_H
#define CPU_H

/* Offsets into struct regs, for park.S. */
#define R_X 0
#define R_SP 248
#define R_PC 256
#define R_NZCV 264
#define R_READY 272
#define R_FPSR 280
#define R_FPCR 288
#define R_V 304

#ifndef __ASSEMBLER__
/* Loaded by a parking function; sp, pc and ready are stored by it. */
struct regs {
	u64 x[31], sp, pc, nzcv, ready, fpsr, fpcr, pad;
	u64 v[64];
};

_Static_assert(offsetof(struct regs, ready) == R_READY, "park.S");
_Static_assert(offsetof(struct regs, v) == R_V, "park.S");
#endif
#endif
