/* Registers of x86-64 as a thread parks with them. */
#ifndef CPU_H
#define CPU_H

/* Offsets into struct regs, for park.S. */
#define R_RBX 0
#define R_RBP 8
#define R_R8 16
#define R_R9 24
#define R_R10 32
#define R_R12 40
#define R_R13 48
#define R_R14 56
#define R_R15 64
#define R_RDI 72
#define R_RSI 80
#define R_RDX 88
#define R_RCX 96
#define R_R11 104
#define R_RAX 112
#define R_RFLAGS 120
#define R_RSP 128
#define R_RIP 136
#define R_READY 144
#define R_AVX 152
#define R_ST0 160
#define R_MXCSR 168
#define R_FCW 172
#define R_YMM 176

#ifndef __ASSEMBLER__
/* Loaded by a parking function; rsp, rip and ready are stored by it. */
struct regs {
	u64 rbx, rbp, r8, r9, r10, r12, r13, r14, r15, rdi, rsi, rdx, rcx, r11, rax, rflags;
	u64 rsp, rip, ready, avx;
	int64_t st0;
	uint32_t mxcsr;
	uint16_t fcw, pad;
	u64 ymm[64];
};

_Static_assert(offsetof(struct regs, rax) == R_RAX, "park.S");
_Static_assert(offsetof(struct regs, rip) == R_RIP, "park.S");
_Static_assert(offsetof(struct regs, ymm) == R_YMM, "park.S");
#endif
#endif
