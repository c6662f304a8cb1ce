/* Registers of ppc64le as a thread parks with them. */
#ifndef CPU_H
#define CPU_H

/* Offsets into struct regs, for park.S. */
#define R_R 0
#define R_PC 256
#define R_LR 264
#define R_CTR 272
#define R_XER 280
#define R_CR 288
#define R_READY 296
#define R_FPSCR 304
#define R_VRSAVE 312
#define R_VS 320

#ifndef __ASSEMBLER__
/* The number that has the name is a call of other arguments, for old programs. */
#include <sys/syscall.h>
#undef SYS_select
#define SYS_select SYS__newselect

/* Loaded by a parking function; r[1], r[13], pc and ready are stored by it. vs: each register's first doubleword first. */
struct regs {
	u64 r[32], pc, lr, ctr, xer, cr, ready, fpscr, vrsave;
	u64 vs[128];
};

_Static_assert(offsetof(struct regs, ready) == R_READY, "park.S");
_Static_assert(offsetof(struct regs, vs) == R_VS, "park.S");
#endif
#endif
