/* Registers of i386 as a thread parks with them. */
#ifndef CPU_H
#define CPU_H

#include <sys/syscall.h>

/* Number 82 takes its arguments as one struct (sys_old_select()). */
#undef SYS_select

/* Offsets into struct regs, for park.S. */
#define R_EBX 0
#define R_ECX 4
#define R_EDX 8
#define R_ESI 12
#define R_EDI 16
#define R_EBP 20
#define R_EAX 24
#define R_EFLAGS 28
#define R_ESP 32
#define R_EIP 36
#define R_READY 40
#define R_MXCSR 44
#define R_FCW 48
#define R_ST0 56
#define R_XMM 64

#ifndef __ASSEMBLER__
/* Loaded by a parking function; esp, eip and ready are stored by it. */
struct regs {
	uint32_t ebx, ecx, edx, esi, edi, ebp, eax, eflags;
	uint32_t esp, eip, ready, mxcsr;
	uint16_t fcw, pad[3];
	int64_t st0;
	u64 xmm[16];
};

_Static_assert(offsetof(struct regs, eax) == R_EAX, "park.S");
_Static_assert(offsetof(struct regs, ready) == R_READY, "park.S");
_Static_assert(offsetof(struct regs, st0) == R_ST0, "park.S");
_Static_assert(offsetof(struct regs, xmm) == R_XMM, "park.S");
#endif
#endif
