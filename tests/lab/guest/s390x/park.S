/* Parking functions: load every register with the values of struct regs (r2), then enter the kernel for good.
 * Each one has call frame information, so a debugger walks from it to its caller. */
#define __ASSEMBLER__ 1
#include "lab.h"
#include <sys/syscall.h>

.macro load_f n
	ld %f\n, R_F + 8 * \n(%r2)
.endm

/* Label 9 is where the thread's pc will be seen. */
.macro enter name
	.globl \name
	.type \name, @function
	.balign 8
\name:
	.cfi_startproc
	stmg %r6, %r15, 48(%r15)
	.cfi_offset 6, -112
	.cfi_offset 7, -104
	.cfi_offset 8, -96
	.cfi_offset 9, -88
	.cfi_offset 10, -80
	.cfi_offset 11, -72
	.cfi_offset 12, -64
	.cfi_offset 13, -56
	.cfi_offset 14, -48
	.cfi_offset 15, -40
	aghi %r15, -160
	.cfi_def_cfa_offset 320
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	load_f \n
	.endr
	lfpc R_FPC(%r2)
	lg %r1, R_CC(%r2)
	spm %r1
	/* From here on only moves: the condition code stays. */
	stg %r15, R_R + 120(%r2)
	larl %r1, 9f
	stg %r1, R_PC(%r2)
	lghi %r1, 1
	stg %r1, R_READY(%r2)
	lmg %r3, %r14, R_R + 24(%r2)
	lg %r0, R_R(%r2)
	lg %r1, R_R + 8(%r2)
	lg %r2, R_R + 16(%r2)
.endm

.macro leave_to_caller name
	lmg %r6, %r15, 208(%r15)
	.cfi_def_cfa_offset 160
	br %r14
	.cfi_endproc
	.size \name, . - \name
.endm

.macro park_syscall name
	enter \name
	svc 0
9:
	leave_to_caller \name
.endm

	.text
	.irp name, futex, read, poll, epoll, nanosleep, pause, sigsuspend, select, accept, recv, msgrcv, raise, handler, stop
	park_syscall park_\name
	.endr

/* The child of vfork shares this stack: it only waits, so the parent stays in the kernel. */
	enter park_vfork
	svc 0
9:
	ltgr %r2, %r2
	jnz 4f
3:
	lghi %r1, SYS_pause
	svc 0
	.globl park_vfork_child_pc
park_vfork_child_pc:
	j 3b
4:
	leave_to_caller park_vfork

	enter park_fault
9:
	lg %r3, 0(%r2)
	leave_to_caller park_fault

	enter park_spin
9:
	j 9b
	leave_to_caller park_spin

	.section .note.GNU-stack, "", @progbits
