/* Parking functions: load every register with the values of struct regs (x0), then enter the kernel for good.
 * Each one has call frame information, so a debugger walks from it to its caller. */
#define __ASSEMBLER__ 1
#include "lab.h"
#include <sys/syscall.h>

.macro save_pair a, b, at
	stp x\a, x\b, [sp, #\at]
	.cfi_offset \a, \at - 96
	.cfi_offset \b, \at + 8 - 96
.endm

.macro restore_pair a, b, at
	ldp x\a, x\b, [sp, #\at]
	.cfi_restore \a
	.cfi_restore \b
.endm

.macro load_v n
	ldr q\n, [x0, #R_V + 16 * \n]
.endm

.macro load_x n
	ldr x\n, [x0, #R_X + 8 * \n]
.endm

/* Label 9 is where the thread's pc will be seen. */
.macro enter name
	.globl \name
	.type \name, %function
	.p2align 4
\name:
	.cfi_startproc
	hint #34 /* bti c */
	sub sp, sp, #96
	.cfi_def_cfa_offset 96
	save_pair 29, 30, 0
	save_pair 19, 20, 16
	save_pair 21, 22, 32
	save_pair 23, 24, 48
	save_pair 25, 26, 64
	save_pair 27, 28, 80
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	load_v \n
	.endr
	ldr x1, [x0, #R_FPSR]
	msr fpsr, x1
	ldr x1, [x0, #R_FPCR]
	msr fpcr, x1
	ldr x1, [x0, #R_NZCV]
	msr nzcv, x1
	/* From here on only moves: the flags stay. */
	mov x1, sp
	str x1, [x0, #R_SP]
	adr x1, 9f
	str x1, [x0, #R_PC]
	mov x1, #1
	str x1, [x0, #R_READY]
	.irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
	load_x \n
	.endr
	ldr x0, [x0, #R_X]
.endm

.macro leave_to_caller name
	restore_pair 27, 28, 80
	restore_pair 25, 26, 64
	restore_pair 23, 24, 48
	restore_pair 21, 22, 32
	restore_pair 19, 20, 16
	restore_pair 29, 30, 0
	add sp, sp, #96
	.cfi_def_cfa_offset 0
	ret
	.cfi_endproc
	.size \name, . - \name
.endm

.macro park_syscall name
	enter \name
	svc #0
9:
	leave_to_caller \name
.endm

	.text
	.irp name, futex, read, poll, epoll, nanosleep, pause, sigsuspend, select, accept, recv, msgrcv, raise, handler, stop
	park_syscall park_\name
	.endr

/* The child of vfork shares this stack: it only waits, so the parent stays in the kernel. */
	enter park_vfork
	svc #0
9:
	cbnz x0, 4f
3:
	mov x0, #0
	mov x1, #0
	mov x2, #0
	mov x3, #0
	mov x8, #SYS_ppoll
	svc #0
	.globl park_vfork_child_pc
park_vfork_child_pc:
	b 3b
4:
	leave_to_caller park_vfork

	enter park_fault
9:
	ldr x1, [x0]
	leave_to_caller park_fault

	enter park_spin
9:
	b 9b
	leave_to_caller park_spin

	.section .note.GNU-stack, "", %progbits
