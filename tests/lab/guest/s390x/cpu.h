/* Registers of s390x as a thread parks with them. */
#ifndef CPU_H
#define CPU_H

/* Offsets into struct regs, for park.S. */
#define R_R 0
#define R_PC 128
#define R_CC 136
#define R_READY 144
#define R_FPC 152
#define R_F 160

#ifndef __ASSEMBLER__
/* Loaded by a parking function; r[15], pc and ready are stored by it. cc: as SPM takes it. */
struct regs {
	u64 r[16], pc, cc, ready, fpc;
	u64 f[16];
};

_Static_assert(offsetof(struct regs, ready) == R_READY, "park.S");
_Static_assert(offsetof(struct regs, f) == R_F, "park.S");
#endif
#endif
